import assert from "node:assert/strict";
import { randomBytes, randomUUID } from "node:crypto";
import { connect, type Socket } from "node:net";
import { after, before, describe, it } from "node:test";
import fc from "fast-check";
import { bootstrapZone, type ControlPlane, createControlPlane } from "../support/control-plane.ts";
import { eventually } from "../support/eventually.ts";
import { type Program, startProgram } from "../support/program.ts";
import { openRaw, type RawConnection, requestText } from "../support/raw-http.ts";
import { swept } from "./bad-input-client.ts";
import { anyRequest, ODD_TEXTS, type Vocabulary } from "./bad-input-random.ts";
import { MALFORMED, OVERSIZE, type Shape, SMUGGLING } from "./bad-input-shapes.ts";
import {
  type Credentials,
  FORM,
  PORTS,
  RESOURCE,
  type Spoilable,
  spoilables,
  vocabularies,
} from "./bad-input-vocabulary.ts";
import { readMetric } from "./metrics.ts";

/** From outside, at every port of a running instance: a clear 4xx or a close; never a 5xx, a stack, a leak or a hang. */

const RUNS = 300;
const SEED = 20_261_123;
const ROUNDS = 5;
/** What a process may keep of a sweep that was done before: code that got warm, pools that were filled. */
const HEAP_SLACK = 24 * 1024 * 1024;
const RSS_SLACK = 128 * 1024 * 1024;
/** While a hundred thousand answers are asked for. */
const UNREAD_SLACK = 80 * 1024 * 1024;
const FILES_SLACK = 32;
/** Headers within 10 s, looked at every 5 s; forms and bodies within 10 s. */
const SLOW_WITHIN_MS = 25_000;

const ALLOW = `package caracal.authz

result := {"decision": "allow", "evaluation_status": "complete", "determining_policies": ["sweep"], "diagnostics": []}
`;

type Port = { readonly role: string; readonly url: string; readonly vocabulary: Vocabulary };
type Usage = { readonly heap: number; readonly rss: number; readonly files: number };

/** JSON values where others belong: every odd text, and what is no text. */
const ODD_VALUES: readonly unknown[] = [
  ...ODD_TEXTS,
  ...[null, true, 0, -1, 1.5, 1e308, 2_147_483_648, 9_007_199_254_740_992, [], [null], [[]], {}],
  Array.from({ length: 5_000 }, (_, at) => `a${at}`),
  ["a", "a"],
  ["a b", "\u00e9"],
  [ODD_TEXTS],
  "\ud800",
  { toString: 1, __proto__: null, constructor: { name: "a" } },
];

/** The request with one field spoilt. */
const spoilt = (good: Spoilable, field: string, value: unknown): string => {
  const headers = { Host: "a", Connection: "close", ...good.headers };
  const fields = Object.fromEntries(
    Object.entries({ ...good.fields, [field]: value }).filter(([, one]) => one !== undefined),
  );
  if (good.encode === "json") return requestText(good.method, good.path, headers, JSON.stringify(fields));
  const form = new URLSearchParams(fields as Record<string, string>).toString();
  return good.encode === "form"
    ? requestText(good.method, good.path, headers, form)
    : requestText(good.method, `${good.path}?${form}`, headers);
};

describe("a sweep of bad input", () => {
  let program: Program;
  let ports: readonly Port[];
  /** A zone of the sweep's own: with its token, random requests may change what they like. */
  let api: ControlPlane;
  let admin_token: string;
  let ambient_token: string;
  let own: Credentials;
  let first: Usage;
  let slow: readonly { readonly name: string; readonly connection: RawConnection; readonly answered?: number }[];

  const askToken = async (
    more: Readonly<Record<string, string>>,
    headers: Record<string, string> = {},
  ): Promise<Response> => {
    const { sts_url, zone_id, application_id, client_secret } = program.quickstart;
    const fields = { grant_type: "client_credentials", zone_id, client_id: application_id, client_secret, ...more };
    return fetch(`${sts_url}/oauth/2/token`, { method: "POST", body: new URLSearchParams(fields), headers });
  };

  const tokenIn = async (answer: Response): Promise<string> => {
    const body = (await answer.json()) as { access_token?: string };
    assert.ok(body.access_token !== undefined, JSON.stringify(body));
    return body.access_token;
  };

  const callTool = async (token: string, headers: Record<string, string> = {}, path = "/"): Promise<Response> =>
    fetch(`${program.quickstart.gateway_url}${path}`, {
      method: "POST",
      headers: {
        authorization: `Bearer ${token}`,
        "x-caracal-resource": program.quickstart.resource,
        "content-type": "application/json",
        ...headers,
      },
      body: JSON.stringify({
        jsonrpc: "2.0",
        id: 1,
        method: "tools/call",
        params: { name: "echo", arguments: { text: "still here" } },
      }),
    });

  const usage = async (): Promise<Usage> => {
    const page = await (await fetch(`${program.quickstart.gateway_url}/metrics`)).text();
    return {
      heap: readMetric(page, "nodejs_heap_size_used_bytes"),
      rss: readMetric(page, "process_resident_memory_bytes"),
      files: readMetric(page, "process_open_fds"),
    };
  };

  /** The least of several looks: what is garbage is no leak. */
  const settled = async (): Promise<Usage> => {
    const seen: Usage[] = [];
    for (let look = 0; look < 25; look += 1) seen.push(await usage());
    const least = (pick: (one: Usage) => number): number => Math.min(...seen.map(pick));
    return { heap: least((one) => one.heap), rss: least((one) => one.rss), files: least((one) => one.files) };
  };

  /** Clients that begin and do not go on. They wait while the rest of the sweep runs. */
  const startSlow = async (): Promise<typeof slow> => {
    const { sts_url, api_url, gateway_url, resource } = program.quickstart;
    const begun = async (name: string, url: string, bytes: string, answered?: number) => {
      const connection = await openRaw(url);
      connection.write(bytes);
      return { name, connection, ...(answered === undefined ? {} : { answered }) };
    };
    const headers = await Promise.all(
      ports.flatMap(({ role, url }) => [
        begun(`${role}: nothing at all`, url, "", 408),
        begun(`${role}: half a request line`, url, "GET /hea", 408),
        begun(`${role}: half a head`, url, "GET /health HTTP/1.1\r\nHost: a\r\nX-A: b", 408),
        begun(
          `${role}: a body behind the answer`,
          url,
          "POST /health HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\na",
          405,
        ),
      ]),
    );
    const form = { Host: "a", "Content-Type": FORM, "Content-Length": "64" };
    const json = {
      Host: "a",
      Authorization: `Bearer ${admin_token}`,
      "Content-Type": "application/json",
      "Content-Length": "64",
    };
    const call = {
      Host: "a",
      Authorization: `Bearer ${ambient_token}`,
      "X-Caracal-Resource": resource,
      "Content-Length": "64",
    };
    return [
      ...headers,
      await begun("sts: half a form", sts_url, `${requestText("POST", "/oauth/2/token", form)}grant_type=`, 408),
      await begun(
        "api: half a body",
        api_url,
        `${requestText("POST", `/v1/zones/${api.zone_id}/applications`, json)}{"name":`,
        408,
      ),
      await begun("gateway: half a call", gateway_url, `${requestText("POST", "/", call)}{"jsonrpc":`, 504),
    ];
  };

  before(async () => {
    const bootstrap = randomBytes(32).toString("base64url");
    program = await startProgram({
      env: {
        BOOTSTRAP_ADMIN_TOKEN: bootstrap,
        RATE_LIMIT_PER_MINUTE: "1000000",
        UPSTREAM_TIMEOUT: "5s",
        NODE_OPTIONS: "--max-old-space-size=160", // what is kept and not let go shows the sooner
      },
    });
    const q = program.quickstart;
    const zone = await bootstrapZone(q.api_url, bootstrap, { slug: "sweep", name: "Sweep" });
    admin_token = zone.admin_token;
    api = createControlPlane(() => q.api_url, zone.zone_id, admin_token);
    const other = await api.createApplication({ name: "Sweep", scopes: ["a"] });
    await api.activate("Sweep", [(await api.createPolicy("Sweep", ALLOW)).id]);
    ambient_token = await tokenIn(await askToken({}));
    const { id: application_id, client_secret = "" } = other;
    await api.createResource({
      identifier: RESOURCE,
      name: "Sweep",
      upstream_url: "http://127.0.0.1:1/",
      scopes: ["a"],
    });
    const zone_token = await eventually(async () => {
      const issued = await askToken({ zone_id: zone.zone_id, client_id: application_id, client_secret });
      return tokenIn(issued);
    });
    own = {
      quickstart: q,
      ambient_token,
      zone_id: zone.zone_id,
      admin_token,
      application_id,
      client_secret,
      zone_token,
    };
    const words = vocabularies(own);
    ports = PORTS.map((role) => ({ role, url: q[`${role}_url`], vocabulary: words[role] }));
    first = await settled();
    slow = await startSlow();
  });
  after(async () => {
    for (const { connection } of slow ?? []) connection.destroy();
    await program?.close();
  });

  const sweepShapes = async (shapes: readonly Shape[], role: string, url: string): Promise<void> => {
    for (const { name, bytes, statuses, breaks_off } of shapes) {
      const found = await swept(`${role}: ${name}`, url, bytes, { breaks_off: breaks_off === true });
      if (statuses === undefined) continue;
      assert.equal(found.length, statuses.length, `${role}: ${name}: ${found.join()}`);
      found.forEach((status, at) => assert.ok(statuses[at]?.includes(status), `${role}: ${name}: ${found.join()}`));
    }
  };

  const sweepRandom = async ({ role, url, vocabulary }: Port, seed: number, runs = RUNS): Promise<void> => {
    for (const [at, { bytes, head_only }] of fc.sample(anyRequest(vocabulary), { seed, numRuns: runs }).entries()) {
      const shown = JSON.stringify(bytes.toString("latin1").slice(0, 2_000));
      await swept(`${role}: random request ${at} of seed ${seed}: ${shown}`, url, bytes, { head_only });
    }
  };

  it("finds no message that is taken for two", async () => {
    for (const { role, url } of ports) {
      for (const { name, bytes } of SMUGGLING) {
        const statuses = await swept(`${role}: ${name}`, url, bytes);
        assert.equal(statuses.length, 1, `${role}: ${name}: ${statuses.join()}`);
        assert.ok((statuses[0] ?? 0) >= 400, `${role}: ${name}: ${statuses.join()}`);
      }
    }
  });

  it("finds no malformed message that gets anything but a refusal or the end", async () => {
    for (const { role, url } of ports) await sweepShapes(MALFORMED, role, url);
  });

  it("finds nothing too large to be refused", async () => {
    for (const { role, url } of ports) await sweepShapes(OVERSIZE, role, url);
  });

  it("finds no field that takes the absurd, nor one that fails over it", async () => {
    const { sts_url, api_url } = program.quickstart;
    for (const [role, url] of [
      ["sts", sts_url],
      ["api", api_url],
    ] as const) {
      for (const good of spoilables(own)[role]) {
        const name = `${role}: ${good.method} ${good.path}`;
        const [status = 0] = await swept(name, url, spoilt(good, "", undefined));
        assert.ok(status < 300, `${name}: unspoilt, it gets ${status}`);
        for (const field of Object.keys(good.fields)) {
          // Each wrong secret counts against the address.
          if (good.encode === "form" && /^(client_|zone_id)/.test(field)) continue;
          for (const value of good.encode === "json" ? ODD_VALUES : ODD_TEXTS) {
            await swept(
              `${name} with ${field} = ${JSON.stringify(value).slice(0, 80)}`,
              url,
              spoilt(good, field, value),
            );
          }
        }
      }
    }
  });

  it("finds no request, put together at random, that is answered badly", async () => {
    for (const port of ports) await sweepRandom(port, SEED);
  });

  it("keeps a refusal in the ledger whatever the caller put into its fields", async () => {
    const { api_url, zone_id } = program.quickstart;
    const plane = createControlPlane(() => api_url, zone_id, program.quickstart.admin_token);
    const hostile = [
      "\u0000",
      "a\u0000b\u0001",
      "\u202e\u{10ffff}\ufffe",
      "x".repeat(8_000),
      "\\u0000\\ud800",
      "'; drop table audit_events; --",
    ];
    const before = await plane.ledger({ decision: "deny" });
    const asked: { readonly id: string; readonly what: string }[] = [];
    for (const text of hostile) {
      for (const field of ["scope", "resource", "ttl_seconds", "session_id"]) {
        const id = `sweep-${randomUUID()}`;
        const answer = await askToken({ [field]: text }, { "x-request-id": id });
        await answer.text();
        assert.ok(answer.status >= 400 && answer.status < 500, `${field}: ${answer.status}`);
        asked.push({ id, what: `${field}=${JSON.stringify(text.slice(0, 20))}` });
      }
    }
    // What the Gateway is given before it knows who calls is counted only; this is behind the token's signature.
    const { denied_resource } = program.quickstart;
    const calls: readonly { readonly what: string; readonly path: string; readonly headers: Record<string, string> }[] =
      [
        {
          what: "a path of 20 000 characters",
          path: `/${"a".repeat(20_000)}`,
          headers: { "x-caracal-resource": denied_resource },
        },
        {
          what: "a path of escapes",
          path: `/${"%F3%A0%80%81%E2%80%AE".repeat(500)}`,
          headers: { "x-caracal-resource": denied_resource },
        },
        {
          what: "a path with an unknown resource",
          path: "/%7B%22reason%22%3Anull%7D",
          headers: { "x-caracal-resource": "resource://nobody" },
        },
        { what: "scopes beyond counting", path: "/", headers: { "x-caracal-scope": "root ".repeat(250).trim() } },
      ];
    for (const { what, path, headers } of calls) {
      const id = `sweep-${randomUUID()}`;
      const answer = await callTool(ambient_token, { "x-request-id": id, ...headers }, path);
      const text = await answer.text();
      assert.ok(answer.status >= 400 && answer.status < 500, `${what}: ${answer.status} ${text}`);
      asked.push({ id, what });
    }
    // A denial that repeats one of the last second is counted with others; what stands alone is found by its request.
    const denials = async () => {
      const rows = await plane.ledger({ decision: "deny" });
      const known = new Set(before.map((row) => row.id));
      return rows.filter((row) => !known.has(row.id));
    };
    const count = ({ metadata_json }: { readonly metadata_json: string | null }): number =>
      (JSON.parse(metadata_json ?? "{}") as { count?: number }).count ?? 1;
    await eventually(async () => {
      const kept = (await denials()).reduce((sum, row) => sum + count(row), 0);
      assert.ok(kept >= asked.length, `${kept} of ${asked.length} are in the ledger`);
    });
    const alone = new Set((await denials()).map((row) => row.request_id));
    assert.ok(
      asked.some(({ id }) => alone.has(id)),
      "the first of its kind is found by its request",
    );
  });

  it("closes every client that begins and does not go on", async () => {
    for (const { name, connection, answered } of slow) {
      await connection.closed(SLOW_WITHIN_MS).catch(() => assert.fail(`${name}: it is still open`));
      assert.equal(connection.seen()?.status, answered, `${name}: ${JSON.stringify(connection.seen())}`);
    }
  });

  it("holds no answers for a client that asks and asks and never reads", async () => {
    const sockets: Socket[] = [];
    const quiet = await settled();
    let most = 0;
    try {
      for (const { url } of ports) {
        for (const page of ["/metrics", "/nothing"]) {
          const { hostname, port } = new URL(url);
          const socket = connect({ host: hostname, port: Number(port) }).pause();
          socket.on("error", () => undefined);
          sockets.push(socket);
          await new Promise<void>((resolve) => socket.once("connect", () => resolve()));
          socket.write(requestText("GET", page, { Host: "a" }).repeat(20_000));
        }
        for (let look = 0; look < 5; look += 1) most = Math.max(most, (await usage()).heap);
      }
    } finally {
      for (const socket of sockets) socket.destroy();
    }
    assert.ok(most <= quiet.heap + UNREAD_SLACK, `heap: ${quiet.heap}, then ${most}`);
  });

  it("leaves memory and connections as they were, however often it is repeated", async (test) => {
    for (let round = 1; round <= ROUNDS; round += 1) {
      for (const port of ports) {
        await sweepShapes([...SMUGGLING, ...OVERSIZE], port.role, port.url);
        await sweepRandom(port, SEED + round, 40);
      }
    }
    let last = first;
    const back = (): boolean =>
      last.files <= first.files + FILES_SLACK &&
      last.heap <= first.heap + HEAP_SLACK &&
      last.rss <= first.rss + RSS_SLACK;
    await eventually(
      async () => {
        last = await settled(); // asking makes garbage, and garbage is what the collector waits for
        return back();
      },
      { timeout_ms: 20_000 },
    ).catch(() => undefined);
    const mb = (bytes: number): string => `${Math.round(bytes / 1024 / 1024)} MB`;
    const shown = ({ heap, rss, files }: Usage): string => `heap ${mb(heap)}, memory ${mb(rss)}, ${files} files`;
    test.diagnostic(`before: ${shown(first)}; after: ${shown(last)}`);
    assert.ok(back(), `before: ${shown(first)}; after: ${shown(last)}`);
  });

  it("leaves the program as it was: it serves, its log has no failure and no secret, nothing is dead", async () => {
    const answer = await callTool(ambient_token);
    assert.equal(answer.status, 200);
    assert.match(await answer.text(), /still here/);
    assert.equal((await askToken({})).status, 200);
    for (const { role, url } of ports) assert.equal((await fetch(`${url}/ready`)).status, 200, role);
    const page = await (await fetch(`${program.quickstart.audit_url}/metrics`)).text();
    assert.equal(readMetric(page, "dlq_depth"), 0);
    const log = program.stderr() + program.stdout();
    assert.doesNotMatch(log, /"level":"(error|fatal)"|unexpectedly|UnhandledPromise|MaxListeners/);
    assert.ok(!log.includes(ambient_token) && !log.includes(admin_token));
  });
});
