import { randomBytes } from "node:crypto";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { extname } from "node:path";
import { Worker } from "node:worker_threads";
import { Pool } from "undici";
import { migrate } from "../../src/adapters/postgres/migrate.ts";
import { createPostgres } from "../../src/adapters/postgres/index.ts";
import { type Commands, createCommands } from "../../src/adapters/redis/connection.ts";
import { flatten } from "../../src/adapters/redis/replies.ts";
import { SCRIPTS } from "../../src/adapters/redis/scripts.ts";
import { STREAMS } from "../../src/contracts/streams.ts";
import { type Keyring, keyring } from "../../src/domain/keyring.ts";
import { uuidv7 } from "../../src/kernel/ids.ts";
import { createLog } from "../../src/kernel/log.ts";
import { entriesOf } from "../../src/ledger/entry.ts";
import { createDecisions } from "./floor-decision.ts";
import type { FloorLedger } from "./floor-ledger.ts";
import { forward, HOP_BY_HOP, passable } from "./forward.ts";
import type { Shared } from "./instance.ts";
import { answer, partOptions } from "./parts.ts";

/** `.ts` as it is, `.js` when built: the compiler leaves such a URL alone. */
const LEDGER = new URL(`./floor-ledger${extname(import.meta.url)}`, import.meta.url);
const TIMEOUT_MS = 5_000;
/** How long an outcome may wait for calls to go along with. */
const RECORD_WAIT_MS = 50;
/** A limit that is asked for every call and refuses none: a million a second. */
const EVERY_US = 1;
const BURST = 1_000_000;

/** The way of events to the stream. Those of one tick share an entry, a signature and a round trip. */
type Ticks = {
  /** `then` is called when the event is durable and the limit has let the call pass. */
  append(form: string, then: () => void): void;
  record(form: string): void;
};

const createTicks = (commands: Commands, ring: Keyring): Ticks => {
  let forms: string[] = [];
  let waiting: (() => void)[] = [];
  let timer: NodeJS.Timeout | undefined;

  const flush = async (): Promise<void> => {
    clearTimeout(timer);
    timer = undefined;
    const calls = waiting;
    const entries = entriesOf(ring, forms);
    waiting = [];
    forms = [];
    const limited =
      calls.length === 0
        ? undefined
        : commands.run<[number]>(SCRIPTS.take, [1, "caracal:take:floor", EVERY_US, BURST, calls.length]);
    // `now` takes the script along: both leave in one write.
    const appended = entries.map((fields) =>
      commands.send("xadd", flatten(fields, [STREAMS.audit, "*"]), { now: true }),
    );
    const [taken] = await Promise.all([limited, ...appended]);
    if (taken !== undefined && taken[0] !== calls.length) throw new Error("the limit refused a call");
    for (const then of calls) then();
  };

  return {
    append(form, then) {
      // Behind every callback of this tick, so that its other calls go along. A failure ends the process: no figure then.
      if (waiting.length === 0) setImmediate(flush);
      waiting.push(then);
      forms.push(form);
    },
    record(form) {
      forms.push(form);
      if (waiting.length === 0) timer ??= setTimeout(flush, RECORD_WAIT_MS);
    },
  };
};

/** What of a call is not the upstream's: its hop's own headers, and the caller's token. */
const OURS: ReadonlySet<string> = new Set([...HOP_BY_HOP, "authorization"]);

const bringUp = async (database_url: string): Promise<void> => {
  const db = createPostgres({ url: database_url, name: "floor", max: 1 });
  await migrate(db).finally(() => db.close());
};

const startLedger = (options: FloorLedger): void => {
  new Worker(LEDGER, { workerData: options }).on("error", (error) => {
    throw error;
  });
};

/**
 * The least that a protected call costs: the bare proxy, and for each call what no Gateway of this program could leave out,
 * in the cheapest way that the program has for it. One policy evaluation, one signature, two chained rows of the ledger,
 * the first of them durable before the call goes on. Nothing is verified, looked up or refused. What is between the bare
 * proxy and this is the price of protection; what is between this and the Gateway is ours. Says its port, and the
 * `audit_key` (hex) under which its rows can be verified. Its database is migrated, and its Redis is nobody else's.
 */
export const run = async (): Promise<void> => {
  const { upstream_url, database_url, redis_url } = partOptions<Shared>();
  const log = createLog({ level: "warn", destination: process.stderr }); // standard output is for answers
  const [stream_key, audit_key] = [randomBytes(32), randomBytes(32)];
  const zone_id = uuidv7();
  const producer = `floor:${uuidv7()}`;
  await bringUp(database_url);
  startLedger({ database_url, redis_url, stream_key, audit_key, zone_id, producer });
  const decisions = await createDecisions(zone_id, producer, log);
  const commands = createCommands({ url: redis_url, label: "commands", log, timeout_ms: TIMEOUT_MS }, () => undefined);
  const ticks = createTicks(commands, keyring(stream_key));
  const pool = new Pool(upstream_url, { connections: 256, pipelining: 1 });

  const server = createServer({ keepAliveTimeout: 65_000 }, (request, response) => {
    const allowed = decisions.allow();
    ticks.append(allowed.form, () => {
      if (response.destroyed) return;
      const headers = passable(request.rawHeaders, OURS);
      headers.push("authorization", `Bearer ${decisions.sign(allowed)}`);
      forward(pool, request, response, headers, (status, bytes) =>
        ticks.record(decisions.outcome(allowed, status, bytes)),
      );
    });
  });
  server.listen(0, "127.0.0.1", () =>
    answer({ port: (server.address() as AddressInfo).port, audit_key: audit_key.toString("hex") }),
  );
};
