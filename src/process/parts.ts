import { randomBytes } from "node:crypto";
import { join } from "node:path";
import { collectDefaultMetrics } from "prom-client";
import { openJournal } from "../adapters/journal/index.ts";
import { createMemory } from "../adapters/memory/index.ts";
import { createPglite } from "../adapters/pglite/index.ts";
import { createPostgres } from "../adapters/postgres/index.ts";
import { createLease } from "../adapters/postgres/lease.ts";
import { migrate, requireSchema } from "../adapters/postgres/migrate.ts";
import { overpoweredUser } from "../adapters/postgres/privileges.ts";
import { createRedis } from "../adapters/redis/index.ts";
import { type Config, databaseUrlOf } from "../config/index.ts";
import { deadLetterOf, STREAMS } from "../contracts/streams.ts";
import { deriveGatewayKey } from "../domain/gateway-signature.ts";
import { type Keyring, keyring } from "../domain/keyring.ts";
import type { RoleName } from "../domain/role-name.ts";
import { DATABASE_FOLDER, type DataDir } from "../embedded/data-dir.ts";
import { type Clock, systemClock } from "../kernel/clock.ts";
import type { Log } from "../kernel/log.ts";
import { createMetrics, type Metrics } from "../kernel/metrics.ts";
import { StartupFault } from "../kernel/problem.ts";
import type { Service } from "../kernel/service.ts";
import type { Database } from "../ports/database.ts";
import type { Marks } from "../ports/marks.ts";
import type { RateLimit } from "../ports/rate-limit.ts";
import type { Streams } from "../ports/streams.ts";
import { type AuditWriterService, createAuditWriter } from "../ledger/writer.ts";
import { createDispatcher } from "../broadcast/dispatcher.ts";
import type { OutboxRow } from "../broadcast/outbox-store.ts";

/** Connections of a role's pool, and of the outbox's. */
const POOL_MAX = 10;
const OUTBOX_POOL_MAX = 2;
const EMBEDDED_READY_MS = 60_000;
const JOURNAL_MAX_BYTES = 256 * 1024 * 1024;

/** Roles that have a database, each through a pool and, in production, a user of its own. */
type DatabaseRole = Exclude<RoleName, "gateway">;
const isDatabaseRole = (role: RoleName): role is DatabaseRole => role !== "gateway";
/** Whoever of these runs may send the outbox. */
const DISPATCHING: readonly RoleName[] = ["sts", "coordinator", "api"];

/** What the roles of one thread stand on, made once as the configuration asks for it. */
export type Parts = {
  readonly config: Config;
  /** Those that this thread runs; `config.roles` are the process's. */
  readonly roles: readonly RoleName[];
  readonly log: Log;
  readonly clock: Clock;
  readonly instance_id: string;
  readonly issuer_url: string;
  /** Of what the roles of this thread share; the loop's delay and the heap are the thread's, processor time the process's. */
  readonly process_metrics: Metrics;
  readonly databases: Readonly<Partial<Record<DatabaseRole, Database>>>;
  readonly streams: Streams;
  readonly marks: Marks;
  readonly rateLimit: RateLimit;
  readonly pingRedis: () => Promise<void>;
  readonly streams_ring: Keyring;
  readonly gateway_ring: Keyring;
  /** Undefined where no role of this process writes to the ledger. */
  readonly audit_writer: AuditWriterService | undefined;
  /** Tells the dispatcher of this process, if there is one, which rows were committed just now. */
  readonly wakeOutbox: (rows: readonly OutboxRow[]) => void;
  /** Started before the roles' own, stopped after them. */
  readonly services: readonly Service[];
  close(): Promise<void>;
};

/** A value that a role can't be made without. Throws a `StartupFault` that names its variable. */
export const required = <T>(value: T | undefined, variable: string): T => {
  if (value === undefined) throw new StartupFault(`${variable}: is missing`);
  return value;
};

/** The pool of a role that this thread runs. */
export const databaseOf = (parts: Parts, role: DatabaseRole): Database => {
  const db = parts.databases[role];
  if (db === undefined) throw new StartupFault(`DATABASE_URL: is missing; the ${role} role needs postgres://…`);
  return db;
};

export type AssembleOptions = {
  readonly config: Config;
  /** Those that this thread runs. */
  readonly roles: readonly RoleName[];
  /** Another thread of this process asks Redis what it is, and says so once. */
  readonly redis_is_checked?: true;
  readonly data_dir: DataDir | undefined;
  readonly issuer_url: string;
  readonly instance_id: string;
  readonly log: Log;
  /** The process can't go on: the embedded database's worker died. */
  readonly onFatal: (error: unknown) => void;
};

type Storage = {
  readonly open: (pool: string, role: DatabaseRole, max: number) => Database;
  readonly close: () => Promise<void>;
};

const openStorage = async (options: AssembleOptions, onStatement: (pool: string) => void): Promise<Storage> => {
  const { config, data_dir } = options;
  if (config.embedded_database && data_dir !== undefined) {
    const server = await createPglite({ dir: data_dir.file(DATABASE_FOLDER), onStatement, onDeath: options.onFatal });
    return { open: (pool) => server.database(pool), close: () => server.close() };
  }
  const opened: Database[] = [];
  return {
    open: (name, role, max) => {
      const url = databaseUrlOf(config, role);
      if (url === undefined) throw new StartupFault(`DATABASE_URL: is missing; the ${role} role needs postgres://…`);
      const db = createPostgres({ url, name, max, onStatement, pooler: config.DATABASE_POOLER ?? "none" });
      opened.push(db);
      return db;
    },
    close: async () => {
      await Promise.all(opened.map((db) => db.close()));
    },
  };
};

type Shared = Pick<Parts, "streams" | "marks" | "rateLimit" | "pingRedis"> & { readonly close: () => Promise<void> };

const openShared = async (options: AssembleOptions, onRoundTrip: (connection: string) => void): Promise<Shared> => {
  const { config, data_dir, log } = options;
  if (config.embedded_redis && data_dir !== undefined) {
    const journal = (name: string) =>
      openJournal({ dir: data_dir.file("streams"), name, max_bytes: JOURNAL_MAX_BYTES, log });
    const dead = deadLetterOf(STREAMS.audit);
    const journals = { [STREAMS.audit]: await journal("audit-events"), [dead]: await journal("audit-dead") };
    const memory = await createMemory({ clock: systemClock, journals });
    return {
      ...memory,
      pingRedis: () => memory.ping(),
      close: async () => {
        await memory.close();
        await Promise.all(Object.values(journals).map((one) => one.close()));
      },
    };
  }
  if (config.REDIS_URL === undefined)
    throw new StartupFault("REDIS_URL: is missing; every role needs redis://… or rediss://…");
  const redis = createRedis({ url: config.REDIS_URL, log, onRoundTrip });
  if (options.redis_is_checked !== true) await checkRedis(redis, config, log);
  return {
    streams: redis.streams,
    marks: redis.marks,
    rateLimit: redis.rateLimit,
    pingRedis: () => redis.ping(),
    close: () => redis.close(),
  };
};

/** What the server replied, or the system's code; the driver's own words are about its settings and lead nowhere. */
const whyAway = (cause: unknown): string => {
  const inner = cause instanceof Error ? cause.cause : undefined;
  if (!(inner instanceof Error)) return "no answer";
  if ("code" in inner && typeof inner.code === "string") return inner.code;
  return /^[A-Z]{3,} /.test(inner.message) ? inner.message : "no answer";
};

/** A Redis that evicts forgets marks and revocations at its own choice: refused. What else is weak is said. */
const checkRedis = async (redis: ReturnType<typeof createRedis>, config: Config, log: Log): Promise<void> => {
  const facts = await redis.facts().catch((cause: unknown) => {
    const { host } = new URL(config.REDIS_URL ?? ""); // without user and password
    throw new StartupFault(
      `REDIS_URL: Redis at ${host} can't be reached (${whyAway(cause)}); check the address, the password and that it runs`,
    );
  });
  if (facts.maxmemory_policy !== "noeviction") {
    throw new StartupFault(
      `REDIS_URL: Redis runs with maxmemory-policy ${facts.maxmemory_policy}; set it to noeviction, or marks of used tokens get lost`,
    );
  }
  if (!config.production) return;
  if (!facts.auth) log.warn({}, "Redis asks for no password: whoever reaches it can read and delete stream entries");
  if (!facts.appendonly && !facts.save)
    log.warn({}, "Redis keeps nothing on disk: its restart loses ledger events that were not ingested");
};

/** A database that holds what this build expects: made so in dev, demanded in production. */
const prepareSchema = async (databases: readonly Database[], config: Config): Promise<void> => {
  // The embedded one answers when it has recovered from what ended it last; that may take a while on a busy machine.
  const wait_ms = config.embedded_database ? EMBEDDED_READY_MS : 0;
  for (const [at, db] of databases.entries()) {
    await answering(db, wait_ms);
    if (config.production) await requireSchema(db.sql);
    else if (at === 0)
      await migrate(db, config.embedded_database ? { place: `the data folder ${config.CARACAL_DATA_DIR}` } : {});
  }
};

/** A role's user is held to what its group was granted, so that one that is taken over can't rewrite what others wrote. */
const checkUsers = async (databases: Parts["databases"], config: Config, log: Log): Promise<void> => {
  for (const [role, db] of Object.entries(databases)) {
    const found = await overpoweredUser(db.sql);
    if (found === undefined) continue;
    if (config.production && role === "audit") {
      throw new StartupFault(
        `DATABASE_URL_AUDIT: its user ${found.user} ${found.because}, and could change the ledger; name a user that only has the group caracal_audit`,
      );
    }
    log.warn(
      { role, user: found.user },
      `the role's database user ${found.because}: nothing holds it to the privileges of the group caracal_${role}`,
    );
  }
};

const answering = async (db: Database, wait_ms: number): Promise<void> => {
  const until_ms = performance.now() + wait_ms;
  for (;;) {
    try {
      await db.ping();
      return;
    } catch (cause) {
      if (performance.now() < until_ms) continue; // a ping takes up to a second by itself
      const why = cause instanceof Error ? cause.message : "no answer";
      throw new StartupFault(
        `DATABASE_URL: the database can't be reached (${why}); check the address and that it runs`,
      );
    }
  }
};

/** Makes the adapters and the services that several roles share. What was made is closed again where a later part fails. */
export const assemble = async (options: AssembleOptions): Promise<Parts> => {
  const { config, roles, log, instance_id } = options;
  const process_metrics = createMetrics();
  collectDefaultMetrics({ register: process_metrics.registry });
  const statements = process_metrics.counterBy("sql_statements_total", "SQL statements, by pool", "pool");
  const round_trips = process_metrics.counterBy(
    "redis_round_trips_total",
    "Round trips to Redis, by connection",
    "connection",
  );
  const events = process_metrics.counterBy("audit_events_written_total", "Ledger events, by where they went", "where");

  const closers: (() => Promise<void>)[] = [];
  const close = async (): Promise<void> => {
    for (const one of closers.toReversed()) await one();
  };
  try {
    const storing = roles.some(isDatabaseRole) ? openStorage(options, (pool) => statements.inc(pool)) : undefined;
    storing?.catch(() => {}); // awaited below; a fault of the streams comes first
    const shared = await openShared(options, (connection) => round_trips.inc(connection));
    closers.push(shared.close);
    const storage = await storing;
    if (storage !== undefined) closers.push(storage.close);

    const databases = Object.fromEntries(
      roles.filter(isDatabaseRole).map((role) => [role, storage?.open(role, role, POOL_MAX)]),
    ) as Parts["databases"];
    await prepareSchema(Object.values(databases), config);
    if (!config.embedded_database) await checkUsers(databases, config, log);

    if (config.STREAMS_HMAC_KEY === undefined)
      throw new StartupFault("STREAMS_HMAC_KEY: is missing; make one with: openssl rand -hex 32");
    const streams_ring = keyring(config.STREAMS_HMAC_KEY, config.STREAMS_HMAC_KEY_PREVIOUS);
    const gateway_ring =
      config.GATEWAY_STS_HMAC_KEY === undefined
        ? deriveGatewayKey(streams_ring)
        : keyring(config.GATEWAY_STS_HMAC_KEY, config.GATEWAY_STS_HMAC_KEY_PREVIOUS);

    const services: Service[] = [];
    let audit_writer: AuditWriterService | undefined;
    if (roles.includes("sts") || roles.includes("gateway")) {
      const dir = replayFolder(options);
      const journal = await openJournal({ dir, name: "audit-replay", max_bytes: JOURNAL_MAX_BYTES, log }).catch(
        (cause: unknown) => {
          const why = cause instanceof Error ? cause.message : "unusable";
          throw new StartupFault(
            `AUDIT_REPLAY_DIR: ${dir} can't be used (${why}); name a folder of this process alone`,
          );
        },
      );
      closers.push(() => journal.close());
      // Another one for each run: numbers begin at 1. 72 random bits tell them apart, and stand in every row.
      const run = randomBytes(9).toString("base64url");
      const producer = `${config.roles.length === 5 ? "all" : config.roles.join("+")}:${run}`;
      audit_writer = createAuditWriter({
        streams: shared.streams,
        ring: streams_ring,
        journal,
        producer,
        clock: systemClock,
        log,
        onEvents: (where, count) => events.inc(where, count),
      });
      services.push(audit_writer);
    }

    const dispatching = DISPATCHING.find((role) => roles.includes(role));
    let wakeOutbox: Parts["wakeOutbox"] = () => {};
    if (dispatching !== undefined && isDatabaseRole(dispatching) && storage !== undefined) {
      const db = storage.open("outbox", dispatching, OUTBOX_POOL_MAX);
      const dispatcher = createDispatcher({
        db,
        lease: createLease(db, instance_id),
        streams: shared.streams,
        ring: streams_ring,
        clock: systemClock,
        log,
      });
      wakeOutbox = (rows) => dispatcher.wake(rows);
      services.push(dispatcher);
    }

    return {
      config,
      roles,
      log,
      clock: systemClock,
      instance_id,
      issuer_url: options.issuer_url,
      process_metrics,
      databases,
      streams: shared.streams,
      marks: shared.marks,
      rateLimit: shared.rateLimit,
      pingRedis: shared.pingRedis,
      streams_ring,
      gateway_ring,
      audit_writer,
      wakeOutbox,
      services,
      close,
    };
  } catch (error) {
    await close().catch((cause: unknown) =>
      log.warn({ err: cause }, "a part could not be closed after a failed start"),
    );
    throw error;
  }
};

/** Where events wait that could not be sent. In production CARACAL_DATA_DIR need not be there for it: the journal makes it. */
const replayFolder = (options: AssembleOptions): string =>
  options.config.AUDIT_REPLAY_DIR ??
  options.data_dir?.file("audit-replay") ??
  join(options.config.CARACAL_DATA_DIR, "audit-replay");
