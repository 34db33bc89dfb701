import type { ExchangeAnswer, GatewayExchange } from "../contracts/exchange.ts";
import type { BindingsPage, JwksResponse, RevocationPage } from "../contracts/sts.ts";
import type { Cancellation } from "../kernel/cancel.ts";

/** All zones page by page, first what may have changed since a version, then by cursor; or one zone alone. */
export type BindingsQuery =
  | { readonly since: string | undefined }
  | { readonly cursor: string }
  | { readonly zone_id: string };

/**
 * The STS as the Gateway sees it: by a function call within one process, over signed HTTPS across processes.
 * A refusal is an answer; where there is none, calls reject: `StsTimeout` after `STS_TIMEOUT`, else `Unavailable`.
 * A call is never sent twice. An exchange has no time of its own: its caller waits for `STS_TIMEOUT`, and then cancels `signal`.
 */
export type Sts = {
  exchange(request: GatewayExchange, signal: Cancellation): Promise<ExchangeAnswer>;
  /** undefined: the same as at `since`. */
  bindings(query: BindingsQuery): Promise<BindingsPage | undefined>;
  revocations(cursor: string | undefined): Promise<RevocationPage>;
  /** undefined: no such zone, or a zone without keys. */
  jwks(zone_id: string): Promise<JwksResponse | undefined>;
};

export class StsTimeout extends Error {
  constructor() {
    super("the STS did not answer in time");
    this.name = "StsTimeout";
  }
}
