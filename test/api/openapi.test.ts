import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { pathToFileURL } from "node:url";
import { apiEndpoints } from "../../src/contracts/api.ts";
import { packageRoot } from "../../src/kernel/package-root.ts";
import { type Route, routesOf } from "./routes.ts";
import { expectOk, send, serveApi, type ServedApi } from "./serve.ts";

type Live = (
  url: string,
  token: string,
) => Promise<{
  readonly zone_id: string;
  readonly set_id: string;
  readonly version_id: string;
  readonly refused: string;
}>;

/** What somebody writes over the generated client: every field of it is checked against the generated types. */
const CALLER = `
import { ApiError, client } from "./client.js";

export const live = async (serverUrl: string, bearer: string) => {
  client.configure({ serverUrl, auth: { bearer } });
  const zone = await client.createZone({ body: { slug: "generated", name: "Generated" } });
  const path = { zone_id: zone.id };
  const [template] = (await client.listPolicyTemplates()).items;
  const policy = await client.createPolicy({ path, body: { name: "first" } });
  const version = await client.createPolicyVersion({
    path: { ...path, id: policy.id },
    body: { source: template?.source ?? "" },
  });
  const set = await client.createPolicySet({ path, body: { name: "all" } });
  const in_set = { ...path, id: set.id };
  const entries = [{ policy_version_id: version.id }];
  const { id: version_id } = await client.createPolicySetVersion({ path: in_set, body: { entries } });
  const activated = await client.activatePolicySet({
    path: in_set,
    body: { version_id },
    headers: { "If-Match": '"none"', },
  });
  const refused: string = await client.createZone({ body: { slug: "generated", name: "Again" } }).then(
    () => "",
    (error: unknown) => (error instanceof ApiError ? (error.body as { error: string }).error : String(error)),
  );
  return { zone_id: activated.zone_id, set_id: activated.policy_set_id, version_id: activated.version_id, refused };
};
`;
const COMPILE = [
  "--strict",
  "--target",
  "es2022",
  "--module",
  "nodenext",
  "--lib",
  "es2024,dom,dom.iterable",
  "--types",
  "",
];

const tool = (name: string, ...path: readonly string[]): string => join(packageRoot, "node_modules", name, ...path);

const run = (cwd: string, program: string, ...args: readonly string[]) => {
  const { status, stdout, stderr } = spawnSync(process.execPath, [program, ...args], {
    cwd,
    encoding: "utf8",
    env: { ...process.env, REDOCLY_TELEMETRY: "off", REDOCLY_SUPPRESS_UPDATE_NOTICE: "true" },
  });
  return { status, said: stdout + stderr };
};
const redocly = (cwd: string, ...args: readonly string[]) => run(cwd, tool("@redocly/cli", "bin", "cli.js"), ...args);

describe("the OpenAPI document", () => {
  let api: ServedApi;
  let text: string;
  let routes: readonly Route[];

  before(async () => {
    api = await serveApi();
    text = (await send(api.url, { path: "/openapi.json" })).text;
    routes = routesOf(text);
  });
  after(() => api.close());

  /** Works in a folder that holds the document, and is gone afterwards. */
  const inFolder = async <T>(work: (dir: string) => T | Promise<T>): Promise<T> => {
    const dir = mkdtempSync(join(tmpdir(), "caracal-openapi-"));
    try {
      writeFileSync(join(dir, "openapi.json"), text);
      return await work(dir);
    } finally {
      rmSync(dir, { recursive: true, force: true });
    }
  };

  it("has every operation once, and a stock linter finds nothing to say", async () => {
    assert.deepEqual(routes.map(({ name }) => name).toSorted(), Object.keys(apiEndpoints).toSorted());
    const { status, said } = await inFolder((dir) => redocly(dir, "lint", "openapi.json"));
    assert.equal(status, 0, said);
    assert.doesNotMatch(said, /You have \d+ (?:warning|error)/);
  });

  it("makes a client by a stock generator, with types that hold, which makes a zone, a policy and an activation", async () => {
    const { zone_id, set_id, version_id, refused } = await inFolder(async (dir) => {
      const generated = redocly(dir, "generate-client", "openapi.json", "-o", "client.ts");
      assert.equal(generated.status, 0, generated.said);
      assert.doesNotMatch(generated.said, /is a name a generated client already declares/);
      writeFileSync(join(dir, "caller.ts"), CALLER);
      writeFileSync(join(dir, "package.json"), '{"type":"module"}');
      const compiled = run(dir, tool("typescript", "bin", "tsc"), ...COMPILE, "caller.ts");
      assert.equal(compiled.status, 0, compiled.said);
      const { live } = (await import(pathToFileURL(join(dir, "caller.js")).href)) as { live: Live };
      return live(api.url, api.global_token);
    });
    const state = await expectOk(api.url, api.global_token, "getActivation", { params: { zone_id, id: set_id } });
    assert.equal(state.active?.version_id, version_id);
    assert.equal(refused, "slug_taken", "a refusal has its word in the client, too");
  });
});
