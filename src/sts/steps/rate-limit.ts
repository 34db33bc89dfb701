import { type Denial, deny, load } from "../../kernel/pipeline.ts";
import type { RateLimit, RateResult } from "../../ports/rate-limit.ts";
import type { Facts } from "../facts.ts";
import type { NonceResult } from "../edge/gateway-calls.ts";

type Judgement = { readonly calls_left: number } | Denial<"gateway_call_replayed" | "rate_limited">;

const judge = (limited: RateResult, seen: NonceResult): Judgement => {
  if (seen !== "new") return deny("gateway_call_replayed");
  if (limited.allowed) return { calls_left: limited.remaining };
  return deny("rate_limited", undefined, { retry_after_s: Math.max(1, Math.ceil(limited.retry_after_ms / 1_000)) });
};

/**
 * One limit per zone and application, shared by all replicas, and, for a Gateway that is another process, that its
 * signature was not seen before: both are asked in one tick, so that they share a round trip. Without an answer there is
 * none from us either: a limit that is lifted by an outage is a way to lift it.
 */
export const rateLimit = (limits: RateLimit, default_per_minute: number) =>
  load("rate_limit", async (f: Pick<Facts, "request" | "application">) => {
    const { zone_id, caller } = f.request;
    const per_minute = f.application.rate_limit_per_minute ?? default_per_minute;
    try {
      const limit = limits.take(`sts:${zone_id}:${f.application.id}`, per_minute, burstOf(per_minute));
      if (caller.kind === "client" || caller.nonce === undefined) return judge(await limit, "new");
      const [limited, seen] = await Promise.all([limit, caller.nonce.use()]);
      return judge(limited, seen);
    } catch {
      return deny("rate_limit_unavailable");
    }
  });

/** A tenth of a minute's calls at once: an agent works in bursts. */
const burstOf = (per_minute: number): number => Math.max(1, Math.ceil(per_minute / 10));
