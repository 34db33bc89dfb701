import type { Claims } from "../../domain/token.ts";
import { check, deny, load } from "../../kernel/pipeline.ts";
import type { Facts } from "../facts.ts";
import type { TokenInquiry } from "../inquiry.ts";
import type { ZoneSnapshot } from "../known/snapshot.ts";
import type { Snapshots } from "../known/snapshots.ts";

export const tokenSent = check("token_sent", (f: { readonly request: TokenInquiry }) =>
  f.request.subject_token === undefined ? deny("token_missing") : undefined,
);

/** An ambient token is for nobody's server: only a mandate names one. */
const isServerOf = (zone: ZoneSnapshot, application_id: string, { use, aud }: Claims): boolean =>
  use === "per_call" && zone.resources.get(aud)?.application_id === application_id;

/**
 * Who may know of it: the application that it was issued to, and, of a mandate, the server that it is for. A server may have
 * been named a moment ago: the zone is read anew before it is told nothing.
 */
export const tokenVisible = (snapshots: Pick<Snapshots, "latest">) =>
  load("token_visible", (f: Pick<Facts, "subject" | "application"> & { readonly zone: ZoneSnapshot }) => {
    const { subject, application, zone } = f;
    if (subject.client_id === application.id || isServerOf(zone, application.id, subject)) return { zone };
    if (subject.use !== "per_call") return deny("token_not_visible", subject.client_id);
    return snapshots.latest(zone.zone_id).then(
      (late) =>
        late !== undefined && isServerOf(late, application.id, subject)
          ? { zone: late }
          : deny("token_not_visible", subject.client_id),
      () => deny("zone_unavailable"),
    );
  });

/** Its application is still there, and nothing that it stands for is over before itself. */
export const tokenAlive = check(
  "token_alive",
  (f: Pick<Facts, "subject" | "now_ms"> & { readonly zone: ZoneSnapshot }) => {
    const { client_id, auth_exp } = f.subject;
    if (!f.zone.applications.has(client_id)) return deny("application_unknown", client_id);
    return auth_exp !== undefined && auth_exp <= Math.floor(f.now_ms / 1_000) ? deny("session_expired") : undefined;
  },
);

export const tokenOwn = check("token_own", (f: Pick<Facts, "subject" | "application">) =>
  f.subject.client_id === f.application.id ? undefined : deny("token_of_another", f.subject.client_id),
);
