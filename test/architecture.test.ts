import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative, resolve, sep } from "node:path";
import { describe, it } from "node:test";
import { ROLE_NAMES, type RoleName } from "../src/domain/role-name.ts";
import { packageRoot } from "../src/kernel/package-root.ts";
import { layOut } from "../src/process/roles.ts";

const SRC = join(packageRoot, "src");

type Import = {
  readonly file: string;
  readonly target: string;
  readonly type_only: boolean;
  /** By `import("…")`. */
  readonly lazy: boolean;
};

const files = (dir: string): readonly string[] =>
  readdirSync(dir, { withFileTypes: true }).flatMap((entry) =>
    entry.isDirectory() ? files(join(dir, entry.name)) : entry.name.endsWith(".ts") ? [join(dir, entry.name)] : [],
  );

const IMPORT = /^(?:import|export)\s+(type\s)?(?:[^;"]*?from\s+)?"([^"]+)"|import\("([^"]+)"\)/gm;

const importsOf = (file: string): readonly Import[] =>
  [...readFileSync(file, "utf8").matchAll(IMPORT)].map((match) => {
    const target = match[2] ?? match[3] ?? "";
    const resolved = target.startsWith(".") ? relative(SRC, resolve(dirname(file), target)) : target;
    return {
      file: relative(SRC, file),
      target: resolved,
      type_only: match[1] !== undefined,
      lazy: match[3] !== undefined,
    };
  });

const all = files(SRC).flatMap(importsOf);
const room = (path: string): string => path.split(sep)[0] ?? "";
const isLocal = (target: string): boolean => target.endsWith(".ts");
const isRole = (name: string): boolean => (ROLE_NAMES as readonly string[]).includes(name);

/** What each room may import from; a room may always import from itself. */
const BELOW: Readonly<Record<string, readonly string[]>> = {
  kernel: [],
  domain: ["kernel", "ports"],
  contracts: ["kernel", "domain"],
  ports: ["kernel", "domain", "contracts"],
  broadcast: ["kernel", "domain", "contracts", "ports"],
  ledger: ["kernel", "domain", "contracts", "ports", "broadcast"],
  authority: ["kernel", "domain", "contracts", "ports", "broadcast", "ledger"],
  adapters: ["kernel", "domain", "contracts", "ports"],
  http: ["kernel", "domain", "contracts", "ports"],
  config: ["kernel", "domain"],
  embedded: ["kernel", "config"],
};
const ROLE_BELOW = ["kernel", "domain", "contracts", "ports", "broadcast", "ledger", "authority", "http"];
/** Who puts the program together. */
const WIRING = new Set(["main.ts", "process", "cli", "demo"]);
/** The glossary. */
const WORDS = "README.md";
const DRIVERS = ["ioredis", "postgres", "@electric-sql/pglite", "@open-policy-agent/opa-wasm", "undici"];

const MAX_LINES = 400;
/** Longer files, each with the reason. */
const LONG: Readonly<Record<string, string>> = {
  "config/variables.ts": "one table, with a row for each variable",
  "gateway/passage/forward.ts": "upload, answer and what holds an answer back share the state of one call",
};

const violations = (broken: (one: Import) => boolean): readonly string[] =>
  all.filter(broken).map((one) => `${one.file} imports ${one.target}`);

describe("the architecture", () => {
  it("has a rule for every room, so that a new folder is a decision", () => {
    const rooms = readdirSync(SRC).filter(
      (name) => !(name in BELOW) && !isRole(name) && !WIRING.has(name) && name !== WORDS,
    );
    assert.deepEqual(rooms, []);
  });

  it("lets imports go down only", () => {
    const broken = violations(({ file, target }) => {
      if (!isLocal(target) || WIRING.has(room(file)) || room(file) === room(target)) return false;
      return !(isRole(room(file)) ? ROLE_BELOW : (BELOW[room(file)] ?? [])).includes(room(target));
    });
    assert.deepEqual(broken, []);
  });

  it("has no circle of imports, types included: a file can be read after those that it names", () => {
    const targets = new Map<string, string[]>();
    for (const { file, target } of all) if (isLocal(target)) targets.set(file, [...(targets.get(file) ?? []), target]);
    const done = new Set<string>();
    const circleFrom = (file: string, path: readonly string[]): readonly string[] | undefined => {
      if (path.includes(file)) return [...path.slice(path.indexOf(file)), file];
      if (done.has(file)) return undefined;
      done.add(file);
      for (const target of targets.get(file) ?? []) {
        const circle = circleFrom(target, [...path, file]);
        if (circle !== undefined) return circle;
      }
      return undefined;
    };
    const circles = [...targets.keys()].map((file) => circleFrom(file, [])).filter((circle) => circle !== undefined);
    assert.deepEqual(
      circles.map((circle) => circle.join(" → ")),
      [],
    );
  });

  it("keeps drivers in the adapters; a port may name a driver's types", () => {
    const broken = violations(
      ({ file, target, type_only }) =>
        DRIVERS.some((driver) => target === driver || target.startsWith(`${driver}/`)) &&
        room(file) !== "adapters" &&
        !(room(file) === "ports" && type_only),
    );
    assert.deepEqual(broken, []);
  });

  it("shows nothing of a role to others but its index", () => {
    const broken = violations(
      ({ file, target }) =>
        isLocal(target) &&
        isRole(room(target)) &&
        room(file) !== room(target) &&
        target !== join(room(target), "index.ts"),
    );
    assert.deepEqual(broken, []);
  });

  it("keeps the SQL of a role in its store", () => {
    const broken = files(SRC)
      .map((file) => relative(SRC, file))
      .filter((file) => isRole(room(file)) && !/^[a-z]+[/\\]store([/\\].*)?(\.ts)?/.test(file))
      .filter((file) => /\b(sql|tx)(<[^`]*>)?`/.test(readFileSync(join(SRC, file), "utf8")));
    assert.deepEqual(broken, []);
  });

  it("compares secrets in one place only, in constant time", () => {
    const comparing = files(SRC)
      .filter((file) => /\btimingSafeEqual\b/.test(readFileSync(file, "utf8")))
      .map((file) => relative(SRC, file));
    assert.deepEqual(comparing, [join("domain", "keyring.ts")]);
  });

  it("ends the process in one place only", () => {
    const broken = files(SRC)
      .map((file) => relative(SRC, file))
      .filter((file) => file !== "main.ts" && /process\.exit\(/.test(readFileSync(join(SRC, file), "utf8")));
    assert.deepEqual(broken, []);
  });

  const ROLE_TABLE = join("process", "roles.ts");
  const makerOf = (role: RoleName): string => join("process", "roles", `${role}.ts`);
  /** What a thread of one role loads from `start` on: of the table's lazy imports only the role's own. */
  const loadedFor = (role: RoleName, start: string): ReadonlySet<string> => {
    const reached = new Set<string>();
    const reach = (target: string): void => {
      if (reached.has(target)) return;
      reached.add(target);
      for (const one of all) {
        if (one.file !== target || one.type_only) continue;
        if (target === ROLE_TABLE && one.lazy && one.target !== makerOf(role)) continue;
        reach(one.target);
      }
    };
    reach(start);
    return reached;
  };
  const ofOthers = (role: RoleName, reached: ReadonlySet<string>): readonly string[] =>
    [...reached].filter((target) => isLocal(target) && isRole(room(target)) && room(target) !== role);

  it("makes each role in a file that loads nothing of another role", () => {
    for (const role of ROLE_NAMES) {
      const reached = loadedFor(role, makerOf(role));
      assert.ok(reached.has(join(role, "index.ts")), `${makerOf(role)} makes the role`);
      assert.deepEqual(ofOthers(role, reached), []);
    }
  });

  it("loads in a role's own thread nothing of another role", () => {
    const { apart } = layOut({ roles: ROLE_NAMES, embedded_database: false, embedded_redis: false });
    assert.notDeepEqual(apart, []);
    const heavy = new Set(["hono", "@hono/node-server", "jose", "undici", "@open-policy-agent/opa-wasm"]);
    for (const role of apart) {
      const reached = loadedFor(role, join("process", "thread", "worker.ts"));
      for (const followed of [ROLE_TABLE, makerOf(role), join("process", "parts.ts"), "ioredis"])
        assert.ok(reached.has(followed), `${followed} is loaded by the ${role} thread`);
      assert.deepEqual(ofOthers(role, reached), []);
      assert.deepEqual(
        [...reached].filter((target) => heavy.has(target)),
        [],
      );
    }
  });

  it("has a README in every role's folder and in each room that roles share, and one of the words", () => {
    const missing = [...ROLE_NAMES, "broadcast", "ledger", "authority", "http", "process", "."].filter(
      (name) => !readdirSync(join(SRC, name)).includes("README.md"),
    );
    assert.deepEqual(missing, []);
  });

  it("has no file that is too long to be read as a whole", () => {
    const tooLong = files(SRC)
      .filter((file) => readFileSync(file, "utf8").split("\n").length - 1 > MAX_LINES)
      .map((file) => relative(SRC, file).split(sep).join("/"));
    assert.deepEqual(
      tooLong.filter((file) => !Object.hasOwn(LONG, file)),
      [],
    );
  });

  it("has no folder that says nothing", () => {
    const vague = files(SRC).filter((file) => /[/\\](utils?|helpers?|common|misc|shared)([/\\]|\.ts$)/.test(file));
    assert.deepEqual(vague, []);
  });
});
