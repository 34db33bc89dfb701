import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import type { Socket } from "node:net";
import type { LedgerEvent } from "../../src/contracts/api-ledger.ts";
import { callApi } from "../support/control-plane.ts";
import { eventually } from "../support/eventually.ts";
import {
  ALLOW,
  type Attack,
  type AttackerZone,
  breathe,
  type Client,
  type Field,
  flood,
  over,
  socketTo,
} from "./attack.ts";

/** What whoever holds one client's secret or token can do, or nothing but an address. */

/** Writes the same bytes again and again, as fast as they are taken, until the signal or so many bytes. */
const pump = (socket: Socket, bytes: Buffer, most: number, until: AbortSignal): Promise<void> =>
  new Promise((resolve) => {
    let sent = 0;
    const done = (): void => {
      socket.removeAllListeners("drain");
      resolve();
    };
    const more = (): void => {
      while (!until.aborted && !socket.destroyed && sent < most) {
        sent += bytes.byteLength;
        if (!socket.write(bytes)) return;
      }
      done();
    };
    socket.on("drain", more);
    socket.once("close", done);
    until.addEventListener("abort", done, { once: true });
    more();
  });

const agentOf = async (
  field: Field,
  policy = ALLOW,
): Promise<{ zone: AttackerZone; client: Client; token: string; resource: string }> => {
  const zone = await field.zone();
  await zone.policy(policy);
  const { identifier } = await zone.resource(field.innocent.upstream_url);
  const client = await zone.client();
  const token = await eventually(() => client.token(), { timeout_ms: 10_000, every_ms: 250 });
  await eventually(async () => (await field.call(token, identifier)).status === 200, {
    timeout_ms: 10_000,
    every_ms: 250,
  });
  return { zone, client, token, resource: identifier };
};

/** Rows that a flood of eight seconds may leave: one a second and reason, with room for the edges. */
const MOST_ROWS = 30;
const PAGE = 200;

const revokedToken: Attack = {
  name: "calls with one revoked token at full speed",
  async setUp(field) {
    const { zone, client, token, resource } = await agentOf(field);
    const [, claims = ""] = token.split(".");
    const { sid } = JSON.parse(Buffer.from(claims, "base64url").toString()) as { readonly sid: string };
    await zone.api.revokeSession(sid);
    await eventually(async () => (await field.call(token, resource)).status === 401, { timeout_ms: 5_000 });
    let refused = 0;
    return {
      run: (until) =>
        flood(until, 64, async () => {
          if ((await field.call(token, resource, { signal: until })).status === 401) refused += 1;
        }),
      async expect() {
        assert.ok(refused > 100, `only ${refused} calls were refused`);
        const path = `/v1/zones/${zone.id}/audit?limit=${PAGE}&decision=deny&client_id=${client.id}`;
        const rows = async (): Promise<number> => {
          const page = await callApi(field.api_url, zone.admin_token, "GET", path);
          return (page.body as { readonly items: readonly LedgerEvent[] }).items.length;
        };
        const count = await eventually(async () => {
          const found = await rows();
          return found > 0 && found;
        });
        assert.ok(
          count <= MOST_ROWS,
          `${refused} repeated denials left ${count}${count === PAGE ? " or more" : ""} rows`,
        );
      },
    };
  },
};

const SPLITS = `package caracal.authz

segments := split(input.action.path, "/")

result := {"decision": "allow", "evaluation_status": "complete", "determining_policies": ["split"], "diagnostics": []} if {
	every segment in segments { segment != "secret" }
}

result := {"decision": "allow", "evaluation_status": "complete", "determining_policies": ["split"], "diagnostics": []} if {
	not input.action.path
}
`;

const SLASHES_BEFORE = 20;

const manySlashes: Attack = {
  name: "paths of 2 000 segments for an ordinary rule on paths",
  async setUp(field) {
    const { zone, token, resource } = await agentOf(field, SPLITS);
    const neighbour = await zone.client();
    const neighbours_token = await neighbour.token();
    assert.equal((await field.call(neighbours_token, resource, { path: "/a/b" })).status, 200);
    const statuses: number[] = [];
    let before = SLASHES_BEFORE;
    const path = "/a".repeat(2_000);
    return {
      async run(until) {
        const attack = flood(until, 4, async () => {
          await field.call(token, resource, { path, signal: until });
          before -= 1;
        });
        const other = flood(until, 1, async () => {
          // Not in between: a call that succeeds would hide what the failures before it did.
          if (before <= 0) statuses.push((await field.call(neighbours_token, resource, { path: "/a/b" })).status);
          await breathe(50);
        });
        await Promise.all([attack, other]);
      },
      expect() {
        assert.deepEqual([...new Set(statuses)], [200], "another client of the zone goes on under the same policy");
      },
    };
  },
};

const ONE_BYTE_CHUNKS = Buffer.from("1\r\nx\r\n".repeat(16_384));
const CHUNKED_BYTES = 12 * 1_024 * 1_024 * 6;

const tinyChunks: Attack = {
  name: "uploads of megabytes in chunks of one byte",
  async setUp(field) {
    const { token, resource } = await agentOf(field);
    const head = `POST /up HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${token}\r\nX-Caracal-Resource: ${resource}\r\nTransfer-Encoding: chunked\r\n\r\n`;
    return {
      run: (until) =>
        flood(until, 4, async () => {
          const socket = socketTo(field, field.gateway_url);
          socket.write(head);
          await pump(socket, ONE_BYTE_CHUNKS, CHUNKED_BYTES, until);
          socket.destroy();
        }),
    };
  },
};

const OPEN_STREAMS = 400;

const openStreams: Attack = {
  name: "400 open streams to the innocent's own upstream",
  async setUp(field) {
    const { token, resource } = await agentOf(field);
    const request = `GET /open HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${token}\r\nX-Caracal-Resource: ${resource}\r\n\r\n`;
    return {
      async run(until) {
        for (let i = 0; i < OPEN_STREAMS; i += 1) socketTo(field, field.gateway_url).write(request);
        await over(until);
      },
    };
  },
};

const neighboursStreams: Attack = {
  name: "400 open streams of one client beside another client of its zone",
  async setUp(field) {
    const { zone, token, resource } = await agentOf(field);
    const neighbours_token = await (await zone.client()).token();
    const request = `GET /open HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${token}\r\nX-Caracal-Resource: ${resource}\r\n\r\n`;
    const statuses: number[] = [];
    return {
      async run(until) {
        for (let i = 0; i < OPEN_STREAMS; i += 1) socketTo(field, field.gateway_url).write(request);
        await flood(until, 1, async () => {
          statuses.push((await field.call(neighbours_token, resource)).status);
          await breathe(100);
        });
      },
      expect() {
        assert.deepEqual([...new Set(statuses)], [200], "the zone's other client is served");
      },
    };
  },
};

const wrongSecrets: Attack = {
  name: "wrong secrets for the innocent's client from its own address",
  async setUp(field) {
    const form = { grant_type: "client_credentials", zone_id: field.innocent.api.zone_id, client_secret: "wrong" };
    return {
      run: (until) =>
        flood(until, 32, async (turn) => {
          const client_id = turn % 2 === 0 ? field.innocent.client_id : randomUUID();
          await field.ask({ ...form, client_id }, until);
        }),
    };
  },
};

const SLOW = 400;

/** One byte of the text each quarter of a second, on many connections. */
const slowly = (
  name: string,
  begin: (field: Field) => Promise<{ readonly url: string; readonly first: string }>,
): Attack => ({
  name,
  async setUp(field) {
    const { url, first } = await begin(field);
    return {
      async run(until) {
        const sockets = Array.from({ length: SLOW }, () => socketTo(field, url));
        for (const socket of sockets) socket.write(first);
        const timer = setInterval(() => {
          for (const socket of sockets) if (socket.writable) socket.write("a");
        }, 250);
        await over(until);
        clearInterval(timer);
      },
    };
  },
});

const slowHeaders = slowly("400 requests whose headers never end", async (field) => ({
  url: field.gateway_url,
  first: "GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ",
}));

const slowBodies = slowly("400 token requests whose body never ends", async (field) => ({
  url: field.sts_url,
  first:
    "POST /oauth/2/token HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 60000\r\n\r\n",
}));

const slowUploads = slowly("400 uploads that never end", async (field) => {
  const { token, resource } = await agentOf(field);
  return {
    url: field.gateway_url,
    first: `POST /up HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${token}\r\nX-Caracal-Resource: ${resource}\r\nContent-Length: 1000000\r\n\r\n`,
  };
});

const HANDSHAKES = 400;
/** A handshake that goes on for longer than headers may is let go. */
const HANDSHAKE_MS = 20_000;

const slowHandshakes: Attack = {
  name: "400 TLS handshakes that never end",
  impossible: (field) => (field.gateway_url.startsWith("https:") ? undefined : "needs TLS"),
  async setUp(field) {
    const open = new Set<Socket>();
    return {
      async run(until) {
        for (let i = 0; i < HANDSHAKES; i += 1) {
          const socket = socketTo(field, field.gateway_url);
          open.add(socket);
          socket.once("close", () => open.delete(socket));
          socket.write(Buffer.from([0x16, 0x03, 0x01, 0x01, 0x00])); // the head of a ClientHello
        }
        await over(until);
      },
      expect: () =>
        eventually(() => assert.equal(open.size, 0, "handshakes are still held"), { timeout_ms: HANDSHAKE_MS }),
    };
  },
};

const GRANT_TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token";

const otherCalls: Attack = {
  name: "mandates that were obtained for other calls",
  async setUp(field) {
    const { client, token, resource } = await agentOf(field);
    const exchange = (fields: Readonly<Record<string, string>>) =>
      field.ask({
        grant_type: GRANT_TOKEN_EXCHANGE,
        ...client.form,
        subject_token: token,
        subject_token_type: ACCESS_TOKEN,
        resource,
        ...fields,
      });
    const answers: string[] = [];
    return {
      run: (until) =>
        flood(until, 8, async (turn) => {
          const got = await exchange({ call_method: "GET", call_path: "/read" });
          const { access_token } = JSON.parse(got.text || "{}") as { readonly access_token?: string };
          if (access_token === undefined) return;
          const other = turn % 2 === 0 ? { path: "/delete" } : { path: "/read", method: "DELETE" };
          const { status, text } = await field.call(access_token, resource, other);
          if (status !== 429) answers.push(`${status} ${text.slice(0, 80)}`);
        }),
      async expect() {
        assert.ok(answers.length > 0);
        assert.ok(
          answers.every((answer) => answer.startsWith("403")),
          [...new Set(answers)].join(", "),
        );
        const unbound = await exchange({});
        assert.notEqual(unbound.status, 200, "a mandate for any call was given");
      },
    };
  },
};

const hugeScopes: Attack = {
  name: "token requests with scopes of 60 KB",
  async setUp(field) {
    const { client } = await agentOf(field);
    const scope = Array.from({ length: 8_000 }, (_, n) => `s${n}`).join(" ");
    const statuses = new Set<number>();
    return {
      run: (until) =>
        flood(until, 32, async () => {
          statuses.add((await field.ask({ grant_type: "client_credentials", ...client.form, scope }, until)).status);
        }),
      expect() {
        assert.ok(!statuses.has(200) && !statuses.has(500), [...statuses].join(", "));
      },
    };
  },
};

const otherResourcesScopes: Attack = {
  name: "mandates asked for without a scope that the resource has",
  async setUp(field) {
    const { zone, token } = await agentOf(field);
    const { identifier } = await zone.resource(field.innocent.upstream_url, ["another:scope"]);
    const statuses = new Set<number>();
    await eventually(async () => (await field.call(token, identifier)).status !== 404, { timeout_ms: 5_000 });
    return {
      run: (until) =>
        flood(until, 8, async () => {
          const { status } = await field.call(token, identifier, { signal: until });
          if (status !== 0) statuses.add(status);
        }),
      expect() {
        assert.ok(!statuses.has(200), "a mandate without any scope went to a resource that declares some");
      },
    };
  },
};

/** Of the handshake itself: only where the program serves TLS. */
export const TLS_ATTACKS: readonly Attack[] = [slowHandshakes];

export const AGENT_ATTACKS: readonly Attack[] = [
  revokedToken,
  manySlashes,
  tinyChunks,
  openStreams,
  neighboursStreams,
  wrongSecrets,
  slowHeaders,
  slowBodies,
  slowUploads,
  otherCalls,
  hugeScopes,
  otherResourcesScopes,
];
