import { generateKeyPairSync, sign } from "node:crypto";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { loadConfig } from "../../src/config/index.ts";
import { randomSecret, uuidv7 } from "../../src/kernel/ids.ts";
import { createLog } from "../../src/kernel/log.ts";
import { assemble } from "../../src/process/parts.ts";
import { loadRoles } from "../../src/process/roles.ts";
import { eventually } from "../../test/support/eventually.ts";
import { answer, partOptions } from "./parts.ts";

export type InProcess = {
  readonly environment: Readonly<Record<string, string>>;
  readonly issuer_url: string;
  readonly zone_id: string;
  readonly token: string;
  readonly resource: string;
  readonly at_once: number;
  readonly seconds: number;
};
export type InProcessResult = { readonly signatures_per_s: number; readonly exchanges_per_s: number };

/** So long until what the exchange runs is compiled; the signature is native, and takes less. */
const WARM_MS = 3_000;
const SIGNING_WARM_MS = 1_000;
/** As long as what is signed of an ordinary mandate. */
const SIGNED_BYTES = 800;

/** ES256 by node:crypto in place, one after the other: what no issuer in one thread can pass. */
const signRaw = (seconds: number): number => {
  const { privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const bytes = Buffer.from(randomSecret(SIGNED_BYTES)).subarray(0, SIGNED_BYTES);
  const count = (until_ms: number): number => {
    let signed = 0;
    while (performance.now() < until_ms) {
      for (let i = 0; i < 64; i += 1) sign("sha256", bytes, privateKey);
      signed += 64;
    }
    return signed;
  };
  count(performance.now() + SIGNING_WARM_MS);
  return count(performance.now() + seconds * 1_000) / seconds;
};

/** The STS of this process, asked as a Gateway of the same process asks it: no HTTP, everything else. */
const exchange = async (options: InProcess, folder: string): Promise<number> => {
  const env = { ...options.environment, AUDIT_REPLAY_DIR: folder, CARACAL_DATA_DIR: folder, LOG_LEVEL: "silent" };
  const config = loadConfig(env, ["sts"]);
  const log = createLog({ level: "silent" });
  const onFatal = (error: unknown): void => log.error({ err: error }, "the STS failed");
  const parts = await assemble({
    config,
    roles: config.roles,
    data_dir: undefined,
    issuer_url: options.issuer_url,
    instance_id: uuidv7(),
    log,
    onFatal,
  });
  const { sts } = (await loadRoles(config.roles))(parts).by_name;
  if (sts === undefined) throw new Error("there is no STS");
  const services = [...parts.services, ...sts.services];
  for (const service of services) await service.start(onFatal);
  const { signal } = new AbortController();
  const { zone_id, token, resource } = options;
  const ask = async (): Promise<void> => {
    const answered = await sts.direct.exchange(
      {
        zone_id,
        subject_token: token,
        resource,
        method: "GET",
        path: "/",
        request_id: uuidv7(),
        traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
      },
      signal,
    );
    if (!answered.ok) throw new Error(`an exchange was refused: ${JSON.stringify(answered.body)}`);
  };
  await eventually(ask, { timeout_ms: 10_000 });
  let counted = 0;
  const until_ms = performance.now() + WARM_MS + options.seconds * 1_000;
  let counting_since = 0;
  setTimeout(() => {
    counted = 0;
    counting_since = performance.now();
  }, WARM_MS);
  await Promise.all(
    Array.from({ length: options.at_once }, async () => {
      while (performance.now() < until_ms) {
        await ask();
        counted += 1;
      }
    }),
  );
  const per_s = counted / ((performance.now() - counting_since) / 1_000);
  for (const service of services.toReversed()) await service.stop(5_000);
  await parts.close();
  return per_s;
};

export const run = async (): Promise<void> => {
  const options = partOptions<InProcess>();
  const signatures_per_s = signRaw(options.seconds);
  const folder = mkdtempSync(join(tmpdir(), "caracal-bench-sts-"));
  try {
    answer({ signatures_per_s, exchanges_per_s: await exchange(options, folder) } satisfies InProcessResult);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
};
