import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { apiEndpoints } from "../../src/contracts/api.ts";
import { packageRoot } from "../../src/kernel/package-root.ts";
import { uuidv7 } from "../../src/kernel/ids.ts";
import { type Answer, call, expectOk, makeZone, send, serveApi, type ServedApi } from "./serve.ts";

type Schema = {
  readonly format?: string;
  readonly enum?: readonly string[];
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly items?: Schema;
  readonly anyOf?: readonly Schema[];
};
type Parameter = { readonly name?: string; readonly in?: string; readonly schema?: Schema };
type Operation = {
  readonly operationId: string;
  readonly security: readonly Readonly<Record<string, unknown>>[];
  readonly parameters: readonly Parameter[];
  readonly requestBody?: { readonly content: Readonly<Record<string, { readonly schema: Schema }>> };
};
type Route = { readonly method: string; readonly path: string; readonly operation: Operation };

/** Where a schema takes ids, as paths into a body; `[]` is an entry of a list. */
const idsIn = (schema: Schema | undefined, at: readonly string[] = []): readonly (readonly string[])[] => {
  if (schema === undefined) return [];
  if (schema.format === "uuid") return [at];
  return [
    ...Object.entries(schema.properties ?? {}).flatMap(([name, field]) => idsIn(field, [...at, name])),
    ...idsIn(schema.items, [...at, "[]"]),
    ...(schema.anyOf ?? []).flatMap((one) => idsIn(one, at)),
  ];
};

/** The body with `id` where `at` points. */
const withId = (body: unknown, at: readonly string[], id: string): unknown => {
  const [step, ...rest] = at;
  if (step === undefined) return id;
  if (step === "[]") return (body as unknown[]).map((entry) => withId(entry, rest, id));
  const object = body as Readonly<Record<string, unknown>>;
  return { ...object, [step]: withId(object[step], rest, id) };
};

describe("the OpenAPI document", () => {
  let api: ServedApi;
  let text: string;
  let routes: readonly Route[];

  before(async () => {
    api = await serveApi();
    text = (await send(api.url, { path: "/openapi.json" })).text;
    const { paths } = JSON.parse(text) as { paths: Record<string, Record<string, Operation>> };
    routes = Object.entries(paths).flatMap(([path, methods]) =>
      Object.entries(methods).map(([method, operation]) => ({ method: method.toUpperCase(), path, operation })),
    );
  });
  after(() => api.close());

  it("has every operation once, and a stock linter finds nothing to say", () => {
    assert.deepEqual(
      routes.map(({ operation }) => operation.operationId).toSorted(),
      Object.keys(apiEndpoints).toSorted(),
    );
    const dir = mkdtempSync(join(tmpdir(), "caracal-openapi-"));
    try {
      writeFileSync(join(dir, "openapi.json"), text);
      const linter = join(packageRoot, "node_modules", "@redocly", "cli", "bin", "cli.js");
      const { status, stdout, stderr } = spawnSync(process.execPath, [linter, "lint", "openapi.json"], {
        cwd: dir,
        encoding: "utf8",
        env: { ...process.env, REDOCLY_TELEMETRY: "off", REDOCLY_SUPPRESS_UPDATE_NOTICE: "true" },
      });
      assert.equal(status, 0, stdout + stderr);
      assert.doesNotMatch(stdout + stderr, /You have \d+ (?:warning|error)/);
    } finally {
      rmSync(dir, { recursive: true, force: true });
    }
  });

  type World = { readonly zone_id: string; readonly token: string; readonly ids: Readonly<Record<string, string>> };

  /** A zone that has one of everything, by the last word of the path that it is reached by. */
  const furnish = async (): Promise<World> => {
    const { zone_id, token } = await makeZone(api);
    const params = { zone_id };
    const made = {
      applications: await expectOk(api.url, token, "createApplication", { params, body: { name: "a" } }),
      resources: await expectOk(api.url, token, "createResource", {
        params,
        body: { identifier: "resource://r", name: "R", upstream_url: "https://r.example.com", scopes: ["s"] },
      }),
      providers: await expectOk(api.url, token, "createProvider", {
        params,
        body: { name: "p", kind: "apikey", allowed_hosts: ["r.example.com"] },
      }),
      issuers: await expectOk(api.url, token, "createIssuer", {
        params,
        body: { name: "i", issuer_url: "https://i.example.com", audience: "a" },
      }),
      policies: await expectOk(api.url, token, "createPolicy", { params, body: { name: "p" } }),
      "policy-sets": await expectOk(api.url, token, "createPolicySet", { params, body: { name: "s" } }),
      "admin-tokens": await expectOk(api.url, token, "createAdminToken", { body: { label: "other" } }),
    };
    const grants = await expectOk(api.url, token, "createGrant", {
      params,
      body: { application_id: made.applications.id, resource_id: made.resources.id, subject: "i|ann", scopes: ["s"] },
    });
    const session = uuidv7();
    await api.db.sql`
      insert into sessions (zone_id, id, client_id, subject, sub_type, expires_at)
      values (${zone_id}, ${session}, ${made.applications.id}, 'ann', 'user', now() + interval '1 hour')`;
    const registration = await expectOk(api.url, token, "createRegistrationToken", {
      params,
      body: { name: "t", expires_in_s: 60 },
    });
    const challenge = uuidv7();
    await api.db.sql`
      insert into step_up_challenges (zone_id, id, kind, secret_sha256, application_id, subject, scopes, expires_at)
      values (${zone_id}, ${challenge}, 'mfa', 'h', ${made.applications.id}, 'ann', '{}', now() + interval '5 minutes')`;
    const ids = Object.fromEntries(Object.entries({ ...made, grants }).map(([name, { id }]) => [name, id]));
    return {
      zone_id,
      token,
      ids: { ...ids, sessions: session, "step-up-challenges": challenge, "registration-tokens": registration.id },
    };
  };

  /** Bodies that would pass, in a world whose ids they name. An operation whose body takes an id must have one here. */
  const bodyOf = (name: string, { ids, zone_id }: World): unknown =>
    ({
      createAdminToken: { label: "l", zone_id },
      createApplication: {
        name: "n",
        credential_types: ["workload"],
        workload_issuer_id: ids["issuers"],
        workload_claims: { sub: "s" },
      },
      updateApplication: { workload_issuer_id: ids["issuers"] },
      createResource: {
        identifier: "resource://n",
        name: "N",
        upstream_url: "https://r.example.com",
        application_id: ids["applications"],
        provider_id: ids["providers"],
      },
      updateResource: { application_id: ids["applications"], provider_id: ids["providers"] },
      createGrant: {
        application_id: ids["applications"],
        resource_id: ids["resources"],
        subject: "i|bob",
        scopes: ["s"],
      },
      createPolicySetVersion: { entries: [{ policy_version_id: uuidv7() }] },
      activatePolicySet: { version_id: uuidv7() },
      simulatePolicySet: { version_id: uuidv7(), last: 1 },
      updateRegistrationToken: { name: "n" },
      updateProvider: { name: "n" },
      updateIssuer: { name: "n" },
      updateGrant: { scopes: [] },
      putGrantCredential: { access_token: "t" },
      updatePolicy: { name: "n" },
      updatePolicySet: { name: "n" },
      createPolicyVersion: { source: "package caracal.authz" },
    })[name];

  const pathOf = (route: Route, world: World): string =>
    route.path
      .replace("{zone_id}", world.zone_id)
      .replace("{id}", world.ids[/([a-z-]+)\/\{id\}/.exec(route.path)?.[1] ?? ""] ?? uuidv7())
      .replace("{name}", "policies")
      .replace("{request_id}", "r")
      .replace(/\{[a-z_]+\}/g, uuidv7());

  const ask = (route: Route, path: string, token: string | undefined, body?: unknown): Promise<Answer> =>
    send(api.url, {
      method: route.method,
      path,
      token,
      ...(route.operation.requestBody === undefined ? {} : { body: body ?? {} }),
    });

  const guarded = (): readonly Route[] =>
    routes.filter(({ operation }) => operation.security.some((one) => "adminToken" in one));

  it("names no operation that answers without a token, or with one that is expired, revoked or no token at all", async () => {
    const world = await furnish();
    const own = { label: "l", zone_id: world.zone_id };
    const expired = await expectOk(api.url, api.global_token, "createAdminToken", {
      body: { ...own, expires_in_s: 60 },
    });
    await api.db.sql`update admin_tokens set expires_at = now() where id = ${expired.id}`;
    const revoked = await expectOk(api.url, api.global_token, "createAdminToken", { body: own });
    await expectOk(api.url, api.global_token, "revokeAdminToken", { params: { id: revoked.id } });
    for (const route of routes) {
      for (const token of [undefined, "x".repeat(43), expired.token, revoked.token]) {
        const { status, body } = await ask(route, pathOf(route, world), token);
        assert.deepEqual([status, body.error], [401, "invalid_token"], `${route.method} ${route.path}`);
      }
    }
  });

  it("names no operation on a zone that answers another zone's token", async () => {
    const world = await furnish();
    const other = await makeZone(api);
    const of_zone = guarded().filter(({ path }) => path.includes("{zone_id}"));
    assert.ok(of_zone.length > 40);
    for (const route of of_zone) {
      const { status, body } = await ask(route, pathOf(route, world), other.token);
      assert.deepEqual([status, body.error], [403, "admin_token_zone_mismatch"], `${route.method} ${route.path}`);
    }
  });

  it("names no path in which another zone's id is any use", async () => {
    const theirs = await furnish();
    const mine = await makeZone(api);
    const with_ids = guarded().filter(({ path }) => path.includes("{id}"));
    assert.ok(with_ids.length > 25);
    for (const route of with_ids) {
      const path = pathOf(route, { ...theirs, zone_id: mine.zone_id });
      const tokens = route.path.includes("{zone_id}") ? [mine.token, api.global_token] : [mine.token];
      for (const token of tokens) {
        const { status, text: said } = await ask(route, path, token, bodyOf(route.operation.operationId, theirs));
        assert.equal(status, 404, `${route.method} ${route.path}: ${said}`);
      }
    }
    for (const name of ["getApplication", "getResource", "getProvider", "getIssuer", "getGrant"] as const) {
      const kind = `${name.slice(3).toLowerCase()}s`;
      const params = { zone_id: theirs.zone_id, id: theirs.ids[kind] ?? "" };
      assert.equal(
        (await call(api.url, theirs.token, name, { params })).status,
        200,
        "nothing was changed or archived",
      );
    }
  });

  it("names no body field in which another zone's id is any use", async () => {
    const mine = await furnish();
    const theirs = await furnish();
    let fields = 0;
    for (const route of guarded()) {
      const name = route.operation.operationId;
      const schema = route.operation.requestBody?.content["application/json"]?.schema;
      for (const at of new Map(idsIn(schema).map((one) => [one.join("."), one])).values()) {
        const body = bodyOf(name, mine);
        assert.ok(body !== undefined, `${name} takes an id in ${at.join(".")} and has no body here`);
        const kind = { workload_issuer_id: "issuers", zone_id: "zone" }[at.at(-1) ?? ""];
        const foreign =
          kind === "zone" ? theirs.zone_id : (theirs.ids[kind ?? `${at.at(-1)?.replace(/_id$/, "")}s`] ?? uuidv7());
        const { status, text: said } = await ask(route, pathOf(route, mine), mine.token, withId(body, at, foreign));
        assert.ok(status >= 400 && status < 500, `${name} ${at.join(".")}: ${status} ${said}`);
        fields += 1;
      }
    }
    assert.ok(fields >= 10, `${fields} fields take an id`);
  });
});
