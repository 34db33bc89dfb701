import { createStsHttp } from "../../src/adapters/sts-http/index.ts";
import { keyring } from "../../src/domain/keyring.ts";
import { Cancelling } from "../../src/kernel/cancel.ts";
import { systemClock } from "../../src/kernel/clock.ts";
import { uuidv7 } from "../../src/kernel/ids.ts";
import { answer, partOptions } from "./parts.ts";

export type ExchangeLoad = {
  readonly sts_url: string;
  /** Hex. */
  readonly gateway_key: string;
  readonly zone_id: string;
  readonly token: string;
  readonly resource: string;
  /** Callers at once, each with one exchange under way. */
  readonly at_once: number;
  readonly seconds: number;
};

const WARM_MS = 3_000;
const TIMEOUT_MS = 5_000;

/** Exchanges as a Gateway asks for them: by its own adapter, over its own hop; per second. */
const measure = async (options: ExchangeLoad): Promise<{ readonly per_s: number }> => {
  const sts = createStsHttp({
    url: options.sts_url,
    ring: keyring(Buffer.from(options.gateway_key, "hex")),
    timeout_ms: TIMEOUT_MS,
    clock: systemClock,
  });
  const { zone_id, token, resource } = options;
  let counted = 0;
  let counting_since_ms = 0;
  let over = false;
  const caller = async (): Promise<void> => {
    while (!over) {
      const answered = await sts.exchange(
        {
          zone_id,
          subject_token: token,
          resource,
          method: "GET",
          path: "/",
          request_id: uuidv7(),
          traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
        },
        new Cancelling(),
      );
      if (!answered.ok) throw new Error(`an exchange was refused: ${JSON.stringify(answered.body)}`);
      counted += 1;
    }
  };
  setTimeout(() => {
    counted = 0;
    counting_since_ms = performance.now();
  }, WARM_MS);
  setTimeout(() => (over = true), WARM_MS + options.seconds * 1_000);
  await Promise.all(Array.from({ length: options.at_once }, caller));
  const per_s = counted / ((performance.now() - counting_since_ms) / 1_000);
  await sts.close();
  return { per_s };
};

export const run = async (): Promise<void> => answer(await measure(partOptions<ExchangeLoad>()));
