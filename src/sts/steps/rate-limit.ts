import { type Denial, deny, load } from "../../kernel/pipeline.ts";
import type { RateLimit, RateResult } from "../../ports/rate-limit.ts";
import type { Facts } from "../facts.ts";
import type { NonceResult } from "../edge/gateway-calls.ts";
import type { Asker } from "../edge/request.ts";

const REPLAYED = { gateway: "gateway_call_replayed", client: "client_assertion_replayed" } as const;

type Kind = keyof typeof REPLAYED;
type Judgement = { readonly calls_left: number } | Denial<(typeof REPLAYED)[Kind] | "rate_limited">;

const judge = (limited: RateResult, seen: NonceResult, kind: Kind): Judgement => {
  if (seen !== "new") return deny(REPLAYED[kind]);
  if (limited.allowed) return { calls_left: limited.remaining };
  return deny("rate_limited", undefined, { retry_after_s: Math.max(1, Math.ceil(limited.retry_after_ms / 1_000)) });
};

/**
 * One limit per zone and application, shared by all replicas, and, for a Gateway that is another process and for a client
 * by its own assertion, that its signature was not seen before: both are asked in one tick, so that they share a round trip. Without an answer there is
 * none from us either: a limit that is lifted by an outage is a way to lift it.
 */
export const rateLimit = (limits: RateLimit, default_per_minute: number) =>
  load("rate_limit", async (f: Pick<Facts, "application" | "single_use"> & { readonly request: Asker }) => {
    const { zone_id, caller } = f.request;
    const per_minute = f.application.rate_limit_per_minute ?? default_per_minute;
    try {
      const limit = limits.take(`sts:${zone_id}:${f.application.id}`, per_minute, burstOf(per_minute));
      if (f.single_use === undefined) return judge(await limit, "new", caller.kind);
      const [limited, seen] = await Promise.all([limit, f.single_use.use()]);
      return judge(limited, seen, caller.kind);
    } catch {
      return deny("rate_limit_unavailable");
    }
  });

/** A tenth of a minute's calls at once: an agent works in bursts. */
const burstOf = (per_minute: number): number => Math.max(1, Math.ceil(per_minute / 10));
