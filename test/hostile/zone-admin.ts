import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import type { Named, PolicySetVersion, PolicyVersion } from "../../src/contracts/api-policies.ts";
import { callApi } from "../support/control-plane.ts";
import { eventually } from "../support/eventually.ts";
import { ALLOW, type Attack, type AttackerZone, breathe, type Client, type Field, flood } from "./attack.ts";
import { heavyRequests } from "./heavy-requests.ts";

/** What whoever holds the admin token of one zone can do: its policies, its objects, its names. */

const MEMBERS = 256;
const RESOURCES = 16;

const complete = (body: string): string => `package caracal.authz

result := {"decision": "allow", "evaluation_status": "complete", "determining_policies": ["hostile"], "diagnostics": []} if {
	${body}
}
`;

/** Ends in a conflict whatever it is asked: each evaluation fails, and its instance is spent. */
const FAILING = `${complete("answer > 0")}
answer := 1 if input.principal.zone_id
answer := 2 if input.principal.id
`;
/** Comes to no end within any budget. */
const ENDLESS = complete(
  "count([1 | some i in numbers.range(1, 100000); some j in numbers.range(1, i); i * j == -1]) == 0",
);
/** Allows after so many rounds. */
const working = (rounds: number): string =>
  complete(`count([i | some i in numbers.range(1, ${rounds}); i * i > 0]) == ${rounds}`);

/** The same compiled policy under so many version ids: a quicker way to what an hour of writing reaches. */
const copies = async (
  field: Field,
  zone: AttackerZone,
  version: PolicyVersion,
  count: number,
): Promise<readonly string[]> => {
  const rows = await field.sql?.(
    `insert into policy_versions
     select (jsonb_populate_record(v, jsonb_build_object('id', gen_random_uuid()::text, 'version', n + 1))).*
     from policy_versions v, generate_series(1, $3::int) n where v.zone_id = $1 and v.id = $2 returning id`,
    zone.id,
    version.id,
    String(count - 1),
  );
  return [version.id, ...(rows ?? []).map((row) => String(row["id"]))];
};

/** Activates as many of these members as the zone may have in one set. */
const activateMost = async (field: Field, zone: AttackerZone, ids: readonly string[]): Promise<number> => {
  const path = `/v1/zones/${zone.id}/policy-sets`;
  const set = (await callApi(field.api_url, zone.admin_token, "POST", path, { name: `S ${randomUUID()}` }))
    .body as Named;
  for (let count = ids.length; count >= 1; count = Math.floor(count / 2)) {
    const entries = ids.slice(0, count).map((policy_version_id) => ({ policy_version_id }));
    const made = await callApi(field.api_url, zone.admin_token, "POST", `${path}/${set.id}/versions`, { entries });
    if (made.status !== 201) continue;
    const version_id = (made.body as PolicySetVersion).id;
    await callApi(field.api_url, zone.admin_token, "POST", `${path}/${set.id}/activate`, { version_id });
    return count;
  }
  throw new Error("not one member may be in a set");
};

const ambientForm = (client: Client, resources: readonly string[]): URLSearchParams => {
  const form = new URLSearchParams({ grant_type: "client_credentials", ...client.form });
  for (const resource of resources) form.append("resource", resource);
  return form;
};

const withoutServers = (field: Field): string | undefined =>
  field.sql === undefined ? "needs a zone of its own" : undefined;

/** The token of a new client of the innocent zone's. */
const innocentToken = async (field: Field): Promise<string> => {
  const { zone_id } = field.innocent.api;
  const { id, client_secret = "" } = await field.innocent.api.createApplication({ name: randomUUID(), scopes: [] });
  const form = { grant_type: "client_credentials", zone_id, client_id: id, client_secret };
  const asked = await eventually(
    async () => {
      const got = await field.ask(form);
      assert.equal(got.status, 200, got.text);
      return got;
    },
    { timeout_ms: 10_000, every_ms: 250 },
  );
  return (JSON.parse(asked.text) as { readonly access_token: string }).access_token;
};

const members = (name: string, source: string): Attack => ({
  name,
  impossible: withoutServers,
  async setUp(field) {
    const zone = await field.zone();
    const version = await zone.api.createPolicy("Member", source);
    const clients = [await zone.client(), await zone.client()];
    const resources: string[] = [];
    for (let i = 0; i < RESOURCES; i += 1) resources.push((await zone.resource("http://127.0.0.1:9/")).identifier);
    await activateMost(field, zone, await copies(field, zone, version, MEMBERS));
    return {
      run: (until) =>
        flood(until, 8, async (turn) => {
          const client = clients[turn % 2];
          if (client !== undefined) await field.ask(ambientForm(client, resources), until);
        }),
    };
  },
});

const failingMembers = members("two clients, 16 resources a request, and 256 members that always fail", FAILING);
const endlessMembers = members("two clients, 16 resources a request, and 256 members without an end", ENDLESS);

const wholeBudget: Attack = {
  name: "calls whose policy takes nearly its whole budget",
  async setUp(field) {
    const zone = await field.zone();
    const client = await zone.client();
    const { identifier } = await zone.resource(field.innocent.upstream_url);
    let token = "";
    for (const rounds of [2_000, 1_000, 500, 250, 125]) {
      await zone.policy(working(rounds));
      const passes = async (): Promise<string | false> => {
        const given = await client.token();
        return (await field.call(given, identifier)).status === 200 && given;
      };
      token = await eventually(passes, { timeout_ms: 3_000, every_ms: 500 }).catch(() => "");
      if (token !== "") break;
    }
    assert.notEqual(token, "", "no policy of these sizes fits the budget");
    return {
      run: (until) =>
        flood(until, 64, async () => {
          await field.call(token, identifier, { signal: until });
        }),
    };
  },
};

const MANY_RESOURCES = 6_500;
const LONG = "x".repeat(2_020);

const manyResources: Attack = {
  name: "thousands of long resources in one zone",
  impossible: withoutServers,
  async setUp(field) {
    const zone = await field.zone();
    let refused: { readonly status: number; readonly body: unknown } | undefined;
    const make = async (): Promise<number> => {
      const identifier = `resource://${randomUUID()}/${"i".repeat(440)}`;
      const body = { identifier, name: "R", upstream_url: `http://127.0.0.1:9/${LONG}`, scopes: [] };
      const made = await callApi(field.api_url, zone.admin_token, "POST", `/v1/zones/${zone.id}/resources`, body);
      if (made.status !== 201) refused ??= made;
      return made.status;
    };
    return {
      async run(until) {
        await flood(until, 16, async () => (await make()) !== 201);
        if (refused !== undefined) return;
        // Nothing stopped it: this is where it would be after a minute.
        await field.sql?.(
          `insert into resources
           select (jsonb_populate_record(r, jsonb_build_object('id', gen_random_uuid()::text, 'identifier', r.identifier || n))).*
           from resources r, generate_series(1, $2::int) n
           where r.zone_id = $1 and r.id = (select id from resources where zone_id = $1 limit 1)`,
          zone.id,
          String(MANY_RESOURCES),
        );
        await make();
      },
      async expect() {
        // The Gateway still learns what others make: a resource of the innocent's, made now, is bound.
        const made = await field.innocent.api.createResource({
          identifier: `resource://${randomUUID()}`,
          name: "Made afterwards",
          upstream_url: field.innocent.upstream_url,
          scopes: [],
        });
        const token = await innocentToken(field);
        await eventually(
          async () => {
            const got = await field.call(token, made.identifier);
            assert.equal(got.status, 200, got.text);
          },
          { timeout_ms: 10_000, every_ms: 300 },
        );
        assert.equal(refused?.status, 409, "the zone's resources have no bound");
        assert.match(JSON.stringify(refused.body), /quota_exceeded/);
      },
    };
  },
};

const triples = (count: number): string =>
  `package caracal.authz\n\nx0 := [1]\n${Array.from({ length: count }, (_, n) => `x${n + 1} := [x${n}, x${n}, x${n}]`).join("\n")}\n\nresult := {"decision": "allow", "evaluation_status": "complete", "determining_policies": ["x"], "diagnostics": [x${count}]}\n`;
const doubledObjects = (count: number): string =>
  `package caracal.authz\n\nx0 := {"a": 1}\n${Array.from({ length: count }, (_, n) => `x${n + 1} := {"a": x${n}, "b": x${n}}`).join("\n")}\n\nresult := {"decision": "allow", "evaluation_status": "complete", "determining_policies": ["x"], "diagnostics": [x${count}]}\n`;
const nested = (depth: number): string =>
  `package caracal.authz\n\nx := ${"[".repeat(depth)}1${"]".repeat(depth)}\n\nresult := {"decision": "allow", "evaluation_status": "complete", "determining_policies": ["x"], "diagnostics": [x]}\n`;

/** An operator waits for their policy; a compile takes a fraction of a second where nobody is in the way. */
const COMPILED_WITHIN_MS = 10_000;

const compileBombs: Attack = {
  name: "compilations that grow without end",
  async setUp(field) {
    const zone = await field.zone();
    const bombs = [triples(40), doubledObjects(40), nested(5_000), triples(60)];
    const policy = await callApi(field.api_url, zone.admin_token, "POST", `/v1/zones/${zone.id}/policies`, {
      name: randomUUID(),
    });
    const path = `/v1/zones/${zone.id}/policies/${(policy.body as Named).id}/versions`;
    let compiled_ms = Infinity;
    let refused: unknown;
    return {
      async run(until) {
        const attack = flood(until, 32, async (turn) => {
          const source = `${bombs[turn % bombs.length]}\n# ${turn}`;
          const init = { method: "POST", body: JSON.stringify({ source }), signal: until };
          const headers = { authorization: `Bearer ${zone.admin_token}`, "content-type": "application/json" };
          const answer = await fetch(`${field.api_url}${path}`, { ...init, headers }).catch(() => undefined);
          await answer?.text();
        });
        const innocent = async (): Promise<void> => {
          await breathe(500); // the bombs are in place
          const began = performance.now();
          await field.innocent.api.createPolicy(`Innocent ${randomUUID()}`, ALLOW);
          compiled_ms = performance.now() - began;
        };
        const note = (error: unknown): void => void (refused = error);
        await Promise.all([attack, innocent().catch(note)]);
      },
      expect() {
        assert.equal(refused, undefined, `the innocent's policy was refused: ${String(refused)}`);
        assert.ok(compiled_ms <= COMPILED_WITHIN_MS, `the innocent's policy was compiled in ${compiled_ms} ms`);
      },
    };
  },
};

const NAMES = 64;

const hangingNames: Attack = {
  name: "64 upstream names whose look-up hangs",
  impossible: (field) => (field.names_hang ? undefined : "needs a mount namespace and port 53 of a loopback address"),
  async setUp(field) {
    const zone = await field.zone();
    await zone.policy(ALLOW);
    const client = await zone.client();
    const word = randomUUID().slice(0, 8);
    const resources: string[] = [];
    for (let i = 0; i < NAMES; i += 1)
      resources.push((await zone.resource(`http://${word}-${i}.example.com/`)).identifier);
    const token = await client.token();
    // Another zone's name is looked up, too: `localhost` is known without asking anybody, but is still a name.
    const other = await field.innocent.api.createResource({
      identifier: `resource://${randomUUID()}`,
      name: "By name",
      upstream_url: field.innocent.upstream_url.replace("127.0.0.1", "localhost"),
      scopes: [],
    });
    const access_token = await innocentToken(field);
    await eventually(async () => (await field.call(access_token, other.identifier)).status === 200, {
      timeout_ms: 10_000,
      every_ms: 250,
    });
    const statuses: number[] = [];
    let latest_ms = 0;
    return {
      async run(until) {
        const attack = flood(until, NAMES, async (turn) => {
          await field.call(token, resources[turn % NAMES] ?? "", { signal: until });
        });
        const byName = flood(until, 1, async () => {
          const began = performance.now();
          const { status } = await field.call(access_token, other.identifier);
          statuses.push(status);
          latest_ms = Math.max(latest_ms, performance.now() - began);
          await breathe(50);
        });
        await Promise.all([attack, byName]);
      },
      expect() {
        assert.deepEqual([...new Set(statuses)], [200], "another zone's upstream is found by its name");
        assert.ok(latest_ms <= 2_000, `latest ${latest_ms} ms`);
      },
    };
  },
};

const ZONES = 320;

const manyZones: Attack = {
  name: "more zones in use than are kept in memory",
  impossible: withoutServers,
  async setUp(field) {
    const tokens: { readonly token: string; readonly resource: string }[] = [];
    const encode = (value: object): string => Buffer.from(JSON.stringify(value)).toString("base64url");
    let made = 0;
    const one = async (): Promise<void> => {
      while (made < ZONES) {
        made += 1;
        const zone = await field.zone();
        const { identifier } = await zone.resource("http://127.0.0.1:9/");
        // Its own key is asked for, whoever signed: the kid is one that nobody has.
        const now_s = Math.floor(Date.now() / 1_000);
        const head = encode({ alg: "ES256", typ: "at+jwt", kid: randomUUID() });
        const claims = { zone_id: zone.id, exp: now_s + 600, iat: now_s, jti: randomUUID() };
        tokens.push({ token: `${head}.${encode(claims)}.${"A".repeat(86)}`, resource: identifier });
      }
    };
    await Promise.all(Array.from({ length: 8 }, one));
    return {
      run: (until) =>
        flood(until, 64, async (turn) => {
          const { token, resource } = tokens[turn % tokens.length] ?? { token: "", resource: "" };
          await field.call(token, resource, { signal: until });
        }),
    };
  },
};

const MOST_ADMIN_TOKENS = 500;

const manyAdminTokens: Attack = {
  name: "admin tokens without end",
  impossible: withoutServers,
  async setUp(field) {
    const zone = await field.zone();
    let made = 0;
    let refused: unknown;
    return {
      run: (until) =>
        flood(until, 32, async (turn) => {
          const answer = await callApi(field.api_url, zone.admin_token, "POST", "/v1/admin-tokens", {
            label: `t${turn}`,
          });
          if (answer.status === 201) made += 1;
          else refused = answer.body;
          return answer.status !== 201 || made > MOST_ADMIN_TOKENS;
        }),
      expect() {
        // The zone's first token counts, too. Fewer than all were made only where the time was too short.
        assert.ok(made <= MOST_ADMIN_TOKENS, `${made} tokens were made, and none refused`);
        if (refused !== undefined) assert.match(JSON.stringify(refused), /quota_exceeded/);
      },
    };
  },
};

export const ZONE_ADMIN_ATTACKS: readonly Attack[] = [
  failingMembers,
  endlessMembers,
  wholeBudget,
  manyResources,
  hangingNames,
  manyZones,
  manyAdminTokens,
  heavyRequests,
  // Last: where it succeeds, whoever comes after waits for the compiler.
  compileBombs,
];
