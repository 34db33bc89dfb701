import assert from "node:assert/strict";
import type { Socket } from "node:net";
import { after, before, describe, it } from "node:test";
import fc from "fast-check";
import { createUpstreams } from "../../src/adapters/egress/index.ts";
import type { MarkResult } from "../../src/ports/marks.ts";
import { Unavailable } from "../../src/ports/streams.ts";
import { eventually } from "../support/eventually.ts";
import { createRig, openRaw, requestText, RESOURCE, type Rig } from "./rig.ts";

const LIMIT = 3;

type World = {
  readonly rig: Rig;
  /** The next mark's answer; `ok` marks. */
  mark: () => Promise<MarkResult>;
};

/** Calls with the mandate and expects a refusal that is none of the mandate's fault: once all is well again, it passes. */
const refusedOnce = async ({ rig }: World, refuse: () => () => void, status: number): Promise<void> => {
  const token = rig.mandate();
  const mend = refuse();
  try {
    assert.equal((await rig.call("/", { token })).status, status);
  } finally {
    mend();
  }
  assert.equal((await rig.call("/", { token })).status, 200, "the refusal burnt the mandate");
};

const leave = async (stream: Response): Promise<void> => stream.body?.cancel();

const goneWhile = async (world: World, token: string, reached: () => boolean): Promise<void> => {
  let there: Socket | undefined;
  world.rig.server.once("connection", (socket: Socket) => (there = socket));
  const raw = await openRaw(world.rig.port);
  raw.write(requestText("GET /", { Authorization: `Bearer ${token}`, "X-Caracal-Resource": RESOURCE }));
  await eventually(reached);
  raw.destroy();
  await eventually(() => there?.destroyed === true);
};

/** Every way out of a call, by its name. */
const ENDS: Readonly<Record<string, (world: World) => Promise<void>>> = {
  "an answer": async ({ rig }) => void (await (await rig.call("/")).text()),
  "an answer to a mandate": async ({ rig }) => void (await (await rig.call("/", { token: rig.mandate() })).text()),
  "an upstream that breaks off": async ({ rig }) => assert.equal((await rig.call("/broken")).status, 502),
  "a client that breaks a stream off": async ({ rig }) => {
    const gone = new AbortController();
    assert.equal((await rig.call("/stream", { signal: gone.signal })).status, 200);
    gone.abort();
  },
  "a body that is too large": async ({ rig }) => {
    const raw = await openRaw(rig.port);
    const headers = { Authorization: `Bearer ${rig.ambient()}`, "X-Caracal-Resource": RESOURCE };
    raw.write(requestText("POST /stream", { ...headers, "Transfer-Encoding": "chunked" }));
    raw.write(`${(200_000).toString(16)}\r\n${"x".repeat(200_000)}\r\n`);
    await raw.untilClosed();
  },
  "a refusal by the STS": async ({ rig }) => {
    const answer = rig.sts.answer;
    const body = { error: "access_denied", error_description: "", reason: "policy_denied", requestId: "r" };
    rig.sts.answer = () => ({ ok: false, status: 403, body });
    assert.equal((await rig.call("/")).status, 403);
    rig.sts.answer = answer;
  },
  "a ledger that is away": (world) =>
    refusedOnce(
      world,
      () => {
        world.rig.ledger(new Error("away"));
        return () => world.rig.ledger(undefined);
      },
      503,
    ),
  "marks that are away": (world) =>
    refusedOnce(
      world,
      () => {
        const { mark } = world;
        world.mark = () => Promise.reject(new Unavailable("marks"));
        return () => (world.mark = mark);
      },
      503,
    ),
  "an upstream whose places are taken": async (world) => {
    const { rig } = world;
    const token = rig.mandate();
    const open = await Promise.all(Array.from({ length: LIMIT }, () => rig.call("/stream")));
    assert.equal((await rig.call("/", { token })).status, 429);
    await Promise.all(open.map(leave));
    await eventually(async () => (await rig.call("/")).status === 200);
    assert.equal((await rig.call("/", { token })).status, 200, "the refusal burnt the mandate");
  },
  "a mandate that was used elsewhere": async (world) => {
    const { mark } = world;
    world.mark = async () => "seen";
    assert.equal((await world.rig.call("/", { token: world.rig.mandate() })).status, 401);
    world.mark = mark;
  },
  "a session that is revoked while the mandate is marked": async (world) => {
    const { mark, rig } = world;
    const sid = rig.claims().jti;
    world.mark = async () => {
      rig.mark("session", sid);
      return "marked";
    };
    assert.equal((await rig.call("/", { token: rig.mandate({ sid }) })).status, 401);
    world.mark = mark;
  },
  "a client that goes away while the mandate is marked": async (world) => {
    const { mark, rig } = world;
    let marked: (() => void) | undefined;
    world.mark = () => new Promise((resolve) => (marked = () => resolve("marked")));
    await goneWhile(world, rig.mandate(), () => marked !== undefined);
    world.mark = mark;
    marked?.();
  },
  "a client that goes away while the STS is asked": async (world) => {
    const { rig } = world;
    const { answer } = rig.sts;
    const asked = rig.sts.exchanges.length;
    rig.sts.answer = () => new Promise(() => undefined);
    await goneWhile(world, rig.ambient(), () => rig.sts.exchanges.length > asked);
    rig.sts.answer = answer;
  },
};

describe("a place at an upstream", () => {
  let world: World;
  before(async () => {
    const shares = { limit: LIMIT, zone_share: 1, client_share: 1 };
    const upstreams = createUpstreams({ connect_timeout_ms: 2_000, shares });
    const marks = { prime: async () => undefined, once: () => world.mark() };
    const rig = await createRig({ upstreams, marks, max_request_bytes: 100_000 });
    world = { rig, mark: async () => "marked" };
    rig.upstream((request, response) => {
      if (request.url === "/broken") request.socket.destroy();
      else if (request.url === "/stream") response.writeHead(200).write("open");
      else response.end("hello");
      request.resume();
    });
  });
  after(() => world.rig.close());

  it(
    "is free again whatever way a call ended, and no refusal of the Gateway's burns a mandate",
    { timeout: 60_000 },
    () =>
      fc.assert(
        fc.asyncProperty(
          fc.array(fc.constantFrom(...Object.keys(ENDS)), { minLength: 1, maxLength: 5 }),
          async (ways) => {
            for (const way of ways) await ENDS[way]?.(world);
            const { rig } = world;
            await eventually(async () => (await rig.metric("calls_running")) === 0);
            const open: Response[] = [];
            while (open.length < LIMIT) {
              // The last call's connection may still be on its way out.
              const stream = await eventually(async (): Promise<Response | false> => {
                const answer = await rig.call("/stream");
                if (answer.status === 200) return answer;
                await answer.text();
                return false;
              });
              open.push(stream);
            }
            const over = await rig.call("/");
            assert.equal(((await over.json()) as { reason: string }).reason, "upstream_client_busy");
            await Promise.all(open.map(leave));
            await eventually(async () => (await rig.metric("calls_running")) === 0);
          },
        ),
        { numRuns: 20, examples: Object.keys(ENDS).map((way) => [[way, way, way]] as [string[]]) },
      ),
  );
});
