import { createHash } from "node:crypto";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { MAX_POLICY_SOURCE_BYTES, POLICY_ENTRYPOINT, POLICY_PACKAGE } from "../../domain/policy-module.ts";
import type { Cancellation } from "../../kernel/cancel.ts";
import { type Clock, systemClock } from "../../kernel/clock.ts";
import type { Log } from "../../kernel/log.ts";
import { packageRoot } from "../../kernel/package-root.ts";
import { type Issue, Problem, requestAborted } from "../../kernel/problem.ts";
import type { CompileResult, PolicyCompiler, PolicyTest, TestResult } from "../../ports/policy.ts";
import { compilerUnavailable, findOpa, type Opa, OPA_MEMORY_MIB, type OpaRun } from "./binary.ts";
import { readPolicyWasm } from "./bundle.ts";
import { checkModule, instantiate } from "./instance.ts";
import { MalformedModule, meter } from "./meter.ts";
import { createTurns } from "../../kernel/turns.ts";

export type PolicyCompilerOptions = {
  /** `OPA_PATH`. */
  readonly opa_path?: string | undefined;
  /** Where `opa` is looked for; the process's PATH if absent. */
  readonly search_path?: string;
  /** The capability list that policies are compiled with; ours if absent. */
  readonly capabilities_path?: string;
  readonly log: Log;
  readonly clock?: Clock;
};

/** One name for all, and no folder before it: it is part of the module, by the messages of its run-time errors. */
const FILE = "policy.rego";
const TESTS = "policy_test.rego";
const BUNDLE = "bundle.tar.gz";
/** Which field of a request each file came from, for the path of an issue. */
const FIELDS: Readonly<Record<string, string>> = { [FILE]: "source", [TESTS]: "tests" };
/** Of one compile, all its runs of OPA together: the longest source that may come takes a third of a second. */
const COMPILE_MS = 5_000;
const TURNS = {
  running_max: 2,
  zone_waiting_max: 8,
  zones_max: 1_024,
  zone_ms_per_minute: 30_000,
  names: {
    waiting: "waiting_compiles",
    seconds: "compile_seconds_per_minute",
    busy: "policy_compiler_unavailable",
  },
} as const;
const MAX_ISSUES = 32;
const MAX_TESTS = 500;
const MAX_MESSAGE = 500;
/** Enough to start a module: what an evaluation may have is the engine's business. */
const CHECK_PAGES = 64;

const issue = (message: string): Issue => ({ path: "source", message });
type Refused = Extract<CompileResult, { readonly ok: false }>;
const refused = (...issues: readonly Issue[]): Refused => ({ ok: false, issues });

const tooDear = (): Refused =>
  refused(issue(`can't be compiled within ${COMPILE_MS / 1_000} s and ${OPA_MEMORY_MIB} MiB: make it simpler`));

/** Runs OPA within what one compile has left. */
type Run = (args: readonly string[]) => Promise<OpaRun>;

/** Errors as `--format json` prints them, on standard output or error. */
type OpaError = {
  readonly message?: unknown;
  readonly location?: { readonly file?: unknown; readonly row?: unknown; readonly col?: unknown };
};

const readErrors = (text: string): readonly OpaError[] => {
  try {
    const parsed = JSON.parse(text) as { readonly errors?: unknown } | null;
    return Array.isArray(parsed?.errors) ? (parsed.errors as OpaError[]) : [];
  } catch {
    return [];
  }
};

const place = (value: unknown): number =>
  typeof value === "number" && Number.isSafeInteger(value) ? Math.max(value, 1) : 1;

const toIssue = (error: OpaError): Issue => {
  const message = typeof error.message === "string" ? error.message.slice(0, MAX_MESSAGE) : "can't be compiled";
  const { location } = error;
  return location === undefined
    ? issue(message)
    : { path: FIELDS[String(location.file)] ?? "source", message, row: place(location.row), col: place(location.col) };
};

/** Every error with its place, from OPA's checker: its other commands name rows only, and only in prose. undefined: too dear. */
const errorsIn = async (
  run: Run,
  capabilities_path: string,
  files: readonly string[],
): Promise<readonly Issue[] | undefined> => {
  const args = ["check", "--format", "json", "--capabilities", capabilities_path, ...files];
  const { code, stdout, stderr } = await run(args);
  if (code === "ended") return undefined;
  return [...readErrors(stdout), ...readErrors(stderr)].slice(0, MAX_ISSUES).map(toIssue);
};

const explain = async (run: Run, capabilities_path: string, build_words: string): Promise<CompileResult> => {
  const errors = await errorsIn(run, capabilities_path, [FILE]);
  if (errors === undefined) return tooDear();
  if (errors.length > 0) return refused(...errors);
  if (build_words.includes("entrypoint"))
    return refused(issue(`define the rule result: package ${POLICY_PACKAGE} is read by ${POLICY_ENTRYPOINT}`));
  return refused(issue(build_words.replace(/^error: /, "").slice(0, MAX_MESSAGE)));
};

/**
 * Annotations can name schemas, and OPA fetches those while it compiles: from the network, and from any file that this
 * process may read. No policy of ours needs one. OPA trims Unicode's spaces, so the expression does.
 */
const ANNOTATION = /#[\s\u0085]*METADATA/;

const annotationIn = (source: string, path: string): Issue | undefined => {
  const at = ANNOTATION.exec(source)?.index;
  if (at === undefined) return undefined;
  const before = source.slice(0, at).split("\n");
  const message = "annotations (# METADATA) can't be used in a policy: make it an ordinary comment";
  return { path, message, row: before.length, col: (before.at(-1)?.length ?? 0) + 1 };
};

/** Why a text is not given to OPA at all. */
const unfit = (text: string, path: string): Issue | undefined => {
  if (Buffer.byteLength(text) > MAX_POLICY_SOURCE_BYTES) {
    const limit = MAX_POLICY_SOURCE_BYTES / 1024;
    return { path, message: `is longer than ${limit} KiB: split the policy into several members of the set` };
  }
  if (Buffer.from(text).toString() !== text)
    return { path, message: "is not well-formed Unicode: a surrogate stands alone" };
  return annotationIn(text, path);
};

/** The packages of a source, as OPA parsed them. */
const packagesOf = (stdout: string): readonly string[] => {
  const { namespaces } = JSON.parse(stdout) as { readonly namespaces?: object };
  return Object.keys(namespaces ?? {});
};

type OpaTest = {
  readonly package?: unknown;
  readonly name?: unknown;
  readonly location?: OpaError["location"];
  readonly fail?: unknown;
  readonly skip?: unknown;
  readonly error?: { readonly message?: unknown };
};

const toTest = ({ package: where, name, location, fail, skip, error }: OpaTest): PolicyTest => {
  const result = error !== undefined ? "error" : fail === true ? "fail" : skip === true ? "skip" : "pass";
  const words = typeof error?.message === "string" ? { message: error.message.slice(0, MAX_MESSAGE) } : {};
  const said = result === "error" ? { message: "did not come to an end", ...words } : {};
  return {
    name: `${String(where)}.${String(name)}`.slice(0, MAX_MESSAGE),
    result,
    ...(location === undefined ? {} : { row: place(location.row) }),
    ...said,
  };
};

const untestable = (message: string): TestResult => ({ ok: false, issues: [{ path: "tests", message }] });

/**
 * Tests run in OPA's interpreter, within the limits of a compile and with its builtins alone. OPA ends with 2 where one
 * failed, which a Go program also does when it dies: what it said tells the two apart.
 */
const runTests = async (run: Run, capabilities_path: string): Promise<TestResult> => {
  const errors = await errorsIn(run, capabilities_path, [FILE, TESTS]);
  if (errors === undefined) return tooDear();
  if (errors.length > 0) return refused(...errors);
  const args = ["test", "--format", "json", "--timeout", `${COMPILE_MS}ms`, "--capabilities", capabilities_path];
  const { stdout } = await run([...args, FILE, TESTS]);
  let said: unknown;
  try {
    said = stdout.trim() === "" ? undefined : JSON.parse(stdout);
  } catch {
    said = undefined; // it was ended while it wrote
  }
  if (said === null) return untestable("hold no test: name one test_…");
  if (!Array.isArray(said))
    return untestable(`can't be run within ${COMPILE_MS / 1_000} s and ${OPA_MEMORY_MIB} MiB: make them simpler`);
  if (said.length === 0) return untestable("hold no test: name one test_…");
  if (said.length > MAX_TESTS) return untestable(`hold more than ${MAX_TESTS} tests`);
  return { ok: true, tests: (said as readonly OpaTest[]).map(toTest) };
};

const build = async (run: Run, folder: string, capabilities_path: string): Promise<CompileResult> => {
  const inspected = await run(["inspect", "--format", "json", FILE]);
  if (inspected.code === "ended") return tooDear();
  const packages = inspected.code === 0 ? packagesOf(inspected.stdout) : undefined;
  if (packages !== undefined && (packages.length !== 1 || packages[0] !== `data.${POLICY_PACKAGE}`)) {
    return refused(issue(`declare package ${POLICY_PACKAGE}: it is ${packages.join(", ").replace(/^data\./, "")}`));
  }
  const args = [
    "build",
    "-t",
    "wasm",
    "-e",
    POLICY_ENTRYPOINT,
    "--capabilities",
    capabilities_path,
    "-o",
    BUNDLE,
    FILE,
  ];
  const { code, stdout, stderr } = await run(args);
  if (code === "ended") return tooDear();
  if (packages === undefined || code !== 0) return explain(run, capabilities_path, stderr + stdout);

  const wasm = meter(await readPolicyWasm(await readFile(join(folder, BUNDLE))));
  const module = await WebAssembly.compile(wasm);
  checkModule(module);
  // The capability list keeps these out already; a compiler with another idea of what it knows must not bring them in.
  const foreign = instantiate(module, CHECK_PAGES).builtins.filter((name) => name !== "sprintf");
  if (foreign.length > 0)
    return refused(
      ...foreign.map((name) => issue(`${name} can't be used: it would run outside of the policy's budget`)),
    );
  return { ok: true, policy: { wasm, wasm_sha256: createHash("sha256").update(wasm).digest("hex") } };
};

/** The compiler of policies: OPA as a child process, in turns of the zones, then our metering. */
export const createPolicyCompiler = (options: PolicyCompilerOptions): PolicyCompiler => {
  const capabilities_path = options.capabilities_path ?? join(packageRoot, "config", "opa-capabilities.json");
  let found: Promise<Opa> | undefined;
  const clock = options.clock ?? systemClock;
  const turns = createTurns({ ...TURNS, clock });

  const find = async (): Promise<Opa> => {
    found ??= findOpa(options);
    try {
      return await found;
    } catch (error) {
      found = undefined; // it may be installed while we run
      throw error;
    }
  };

  /** Runs `work` in a folder of its own that holds these files, within what one compile may have. */
  const withFiles = async <T>(
    files: Readonly<Record<string, string>>,
    signal: Cancellation | undefined,
    work: (run: Run, folder: string) => Promise<T>,
  ): Promise<T | Refused> => {
    const opa = await find();
    const until_ms = clock.monotonic_ms() + COMPILE_MS;
    const folder = await mkdtemp(join(tmpdir(), "caracal-policy-")); // mode 0700
    const run: Run = async (args) => {
      const timeout_ms = Math.max(1, until_ms - clock.monotonic_ms());
      const ran = await opa.run(args, { cwd: folder, timeout_ms, signal });
      if (signal?.aborted === true) throw requestAborted();
      return ran;
    };
    try {
      for (const [name, text] of Object.entries(files)) await writeFile(join(folder, name), text, { mode: 0o600 });
      return await work(run, folder);
    } catch (error) {
      if (error instanceof MalformedModule) return refused(issue(`can't be metered: ${error.message}`));
      if (error instanceof Problem) throw error;
      options.log.error({ err: error, opa: opa.path, version: opa.version }, "policy compiler failed");
      throw compilerUnavailable("the policy compiler failed: see the log of this process", { cause: error });
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  };

  return {
    async compile(source, zone_id, terms = {}) {
      const fault = unfit(source, "source");
      if (fault !== undefined) return refused(fault);
      return turns.take(zone_id, terms, () =>
        withFiles({ [FILE]: source }, terms.signal, (run, folder) => build(run, folder, capabilities_path)),
      );
    },

    async test(source, tests, zone_id, terms = {}) {
      const fault = unfit(source, "source") ?? unfit(tests, "tests");
      if (fault !== undefined) return { ok: false, issues: [fault] };
      return turns.take(zone_id, terms, () =>
        withFiles({ [FILE]: source, [TESTS]: tests }, terms.signal, (run) => runTests(run, capabilities_path)),
      );
    },
  };
};
