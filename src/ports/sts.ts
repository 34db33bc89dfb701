import type { BindingsPage, JwksResponse, RevocationPage, TokenAnswer } from "../contracts/sts.ts";
import type { Cancellation } from "../kernel/cancel.ts";

/** What the Gateway asks for one call of an agent. */
export type GatewayExchange = {
  readonly zone_id: string;
  readonly subject_token: string;
  /** The resource's identifier. */
  readonly resource: string;
  readonly scope?: string | undefined;
  /** As the Gateway saw them: policy input, and in the ledger. */
  readonly method: string;
  readonly path: string;
  readonly request_id: string;
  readonly traceparent: string;
};

/** All zones page by page, first what may have changed since a version, then by cursor; or one zone alone. */
export type BindingsQuery =
  | { readonly since: string | undefined }
  | { readonly cursor: string }
  | { readonly zone_id: string };

/**
 * The STS as the Gateway sees it: by a function call within one process, over signed HTTPS across processes.
 * A refusal is an answer; where there is none, calls reject: `StsTimeout` after `STS_TIMEOUT`, else `Unavailable`.
 * A call is never sent twice.
 */
export type Sts = {
  exchange(request: GatewayExchange, signal: Cancellation): Promise<TokenAnswer>;
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
