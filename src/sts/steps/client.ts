import type { CredentialType } from "../../domain/policy-input.ts";
import { deny, load } from "../../kernel/pipeline.ts";
import { Unavailable } from "../../ports/streams.ts";
import type { ClientSecrets } from "../known/client-secrets.ts";
import type { Facts } from "../facts.ts";
import { clientNamedBy, type PresentedToken, type PresentedTokens } from "../../authority/presented-tokens.ts";
import type { Caller } from "../edge/request.ts";
import type { Application, ZoneSnapshot } from "../known/snapshot.ts";
import type { Snapshots } from "../known/snapshots.ts";

type Known = {
  readonly zone: ZoneSnapshot;
  readonly application: Application;
  readonly credential_type: CredentialType;
  readonly presented: PresentedToken | undefined;
};

/**
 * Who asks. A client by its secret: unknown zone, unknown client, public client and wrong secret are one answer, after one
 * hash. The Gateway has proved itself before; it acts for the application of the subject token, whose form is read here
 * because the rate limit that follows is that application's.
 */
export const client = (
  snapshots: Pick<Snapshots, "get" | "latest">,
  secrets: ClientSecrets,
  tokens: PresentedTokens,
) => {
  const bySecret = async (
    caller: Extract<Caller, { kind: "client" }>,
    f: Pick<Facts, "request" | "zone" | "now_ms">,
  ) => {
    const storedIn = (zone: ZoneSnapshot | undefined): readonly string[] => {
      const secrets = zone?.applications.get(caller.client_id)?.secrets ?? [];
      return secrets.filter((one) => f.now_ms < one.opens_until_ms).map((one) => one.hash);
    };
    const result = await secrets.verify({
      zone_id: f.request.zone_id,
      zone_exists: f.zone !== undefined,
      client_id: caller.client_id,
      address: caller.address,
      secret: caller.secret,
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
    const known: Known = { zone, application, credential_type: "client_secret", presented: undefined };
    return known;
  };

  const knownBy = (zone: ZoneSnapshot | undefined, named: string, presented: PresentedToken): Known | undefined => {
    const application = zone?.applications.get(named);
    if (zone === undefined || application === undefined) return undefined;
    return { zone, application, credential_type: "ambient_token", presented };
  };

  const throughGateway = (f: Pick<Facts, "request" | "zone">) => {
    const { subject_token } = f.request;
    if (subject_token === undefined) return deny("subject_token_missing");
    const presented = tokens.read(subject_token);
    const named = presented === undefined ? undefined : clientNamedBy(presented);
    if (presented === undefined || named === undefined) return deny("subject_token_malformed");
    if (f.zone === undefined) return deny("subject_token_zone");
    const known = knownBy(f.zone, named, presented);
    if (known !== undefined) return known;
    // Another replica may have known it before us.
    return snapshots
      .latest(f.zone.zone_id)
      .then((zone) => knownBy(zone, named, presented) ?? deny("application_unknown"), orUnavailable);
  };

  return load("client", (f: Pick<Facts, "request" | "zone" | "now_ms">) => {
    const { caller } = f.request;
    return caller.kind === "gateway" ? throughGateway(f) : bySecret(caller, f).catch(orUnavailable);
  });
};

/** The snapshot is past its age, and the database away. */
const orUnavailable = (error: unknown) => {
  if (error instanceof Unavailable) return deny("zone_unavailable");
  throw error;
};
