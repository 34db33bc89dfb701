import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, it } from "node:test";
import { type Variable, VARIABLES } from "../../src/config/variables.ts";
import { ROLE_NAMES, type RoleName } from "../../src/domain/role-name.ts";
import { packageRoot } from "../../src/kernel/package-root.ts";

const source = (...path: readonly string[]): string => readFileSync(join(packageRoot, "src", ...path), "utf8");
const folder = (...path: readonly string[]): readonly string[] =>
  readdirSync(join(packageRoot, "src", ...path)).filter((name) => name.endsWith(".ts"));

/** The names of variables that a text reads: of the configuration, or by themselves. */
const readIn = (text: string): readonly string[] => [
  ...[...text.matchAll(/config\.([A-Z][A-Z0-9_]+)/g)].map((match) => match[1] ?? ""),
  ...[...text.matchAll(/readVariable\([^,]+, "([A-Z0-9_]+)"\)|env\["([A-Z0-9_]+)"\]/g)].map(
    (match) => match[1] ?? match[2] ?? "",
  ),
  // By role: the address that it listens on, and the database that it reaches.
  ...(/config\[`\$\{upper\}_HOST`\]/.test(text) ? ROLE_NAMES.map((role) => `${role.toUpperCase()}_HOST`) : []),
  ...(/config\[`\$\{upper\}_PORT`\]/.test(text) ? ROLE_NAMES.map((role) => `${role.toUpperCase()}_PORT`) : []),
  ...(/config\[`DATABASE_URL_\$\{role/.test(text)
    ? ROLE_NAMES.map((role) => `DATABASE_URL_${role.toUpperCase()}`)
    : []),
];

/** What is read for whichever role runs. A refusal counts where it is all that a variable is for. */
const common = new Set([
  ...["process/parts.ts", "process/here.ts", "config/index.ts"].flatMap((path) => readIn(source(...path.split("/")))),
  ...folder("cli").flatMap((name) => readIn(source("cli", name))),
  "INSECURE_HTTP",
  "INSECURE_STS",
]);
const readBy = (role: RoleName): ReadonlySet<string> => new Set(readIn(source("process", "roles", `${role}.ts`)));

describe("the variables", () => {
  it("are read by every role that they are listed for", () => {
    const unread = Object.entries<Variable>(VARIABLES).flatMap(([name, { roles }]) =>
      common.has(name) ? [] : roles.filter((role) => !readBy(role).has(name)).map((role) => `${role} reads no ${name}`),
    );
    assert.deepEqual(unread, []);
  });

  it("are listed for every role that reads them, which would otherwise find nothing in a process of its own", () => {
    const unlisted = ROLE_NAMES.flatMap((role) =>
      [...readBy(role)]
        .filter((name) => !(VARIABLES as Readonly<Record<string, Variable>>)[name]?.roles.includes(role))
        .map((name) => `${name} is not listed for ${role}`),
    );
    assert.deepEqual(unlisted, []);
  });
});
