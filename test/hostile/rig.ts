import { randomBytes, randomUUID } from "node:crypto";
import { createSocket } from "node:dgram";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { spawnSync } from "node:child_process";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createPostgres } from "../../src/adapters/postgres/index.ts";
import { bootstrapZone, callApi, createControlPlane } from "../support/control-plane.ts";
import { eventually } from "../support/eventually.ts";
import { makeCertificates } from "../support/certificates.ts";
import { trustCa } from "../support/trust.ts";
import { createTestDatabase } from "../support/postgres.ts";
import { MAIN, type Program, runToEnd, startProgram } from "../support/program.ts";
import { alive } from "../support/provision.ts";
import { startRedis } from "../support/redis.ts";
import { ALLOW, type Attack, type AttackerZone, type Client, type Field, type Got } from "./attack.ts";
import { type InnocentTarget, type Observed, startInnocent } from "./innocent.ts";

/** The program with an innocent zone at work in it, ready to be attacked. */
export type Rig = {
  /** What the attack did to the innocent and to the program. */
  suffer(attack: Attack): Promise<Suffered>;
  /** The innocent zone's agent alone, for so long. */
  inPeace(ms: number): Promise<Observed>;
  /** Why the attack can't be made here. */
  impossible(attack: Attack): string | undefined;
  close(): Promise<void>;
};

export type Suffered = {
  readonly observed: Observed;
  readonly lives: boolean;
  /** The most that the process held at once since the attack began. */
  readonly peak_mib: number;
  /** How often the attacker's requests got which status; 0: none. */
  readonly got: Readonly<Record<number, number>>;
  /** The attack's own expectations; undefined where they hold. */
  readonly unmet: unknown;
};

export type RigOptions = {
  /** `embedded`: the database and the streams in the process; then the attacker has one zone for all attacks. */
  readonly storage: "servers" | "embedded";
  /** Every role serves TLS. */
  readonly tls?: boolean;
};

const ATTACK_MS = 8_000;
/** What a run has after its signal to end by itself. */
const GRACE_MS = 5_000;
const CALL_MS = 20_000;
const COMPILER_MS = 40_000;
const KNOWN_MS = 10_000;
const SCOPES = ["tools:call"];

const nothing: Got = { status: 0, headers: new Headers(), text: "" };

const answerTo = async (url: string, init: RequestInit): Promise<Got> => {
  try {
    const answer = await fetch(url, { redirect: "manual", ...init });
    return { status: answer.status, headers: answer.headers, text: await answer.text() };
  } catch {
    return nothing;
  }
};

const bounded = (signal?: AbortSignal): AbortSignal =>
  signal === undefined ? AbortSignal.timeout(CALL_MS) : AbortSignal.any([signal, AbortSignal.timeout(CALL_MS)]);

/** Of this process alone: another may run the same tests. */
const NAME_SERVER = `127.9.${process.pid % 250}.${1 + (Math.floor(process.pid / 250) % 250)}`;

/**
 * A name server that never answers, and the way to start the program so that it asks it: in a mount namespace of its own
 * with another resolv.conf. Undefined where that needs rights that we lack.
 */
const hangingNames = async (): Promise<{ readonly command: readonly string[]; close(): Promise<void> } | undefined> => {
  const folder = mkdtempSync(join(tmpdir(), "caracal-names-"));
  const file = join(folder, "resolv.conf");
  writeFileSync(file, `nameserver ${NAME_SERVER}\noptions timeout:5 attempts:2\n`);
  const script = `mount --bind '${file}' /etc/resolv.conf && exec "$@"`;
  const command = ["unshare", "--mount", "sh", "-c", script, "sh"];
  const socket = createSocket("udp4");
  const remove = (): void => rmSync(folder, { recursive: true, force: true });
  try {
    if (spawnSync("unshare", [...command.slice(1), "true"]).status !== 0) throw new Error("no mount namespace");
    await new Promise<void>((resolve, reject) => {
      socket.once("error", reject);
      socket.bind(53, NAME_SERVER, resolve);
    });
  } catch {
    socket.close();
    remove();
    return undefined;
  }
  return {
    command,
    async close() {
      socket.close();
      remove();
    },
  };
};

const memoryOf = (pid: number, field: "VmRSS" | "VmHWM"): number => {
  const status = readFileSync(`/proc/${pid}/status`, "utf8");
  return Number(new RegExp(`^${field}:\\s+(\\d+) kB`, "m").exec(status)?.[1] ?? 0) / 1_024;
};

/** From here on the peak is counted anew. */
const forgetPeak = (pid: number): void => writeFileSync(`/proc/${pid}/clear_refs`, "5");

/** Starts it all. The caller closes it. */
export const startRig = async (options: RigOptions): Promise<Rig> => {
  const closers: (() => void | Promise<void>)[] = [];
  const closeAll = async (): Promise<void> => {
    for (const close of closers.splice(0).toReversed()) await close();
  };
  try {
    return await build(options, closers, closeAll);
  } catch (error) {
    await closeAll();
    throw error;
  }
};

const build = async (
  options: RigOptions,
  closers: (() => void | Promise<void>)[],
  closeAll: () => Promise<void>,
): Promise<Rig> => {
  const bootstrap_token = randomBytes(32).toString("base64url");
  const env: Record<string, string> = { BOOTSTRAP_ADMIN_TOKEN: bootstrap_token };
  let database_url: string | undefined;
  if (options.storage === "servers") {
    const database = await createTestDatabase();
    closers.push(() => database.close());
    const redis = await startRedis({ appendonly: true });
    closers.push(() => redis.close());
    database_url = database.url;
    env["DATABASE_URL"] = database.url;
    env["REDIS_URL"] = redis.url;
  }
  let ca: string | undefined;
  if (options.tls === true) {
    const certificates = makeCertificates();
    closers.push(() => certificates.close());
    ({ ca } = certificates);
    trustCa(ca);
    env["TLS_CERT_FILE"] = certificates.cert_file;
    env["TLS_KEY_FILE"] = certificates.key_file;
    env["NODE_EXTRA_CA_CERTS"] = certificates.ca_file;
  }
  const innocent = await startInnocent(ca);
  closers.push(() => innocent.close());
  const names = await hangingNames();
  if (names !== undefined) closers.push(() => names.close());
  const [file = "", ...before] = names?.command ?? [];
  const data_dir = mkdtempSync(join(tmpdir(), "caracal-hostile-"));
  closers.push(() => rmSync(data_dir, { recursive: true, force: true }));
  const program: Program = await startProgram({
    env,
    data_dir,
    ...(names === undefined
      ? {}
      : { command: { file, args: [...before, process.execPath, MAIN, "--role=all"], cwd: data_dir } }),
  });
  closers.push(() => program.close());

  const url = (role: "gateway" | "sts" | "api"): string => program.quickstart[`${role}_url`];
  const own = await bootstrapZone(url("api"), bootstrap_token, { slug: "innocent", name: "Innocent" });
  const own_api = createControlPlane(() => url("api"), own.zone_id, own.admin_token);

  /** Of the attack that is under way. */
  let got: Record<number, number> = {};
  const fetched = async (address: string, init: RequestInit): Promise<Got> => {
    const answer = await answerTo(address, init);
    got[answer.status] = (got[answer.status] ?? 0) + 1;
    return answer;
  };
  const ask: Field["ask"] = (form, signal) =>
    fetched(`${url("sts")}/oauth/2/token`, {
      method: "POST",
      body: new URLSearchParams(form),
      signal: bounded(signal),
    });
  const call: Field["call"] = (token, resource, init = {}) =>
    fetched(`${url("gateway")}${init.path ?? "/"}`, {
      ...init,
      headers: { authorization: `Bearer ${token}`, "x-caracal-resource": resource, ...init.headers },
      signal: bounded(init.signal),
    });

  /** The verbs of a zone whose admin token is held. */
  const zoneOf = (id: string, admin_token: string): AttackerZone => {
    const api = createControlPlane(() => url("api"), id, admin_token);
    return {
      id,
      admin_token,
      api,
      async client(scopes = SCOPES): Promise<Client> {
        const made = await api.createApplication({ name: `Client ${randomUUID()}`, scopes });
        const secret = made.client_secret ?? "";
        const form = { zone_id: id, client_id: made.id, client_secret: secret };
        const askOwn = (fields: Readonly<Record<string, string>> = {}): Promise<Got> =>
          ask({ grant_type: "client_credentials", ...form, ...fields });
        await eventually(async () => (await askOwn()).status !== 401, { timeout_ms: KNOWN_MS, every_ms: 250 });
        return {
          id: made.id,
          secret,
          form,
          async token(fields) {
            const { status, text } = await askOwn(fields);
            if (status !== 200) throw new Error(`no token: ${status} ${text}`);
            return (JSON.parse(text) as { readonly access_token: string }).access_token;
          },
        };
      },
      async resource(upstream_url, scopes = SCOPES) {
        const identifier = `resource://${randomUUID()}`;
        const made = await api.createResource({ identifier, name: identifier, upstream_url, scopes });
        return { id: made.id, identifier };
      },
      async policy(...sources) {
        const members: string[] = [];
        for (const source of sources) {
          // The compiler may still be at an earlier attack's work.
          const write = async (): Promise<string> => (await api.createPolicy(`P ${randomUUID()}`, source)).id;
          members.push(await eventually(write, { timeout_ms: COMPILER_MS, every_ms: 500 }));
        }
        await api.activate(`S ${randomUUID()}`, members);
      },
    };
  };

  const home = zoneOf(own.zone_id, own.admin_token);
  await home.policy(ALLOW);
  const resource = await home.resource(innocent.upstream_url);
  const client = await home.client();
  const target = (): InnocentTarget => ({
    gateway_url: url("gateway"),
    sts_url: url("sts"),
    resource: resource.identifier,
    token_form: { grant_type: "client_credentials", ...client.form },
  });
  const works = async (): Promise<boolean> => (await call(await client.token(), resource.identifier)).status === 200;
  await eventually(works, { timeout_ms: 20_000, every_ms: 250 });

  let global_token: string | undefined;
  let sql: Field["sql"];
  if (database_url !== undefined) {
    const made = await runToEnd(["admin-token", "create", "--global", "--label", "hostile"], {
      env: { CARACAL_ENV: "dev", DATABASE_URL: database_url, CARACAL_DATA_DIR: data_dir },
    });
    if (made.code !== 0) throw new Error(`no global token: ${made.stderr}`);
    global_token = made.stdout.trim();
    const db = createPostgres({ url: database_url, name: "hostile", max: 1 });
    closers.push(() => db.close());
    sql = (statement, ...values) => db.sql.unsafe(statement, [...values]);
  }

  const newZone = async (): Promise<AttackerZone> => {
    if (global_token === undefined) return zoneOf(program.quickstart.zone_id, program.quickstart.admin_token);
    const word = randomUUID();
    const made = await callApi(url("api"), global_token, "POST", "/v1/zones", { slug: `z-${word}`, name: word });
    const { id } = made.body as { readonly id: string };
    const fields = { label: "attacker", zone_id: id };
    const token = await callApi(url("api"), global_token, "POST", "/v1/admin-tokens", fields);
    return zoneOf(id, (token.body as { readonly token: string }).token);
  };

  const fieldOf = (ends: (() => void | Promise<void>)[]): Field => ({
    gateway_url: url("gateway"),
    sts_url: url("sts"),
    api_url: url("api"),
    innocent: { api: own_api, upstream_url: innocent.upstream_url, client_id: client.id },
    global_token,
    sql,
    names_hang: names !== undefined,
    zone: newZone,
    call,
    ask,
    later: (end) => void ends.push(end),
  });

  /** After an attack that ended it, or left it ill, the next one meets a well one. */
  const restore = async (): Promise<void> => {
    const well =
      alive(program.pid) && (await eventually(works, { timeout_ms: 20_000, every_ms: 250 }).catch(() => false));
    if (well) return;
    if (alive(program.pid)) await program.kill();
    await program.start();
    await eventually(works, { timeout_ms: 30_000, every_ms: 250 });
  };

  return {
    impossible: (attack) => attack.impossible?.(fieldOf([])),
    async inPeace(ms) {
      await innocent.start(target());
      await new Promise((resolve) => setTimeout(resolve, ms));
      return innocent.stop();
    },
    async suffer(attack) {
      const ends: (() => void | Promise<void>)[] = [];
      try {
        await restore();
        const assault = await attack.setUp(fieldOf(ends));
        await restore();
        forgetPeak(program.pid);
        got = {};
        await innocent.start(target());
        const until = AbortSignal.timeout(ATTACK_MS);
        const late = new Promise<void>((resolve) => setTimeout(resolve, ATTACK_MS + GRACE_MS));
        let unmet: unknown;
        const note = (error: unknown): void => void (unmet ??= error);
        await Promise.race([assault.run(until).catch(note), late]);
        const observed = await innocent.stop();
        const lives = alive(program.pid);
        const peak_mib = lives ? memoryOf(program.pid, "VmHWM") : Infinity;
        try {
          await assault.expect?.();
        } catch (error) {
          note(error);
        }
        return { observed, lives, peak_mib, got, unmet };
      } finally {
        for (const end of ends.toReversed()) await end();
      }
    },
    close: closeAll,
  };
};
