import type { CredentialType } from "../../domain/policy-input.ts";
import { deny, load } from "../../kernel/pipeline.ts";
import { Unavailable } from "../../ports/streams.ts";
import type { Jws } from "../../domain/jws.ts";
import type { ClientAssertions } from "../known/client-assertions.ts";
import type { ClientSecrets } from "../known/client-secrets.ts";
import type { Facts } from "../facts.ts";
import { clientNamedBy, type PresentedToken, type PresentedTokens } from "../../authority/presented-tokens.ts";
import type { CallNonce } from "../edge/gateway-calls.ts";
import type { Asker, Caller } from "../edge/request.ts";
import type { Application, ZoneSnapshot } from "../known/snapshot.ts";
import type { Snapshots } from "../known/snapshots.ts";

type Known = {
  readonly zone: ZoneSnapshot;
  readonly application: Application;
  readonly credential_type: CredentialType;
  readonly presented: PresentedToken | undefined;
  readonly single_use: CallNonce | undefined;
};
type Client = Extract<Caller, { kind: "client" }>;

const UNSHOWN = { presented: undefined, single_use: undefined } as const;

const ASSERTION_REASONS = {
  wrong: "client_unauthenticated",
  busy: "client_check_busy",
  unavailable: "client_keys_unavailable",
} as const;

/** Only the Gateway asks by a subject token. */
type Asks = Pick<Facts, "zone" | "now_ms"> & {
  readonly request: Asker & { readonly subject_token?: string | undefined };
};

/**
 * Who asks. A client by its secret: unknown zone, unknown client, public client and wrong secret are one answer, after one
 * reading of the zone. Or by an assertion; whether it was seen before is asked with the rate limit. The Gateway has proved
 * itself before. It acts for the application of the subject token, whose form is read here because the rate limit that follows is
 * that application's.
 */
export const client = (
  snapshots: Pick<Snapshots, "get" | "latest">,
  { secrets, assertions }: { readonly secrets: ClientSecrets; readonly assertions: ClientAssertions },
  tokens: PresentedTokens,
) => {
  const bySecret = async (caller: Client, secret: string, f: Asks) => {
    const storedIn = (zone: ZoneSnapshot | undefined): readonly string[] => {
      const stored = zone?.applications.get(caller.client_id)?.secrets ?? [];
      return stored.filter((one) => f.now_ms < one.opens_until_ms).map((one) => one.hash);
    };
    const result = await secrets.verify({
      zone_id: f.request.zone_id,
      zone_exists: f.zone !== undefined,
      client_id: caller.client_id,
      address: caller.address,
      secret,
      stored: storedIn(f.zone),
      latest: async () => storedIn(await snapshots.latest(f.request.zone_id)),
    });
    if (result.status === "throttled") {
      return deny("client_throttled", undefined, { retry_after_s: result.retry_after_s });
    }
    if (result.status === "busy") return deny("client_check_busy", undefined, { retry_after_s: 1 });
    const zone = result.status === "verified" ? await snapshots.get(f.request.zone_id) : undefined;
    const application = zone?.applications.get(caller.client_id);
    if (zone === undefined || application === undefined) return deny("client_unauthenticated");
    const known: Known = { zone, application, credential_type: "client_secret", ...UNSHOWN };
    return known;
  };

  const byAssertion = async (caller: Client, assertion: Jws, f: Asks) => {
    const { client_id, address } = caller;
    const { zone_id } = f.request;
    const result = await assertions.verify({ zone_id, zone: f.zone, client_id, address, assertion, now_ms: f.now_ms });
    if (result.status === "verified") {
      const { zone, application, credential_type, single_use } = result;
      const known: Known = { zone, application, credential_type, single_use, presented: undefined };
      return known;
    }
    if (result.status === "throttled")
      return deny("client_throttled", undefined, { retry_after_s: result.retry_after_s });
    return deny(ASSERTION_REASONS[result.status], result.detail);
  };

  const knownBy = (
    zone: ZoneSnapshot | undefined,
    named: string,
    presented: PresentedToken,
    single_use: CallNonce | undefined,
  ): Known | undefined => {
    const application = zone?.applications.get(named);
    if (zone === undefined || application === undefined) return undefined;
    return { zone, application, credential_type: "ambient_token", presented, single_use };
  };

  const throughGateway = (f: Asks, single_use: CallNonce | undefined) => {
    const { subject_token } = f.request;
    if (subject_token === undefined) return deny("subject_token_missing");
    const presented = tokens.read(subject_token);
    const named = presented === undefined ? undefined : clientNamedBy(presented);
    if (presented === undefined || named === undefined) return deny("subject_token_malformed");
    if (f.zone === undefined) return deny("subject_token_zone");
    const known = knownBy(f.zone, named, presented, single_use);
    if (known !== undefined) return known;
    // Another replica may have known it before us.
    return snapshots
      .latest(f.zone.zone_id)
      .then((zone) => knownBy(zone, named, presented, single_use) ?? deny("application_unknown"), orUnavailable);
  };

  return load("client", (f: Asks) => {
    const { caller } = f.request;
    if (caller.kind === "gateway") return throughGateway(f, caller.nonce);
    const { proof } = caller;
    const known = proof.by === "secret" ? bySecret(caller, proof.secret, f) : byAssertion(caller, proof.assertion, f);
    return known.catch(orUnavailable);
  });
};

/** The snapshot is past its age, and the database away. */
const orUnavailable = (error: unknown) => {
  if (error instanceof Unavailable) return deny("zone_unavailable");
  throw error;
};
