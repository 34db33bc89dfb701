import { Command } from "commander";
import { createRedis } from "../adapters/redis/index.ts";
import { readVariable } from "../config/index.ts";
import { OUTBOX_STREAMS, STREAMS } from "../contracts/streams.ts";
import { keyring } from "../domain/keyring.ts";
import { createLog } from "../kernel/log.ts";
import { UsageFault } from "../kernel/problem.ts";
import { replayDead } from "../ledger/consumer.ts";
import type { CliContext } from "./context.ts";

const LIMIT = 1_000;

/** `caracal dead-letters replay <stream>`: what could not be processed goes back to its stream, if its signature verifies. */
export const deadLettersCommand = (context: CliContext): Command => {
  const command = new Command("dead-letters").description("Entries that could not be processed.");
  command
    .command("replay")
    .argument("<stream>", `one of ${[STREAMS.audit, ...OUTBOX_STREAMS].join(", ")}`)
    .option("--limit <n>", "entries at most", String(LIMIT))
    .description("Send dead entries again; what is forged stays.")
    .action(async (stream: string, options: { limit: string }) => {
      const limit = Number(options.limit);
      if (!Number.isInteger(limit) || limit < 1 || limit > 100_000)
        throw new UsageFault("--limit: is no whole number from 1 to 100000");
      const known: readonly string[] = [STREAMS.audit, ...OUTBOX_STREAMS];
      if (!known.includes(stream))
        throw new UsageFault(`stream: "${stream.slice(0, 80)}" is none of ${known.join(", ")}`);
      const url = readVariable(context.env, "REDIS_URL");
      const key = readVariable(context.env, "STREAMS_HMAC_KEY");
      if (url === undefined)
        throw new UsageFault("REDIS_URL: is missing; embedded streams are reached by their own process only");
      if (key === undefined)
        throw new UsageFault("STREAMS_HMAC_KEY: is missing; without it a forged entry can't be told");
      const redis = createRedis({ url, log: createLog({ level: "warn" }) });
      try {
        const ring = keyring(key, readVariable(context.env, "STREAMS_HMAC_KEY_PREVIOUS") ?? []);
        const { moved, kept } = await replayDead({ streams: redis.streams, ring, stream, limit });
        context.out(`${moved} sent again, ${kept} kept.`);
      } finally {
        await redis.close();
      }
    });
  return command;
};
