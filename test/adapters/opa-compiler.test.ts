import assert from "node:assert/strict";
import { chmod, mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import { after, before, describe, it } from "node:test";
import { gzipSync } from "node:zlib";
import * as fc from "fast-check";
import { readPolicyWasm } from "../../src/adapters/opa/bundle.ts";
import { createPolicyCompiler, type PolicyCompilerOptions } from "../../src/adapters/opa/compiler.ts";
import { MAX_POLICY_SOURCE_BYTES } from "../../src/domain/policy-module.ts";
import { uuidv7 } from "../../src/kernel/ids.ts";
import { Problem } from "../../src/kernel/problem.ts";
import { eventually } from "../support/eventually.ts";
import { log, policy } from "./opa-fixtures.ts";

const compiler = createPolicyCompiler({ log });
const ZONE = uuidv7();

/** A policy of exactly so many bytes. */
const longPolicy = (size: number): string => {
  const source = policy(`x := 1`);
  return source + "#".repeat(size - source.length);
};

const issuesOf = async (source: string) => {
  const result = await compiler.compile(source, uuidv7());
  return result.ok ? [] : result.issues;
};

describe("the policy compiler", () => {
  it("gives the same bytes for the same source", async () => {
    const [first, second] = [
      await compiler.compile(policy(`x := input.a`), ZONE),
      await compiler.compile(policy(`x := input.a`), ZONE),
    ];
    assert.ok(first.ok && second.ok);
    assert.deepEqual(first.policy, second.policy);
    assert.match(first.policy.wasm_sha256, /^[0-9a-f]{64}$/);
  });

  it("says row and column of what can't be read or is not known", async () => {
    assert.deepEqual(await issuesOf(`package caracal.authz\n\nresult := x if {\n  x := foo(1)\n}\n`), [
      { path: "source", message: "undefined function foo", row: 4, col: 8 },
    ]);
    const [first] = await issuesOf(`package caracal.authz\n\nresult := {"a"\n`);
    assert.equal(first?.path, "source");
    assert.ok((first?.row ?? 0) >= 3 && (first?.col ?? 0) >= 1);
    assert.equal((await issuesOf(""))[0]?.message, "empty module");
    assert.match(
      (await issuesOf(`package caracal.authz\n\nresult = 1 {\n  true\n}\n`))[0]?.message ?? "",
      /`if` keyword/,
    ); // Rego v0
  });

  it("lets no annotation make OPA fetch a schema, from the network or from a file of ours", async () => {
    const annotated = (mark: string, ref: string) =>
      `package caracal.authz\n\n#${mark}METADATA\n# schemas:\n# - input: {"$ref": "${ref}"}\nallow := input.x\n`;
    for (const mark of ["", " ", "\t", "\u0085", "\u00a0", "\u2003"]) {
      for (const ref of ["file:///etc/passwd", "http://127.0.0.1:1/x"]) {
        const [first, ...more] = await issuesOf(annotated(mark, ref));
        assert.match(first?.message ?? "", /annotations \(# METADATA\) can't be used/);
        assert.deepEqual([first?.row, more.length], [3, 0]);
      }
    }
  });

  it("refuses another package, and a policy without its rule", async () => {
    assert.match(
      (await issuesOf(`package other\n\nresult := 1\n`))[0]?.message ?? "",
      /declare package caracal\.authz: it is other/,
    );
    assert.match(
      (await issuesOf(`package caracal\n\nauthz.result := 1\n`))[0]?.message ?? "",
      /declare package caracal\.authz/,
    );
    assert.match(
      (await issuesOf(`package caracal.authz.result\n\nx := 1\n`))[0]?.message ?? "",
      /declare package caracal\.authz/,
    );
    assert.match(
      (await issuesOf(`package caracal.authz\n\nallow := true\n`))[0]?.message ?? "",
      /define the rule result/,
    );
    // In a comment and in a text it is no declaration.
    assert.match(
      (await issuesOf(`# package caracal.authz\npackage other\n\nx := "package caracal.authz"\n`))[0]?.message ?? "",
      /it is other/,
    );
  });

  it("refuses every builtin that would run outside of the budget or is not a function of the input", async () => {
    const calls = {
      "http.send": `http.send({"method": "get", "url": "http://127.0.0.1"})`,
      "net.lookup_ip_addr": `net.lookup_ip_addr("localhost")`,
      "net.cidr_contains": `net.cidr_contains("10.0.0.0/8", "10.0.0.1")`,
      "rand.intn": `rand.intn("x", 9)`,
      "uuid.rfc4122": `uuid.rfc4122("x")`,
      "time.now_ns": `time.now_ns()`,
      "opa.runtime": `opa.runtime()`,
      trace: `trace("x")`,
      "regex.split": `regex.split("a", "b")`,
      "regex.replace": `regex.replace("a", "b", "c")`,
      "yaml.unmarshal": `yaml.unmarshal("a: 1")`,
      "io.jwt.decode": `io.jwt.decode("x")`,
      "crypto.sha256": `crypto.sha256("x")`,
    };
    for (const [name, call] of Object.entries(calls)) {
      assert.match(
        (await issuesOf(policy(`x := ${call}`)))[0]?.message ?? "",
        new RegExp(`undefined function ${name}`),
        name,
      );
    }
    assert.deepEqual(await issuesOf(policy(`print("left out by OPA itself"); x := 1`)), []);
  });

  it("refuses such a builtin even where the compiler knows it", async () => {
    const folder = await mkdtemp(join(tmpdir(), "caracal-test-"));
    try {
      const capabilities_path = join(folder, "capabilities.json");
      const text = { type: "string" };
      const builtin = { name: "urlquery.encode", decl: { type: "function", args: [text], result: text } };
      const equality = { type: "function", args: [{ type: "any" }, { type: "any" }], result: { type: "boolean" } };
      const operators = ["assign", "eq"].map((name) => ({ name, decl: equality }));
      await writeFile(
        capabilities_path,
        JSON.stringify({ builtins: [builtin, ...operators], future_keywords: ["in", "if"], features: ["rego_v1"] }),
      );
      const result = await createPolicyCompiler({ log, capabilities_path }).compile(
        policy(`x := urlquery.encode(input.a)`),
        ZONE,
      );
      assert.match(result.ok ? "" : (result.issues[0]?.message ?? ""), /urlquery\.encode can't be used/);
    } finally {
      await rm(folder, { recursive: true });
    }
  });

  it("takes 64 KiB of source, and not one byte more", async () => {
    assert.deepEqual(await issuesOf(longPolicy(MAX_POLICY_SOURCE_BYTES)), []);
    assert.match((await issuesOf(longPolicy(MAX_POLICY_SOURCE_BYTES + 1)))[0]?.message ?? "", /longer than 64 KiB/);
    assert.match((await issuesOf(policy(`x := "\ud800"`)))[0]?.message ?? "", /well-formed/);
  });

  it("meets any text with issues that name the source, or a module", async () => {
    const text = fc.oneof(
      fc.string({ maxLength: 80 }),
      fc.string({ maxLength: 60 }).map(policy),
      fc.constantFrom("\0", "package", "{".repeat(5000)),
    );
    for (const source of fc.sample(text, { numRuns: 25, seed: 5 })) {
      const result = await compiler.compile(source, uuidv7());
      if (!result.ok)
        assert.ok(
          result.issues.length > 0 && result.issues.every((one) => one.path === "source" && one.message !== ""),
          source,
        );
    }
  });

  it("leaves no file behind", async () => {
    const folder = await mkdtemp(join(tmpdir(), "caracal-test-"));
    const usual = process.env["TMPDIR"];
    process.env["TMPDIR"] = folder;
    try {
      assert.equal((await compiler.compile(policy(`x := 1`), ZONE)).ok, true);
      assert.equal((await compiler.compile("broken", ZONE)).ok, false);
      assert.deepEqual(await readdir(folder), []);
    } finally {
      if (usual === undefined) delete process.env["TMPDIR"];
      else process.env["TMPDIR"] = usual;
      await rm(folder, { recursive: true });
    }
  });

  const doubled = (times: number, twice: (name: string) => string): string =>
    `package caracal.authz\n\nx0 := [1]\n\n${Array.from({ length: times }, (_, i) => `x${i + 1} := ${twice(`x${i}`)}\n`).join("\n")}\nresult := x${times}\n`;

  it("ends what grows without bound, in words, while another zone's source goes through", async () => {
    const dear = [
      doubled(40, (x) => `[${x}, ${x}, ${x}]`),
      `package caracal.authz\n\nresult := ${"[".repeat(32_000)}${"]".repeat(32_000)}\n`,
    ].map((source) => compiler.compile(source, "hostile"));
    const first = await Promise.race([compiler.compile(policy(`x := 1`), "innocent"), ...dear]);
    assert.ok(first.ok, "the innocent one did not wait for the others");
    dear.push(
      compiler.compile(
        doubled(28, (x) => `{"a": ${x}, "b": ${x}, "c": ${x}}`),
        "another",
      ),
    );
    for (const result of await Promise.all(dear)) {
      assert.ok(!result.ok);
      assert.deepEqual(
        result.issues.map((issue) => issue.message),
        ["can't be compiled within 5 s and 1024 MiB: make it simpler"],
      );
    }
  });
});

/** Answers as OPA does up to `build`, which is the script's. */
const fakeOpa = async (folder: string, build: string): Promise<string> => {
  const path = join(folder, "opa");
  const script = [
    `case "$1" in`,
    `version) echo "Version: 1.2.3" ;;`,
    `inspect) echo '{"namespaces":{"data.caracal.authz":[]}}' ;;`,
    `*) ${build} ;;`,
    `esac`,
  ];
  await writeFile(path, `#!/bin/sh\n${script.join("\n")}\n`);
  await chmod(path, 0o700);
  return path;
};

const isAlive = (pid: number): boolean => {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
};

describe("a run of OPA", { skip: process.platform !== "linux" }, () => {
  let folder: string;
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), "caracal-test-"));
  });
  after(() => rm(folder, { recursive: true }));
  const written = async (name: string): Promise<string> => readFile(join(folder, name), "utf8").catch(() => "");

  it("has its memory bounded by the kernel, and nothing of our environment", async () => {
    const script = `{ ulimit -v; env; } > ${folder}/limit; exit 1`;
    await createPolicyCompiler({ opa_path: await fakeOpa(folder, script), log }).compile(policy(`x := 1`), ZONE);
    const [limit, ...env] = (await written("limit")).trim().split("\n");
    assert.equal(limit, String(1024 * 1024));
    assert.deepEqual(env.map((line) => line.split("=")[0]).toSorted(), ["GOMAXPROCS", "PWD"]);
  });

  it("ends with whoever asked for it, and all that it started with it", async () => {
    const opa_path = await fakeOpa(folder, `sleep 600 & echo $! > ${folder}/child; wait`);
    const gone = new AbortController();
    const slow = createPolicyCompiler({ opa_path, log });
    const ended = assert.rejects(
      slow.compile(policy(`x := 1`), ZONE, { signal: gone.signal }),
      (error) => error instanceof Problem && error.code === "request_aborted",
    );
    await eventually(async () => /^\d+\n$/.test(await written("child")));
    const child = Number(await written("child"));
    assert.ok(isAlive(child));
    gone.abort();
    await ended;
    await eventually(() => !isAlive(child));
  });
});

describe("finding OPA", () => {
  let folder: string;
  before(async () => {
    folder = await mkdtemp(join(tmpdir(), "caracal-test-"));
  });
  after(() => rm(folder, { recursive: true }));

  const program = async (name: string, script: string): Promise<string> => {
    const path = join(folder, name);
    await writeFile(path, `#!/bin/sh\n${script}\n`);
    await chmod(path, 0o700);
    return path;
  };
  const problemOf = async (options: Omit<PolicyCompilerOptions, "log">): Promise<string> => {
    try {
      await createPolicyCompiler({ ...options, log }).compile(policy(`x := 1`), ZONE);
    } catch (error) {
      assert.ok(error instanceof Problem && error.status === 503 && error.code === "policy_compiler_unavailable");
      assert.equal(error.description.includes("\n"), false);
      return error.description;
    }
    return assert.fail("it compiled");
  };

  it("never takes another where OPA_PATH names one that does not run", async () => {
    assert.match(await problemOf({ opa_path: join(folder, "nowhere") }), /OPA_PATH names .*nowhere/);
    assert.match(await problemOf({ opa_path: await program("no-opa", "echo hello") }), /does not answer as OPA/);
    assert.match(
      await problemOf({ opa_path: await program("old", "echo Version: 0.69.0") }),
      /is OPA 0\.69\.0: install OPA 0\.70 or later/,
    );
    assert.match(await problemOf({ opa_path: folder }), /does not run here/);
  });

  it("prefers the one on PATH, and looks at absolute folders only", async () => {
    await program("opa", "echo Version: 0.1.0");
    assert.match(await problemOf({ search_path: folder }), /is OPA 0\.1\.0/);
    const result = await createPolicyCompiler({ search_path: `.:${relative(process.cwd(), folder)}`, log }).compile(
      policy(`x := 1`),
      ZONE,
    );
    assert.equal(result.ok, true); // the packaged one
  });

  it("gives the child nothing of our environment", async () => {
    const spy = await program("spy", `env > ${join(folder, "env")}\necho Version: 0.1.0`);
    process.env["CARACAL_TEST_SECRET"] = "do not pass on";
    try {
      await problemOf({ opa_path: spy });
    } finally {
      delete process.env["CARACAL_TEST_SECRET"];
    }
    assert.equal((await readFile(join(folder, "env"), "utf8")).includes("CARACAL_TEST_SECRET"), false);
  });

  it("says that the compiler failed where it breaks, not that the policy is bad", async () => {
    const path = await program(
      "crash",
      `case "$1" in version) echo Version: 1.2.3;; inspect) echo '{"namespaces":{"data.caracal.authz":["policy.rego"]}}';; *) exit 0;; esac`,
    );
    assert.match(await problemOf({ opa_path: path }), /the policy compiler failed/);
  });
});

describe("reading a bundle", () => {
  const header = (name: string, size: string): Buffer => {
    const block = Buffer.alloc(512);
    block.write(name, 0);
    block.write(size, 124);
    return block;
  };

  it("finds the module, with or without a leading slash", async () => {
    for (const name of ["policy.wasm", "/policy.wasm"]) {
      const tar = Buffer.concat([
        header("/data.json", "00000000002"),
        Buffer.alloc(512, "x"),
        header(name, "00000000003"),
        Buffer.from("abc"),
        Buffer.alloc(509),
        Buffer.alloc(1024),
      ]);
      assert.equal((await readPolicyWasm(gzipSync(tar))).toString(), "abc");
    }
  });

  it("refuses one that is cut off, lies about its sizes, has no module, or unpacks to too much", async () => {
    await assert.rejects(readPolicyWasm(gzipSync(header("policy.wasm", "00000001000"))), /cut off/);
    await assert.rejects(readPolicyWasm(gzipSync(header("policy.wasm", "-1"))), /no number/);
    await assert.rejects(readPolicyWasm(gzipSync(header("policy.wasm", "77777777777"))), /cut off/);
    await assert.rejects(readPolicyWasm(gzipSync(Buffer.alloc(1024))), /no policy\.wasm/);
    await assert.rejects(readPolicyWasm(gzipSync(Buffer.alloc(17 * 1024 * 1024))), /larger/);
    await assert.rejects(readPolicyWasm(Buffer.from("no gzip")));
  });
});
