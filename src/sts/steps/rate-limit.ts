import { deny, load } from "../../kernel/pipeline.ts";
import type { RateLimit, RateResult } from "../../ports/rate-limit.ts";
import type { Facts } from "../facts.ts";
import type { GatewayNonces, NonceResult } from "../gateway-calls.ts";

const asked = async <T>(question: Promise<T>): Promise<T | undefined> => {
  try {
    return await question;
  } catch {
    return undefined;
  }
};

/**
 * One limit per zone and application, shared by all replicas, and, for a Gateway that is another process, that its
 * signature was not seen before: both are asked in one tick, so that they share a round trip. Without an answer there is
 * none from us either: a limit that is lifted by an outage is a way to lift it.
 */
export const rateLimit = (limits: RateLimit, nonces: GatewayNonces, default_per_minute: number) =>
  load("rate_limit", async (f: Pick<Facts, "request" | "application">) => {
    const { zone_id, caller } = f.request;
    const per_minute = f.application.rate_limit_per_minute ?? default_per_minute;
    const limit = asked<RateResult>(limits.take(`sts:${zone_id}:${f.application.id}`, per_minute, burstOf(per_minute)));
    const nonce =
      caller.kind === "gateway" && caller.nonce !== undefined
        ? asked<NonceResult>(nonces.use(caller.nonce.id, caller.nonce.timestamp_ms))
        : "new";
    const [limited, seen] = await Promise.all([limit, nonce]);
    if (limited === undefined || seen === undefined) return deny("rate_limit_unavailable");
    if (seen !== "new") return deny("gateway_call_replayed");
    if (limited.allowed) return { calls_left: limited.remaining };
    return deny("rate_limited", undefined, { retry_after_s: Math.max(1, Math.ceil(limited.retry_after_ms / 1_000)) });
  });

/** A tenth of a minute's calls at once: an agent works in bursts. */
const burstOf = (per_minute: number): number => Math.max(1, Math.ceil(per_minute / 10));
