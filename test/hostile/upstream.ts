import assert from "node:assert/strict";
import { createServer, type Socket } from "node:net";
import type { AddressInfo } from "node:net";
import { eventually } from "../support/eventually.ts";
import { openRaw } from "../support/raw-http.ts";
import { ALLOW, type Assault, type Attack, type Field, flood, type Got, over, socketTo } from "./attack.ts";

/** What whoever runs one upstream can do: anything at all on the connection that the Gateway makes. */

const HEAD_END = "\r\n\r\n";

/** Writes `bytes` for ever, or so often, as fast as they are taken. */
const pour = (socket: Socket, bytes: Buffer, times: number): void => {
  let left = times;
  const more = (): void => {
    while (left > 0 && !socket.destroyed) {
      left -= 1;
      if (!socket.write(bytes)) return;
    }
    if (left === 0) socket.end();
  };
  socket.on("drain", more);
  more();
};

type Scene = {
  readonly token: string;
  /** Of the evil upstream. */
  readonly resource: string;
  readonly resource_id: string;
  readonly zone_id: string;
};

const WELL = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/**
 * A zone with one resource on an upstream that does `answer` with each connection, once a request's headers are there.
 * It behaves until the Gateway is seen to forward to it: an attack that nobody meets would prove nothing.
 */
const evilUpstream = async (field: Field, answer: (socket: Socket, path: string) => void): Promise<Scene> => {
  const sockets = new Set<Socket>();
  let well = true;
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on("error", () => undefined);
    socket.on("close", () => sockets.delete(socket));
    let seen = "";
    socket.on("data", (bytes: Buffer) => {
      seen += bytes.toString("latin1");
      if (!seen.includes(HEAD_END)) return;
      const path = seen.split(" ")[1] ?? "/";
      seen = "";
      if (well) socket.write(WELL);
      else answer(socket, path);
    });
  });
  await new Promise<void>((resolve) => server.listen({ host: "127.0.0.1", port: 0 }, resolve));
  field.later(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  const zone = await field.zone();
  await zone.policy(ALLOW);
  const { id, identifier } = await zone.resource(`http://127.0.0.1:${(server.address() as AddressInfo).port}/`);
  const client = await zone.client();
  const token = await eventually(() => client.token(), { timeout_ms: 10_000, every_ms: 250 });
  await eventually(
    async () => {
      const got = await field.call(token, identifier);
      assert.equal(got.status, 200, got.text);
    },
    { timeout_ms: 10_000, every_ms: 100 },
  );
  well = false;
  return { token, resource: identifier, resource_id: id, zone_id: zone.id };
};

/** Calls again and again, `at_once` side by side, and keeps what came. */
const callers = (field: Field, scene: Scene, at_once: number, expect?: (got: readonly Got[]) => void): Assault => {
  const got: Got[] = [];
  return {
    run: (until) =>
      flood(until, at_once, async () => {
        const answer = await field.call(scene.token, scene.resource, { signal: until });
        if (got.length < 1_000) got.push(answer);
      }),
    ...(expect === undefined ? {} : { expect: () => expect(got) }),
  };
};

const CONNECTIONS = 8;

/**
 * Clients of the attacker's own on bare sockets, so that theirs is the least work: every other one reads as fast as it
 * can, the rest never reads. Who has ended comes again.
 */
const bareCallers = (field: Field, scene: Scene): Assault => {
  const request = `GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${scene.token}\r\nX-Caracal-Resource: ${scene.resource}\r\nConnection: close\r\n\r\n`;
  return {
    run: (until) =>
      flood(until, CONNECTIONS, async (turn) => {
        const socket = socketTo(field, field.gateway_url);
        if (turn % 2 === 0) socket.pause();
        socket.write(request);
        const gone = new Promise<void>((resolve) => socket.once("close", () => resolve()));
        await Promise.race([gone, over(until)]);
        socket.destroy();
      }),
  };
};

const pouring = (name: string, head: string, piece: string, times = Infinity): Attack => ({
  name,
  async setUp(field) {
    const bytes = Buffer.from(piece);
    const scene = await evilUpstream(field, (socket) => {
      socket.write(head);
      pour(socket, bytes, times);
    });
    return bareCallers(field, scene);
  },
});

const interim = [102, 103].map((status) =>
  pouring(
    `interim answers (${status}) of an upstream without end`,
    "",
    `HTTP/1.1 ${status} Interim\r\nLink: </style.css>; rel=preload\r\n\r\n`.repeat(512),
  ),
);

const tinyChunks = pouring(
  "answers of 12 MB in chunks of one byte",
  "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
  "1\r\nx\r\n".repeat(16_384),
  (12 * 1_024 * 1_024) / 16_384,
);

const endlessHeaders = pouring(
  "answers whose headers never end",
  "HTTP/1.1 200 OK\r\n",
  `X-More: ${"x".repeat(1_000)}\r\n`.repeat(16),
);

const CALLER_TIMEOUT_MS = 5_000;

const notModified: Attack = {
  name: "answers 304 with a length",
  async setUp(field) {
    const scene = await evilUpstream(field, (socket, path) => {
      socket.write(
        path.endsWith("/first")
          ? 'HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nETag: "a"\r\n\r\n'
          : "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecond",
      );
    });
    const asking = (path: string): string =>
      `GET ${path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${scene.token}\r\nX-Caracal-Resource: ${scene.resource}\r\nIf-None-Match: "a"\r\n\r\n`;
    const seen: string[] = [];
    return {
      run: (until) =>
        flood(until, 4, async () => {
          const connection = await openRaw(field.gateway_url);
          try {
            connection.write(asking("/first"));
            const first = await connection.answer(CALLER_TIMEOUT_MS);
            connection.write(asking("/second"));
            const second = await connection.answer(CALLER_TIMEOUT_MS);
            seen.push(`${first?.status} ${second?.status} ${second?.body}`);
          } finally {
            connection.destroy();
          }
        }),
      expect() {
        const limited = /^429 |^304 429 /; // the attacker's rate has its limit too
        const kinds = new Set(seen.filter((one) => !limited.test(one)));
        assert.deepEqual([...kinds], ["304 200 second"], "the connection after a 304 is the client's own");
      },
    };
  },
};

const SENT_ELSEWHERE = ["x-accel-redirect", "x-sendfile", "x-accel-buffering", "x-reproxy-url", "x-lighttpd-send-file"];

const directives: Attack = {
  name: "answers that tell a proxy in front what to serve",
  async setUp(field) {
    const scene = await evilUpstream(field, (socket) => {
      const lines = SENT_ELSEWHERE.map((name) => `${name}: /internal/secret\r\n`).join("");
      socket.write(`HTTP/1.1 200 OK\r\n${lines}Content-Length: 2\r\n\r\nok`);
    });
    return callers(field, scene, 8, (got) => {
      const answered = got.filter((one) => one.status === 200);
      assert.ok(answered.length > 0, `no call was answered: ${got[0]?.status} ${got[0]?.text}`);
      for (const name of ["x-accel-redirect", "x-sendfile"])
        assert.ok(
          answered.every((one) => !one.headers.has(name)),
          `${name} went on to the client`,
        );
    });
  },
};

const cookies: Attack = {
  name: "cookies for every upstream",
  async setUp(field) {
    const scene = await evilUpstream(field, (socket) => {
      socket.write(
        "HTTP/1.1 200 OK\r\nSet-Cookie: sid=evil; Path=/; Domain=example.com; HttpOnly\r\nContent-Length: 2\r\n\r\nok",
      );
    });
    const by_header = callers(field, scene, 4);
    const prefix = `/r/${scene.zone_id}/${scene.resource_id}`;
    return {
      run: by_header.run,
      async expect() {
        const header_form = await field.call(scene.token, scene.resource);
        assert.equal(header_form.status, 200, header_form.text);
        assert.deepEqual(header_form.headers.getSetCookie(), [], "by header form no cookie passes");
        const answer = await fetch(`${field.gateway_url}${prefix}/a`, {
          headers: { authorization: `Bearer ${scene.token}` },
        });
        // Where the path form is not served there is nothing that a cookie could reach.
        if (answer.status === 200) {
          const [cookie = ""] = answer.headers.getSetCookie();
          assert.match(cookie, new RegExp(`Path=${prefix}(/|;|$)`, "i"));
          assert.doesNotMatch(cookie, /domain=/i);
        }
      },
    };
  },
};

const WHOLE = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 10\r\n\r\n0123456789";

const resets: Attack = {
  name: "answers that are reset after each of their bytes",
  async setUp(field) {
    let cut = 0;
    const scene = await evilUpstream(field, (socket) => {
      cut = (cut + 1) % WHOLE.length;
      socket.write(WHOLE.slice(0, cut), () => void socket.resetAndDestroy());
    });
    return callers(field, scene, 8, (got) => {
      // The last byte never came: what looks whole was made up by somebody.
      assert.ok(
        got.every((one) => one.status !== 200),
        "a cut answer looked complete",
      );
      assert.ok(
        got.some((one) => one.status === 502),
        "none was told that the upstream failed",
      );
    });
  },
};

const FRAMING = [
  "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 7\r\n\r\nhello",
  "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
  "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nx",
  "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
  "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
  "HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n",
  "\0\0\0\0",
];

const framing: Attack = {
  name: "answers whose framing is a lie",
  async setUp(field) {
    let turn = 0;
    const scene = await evilUpstream(field, (socket) => {
      turn += 1;
      socket.end(FRAMING[turn % FRAMING.length] ?? "");
    });
    return callers(field, scene, 8, (got) => {
      assert.ok(
        got.every((one) => !one.text.includes("evil")),
        "an answer that nobody asked for was given to a call",
      );
    });
  },
};

export const UPSTREAM_ATTACKS: readonly Attack[] = [
  ...interim,
  tinyChunks,
  endlessHeaders,
  notModified,
  directives,
  cookies,
  resets,
  framing,
];
