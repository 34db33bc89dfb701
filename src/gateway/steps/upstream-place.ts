import { type Denial, deny, load } from "../../kernel/pipeline.ts";
import type { ShareBound } from "../../kernel/shares.ts";
import type { EgressTarget, UpstreamPlace, Upstreams } from "../../ports/egress.ts";
import type { Claims, Client } from "../facts.ts";

type Refusal = "upstream_busy" | "upstream_zone_busy" | "upstream_client_busy";

const FULL: Readonly<Record<ShareBound, Refusal>> = {
  process: "upstream_busy",
  zone: "upstream_zone_busy",
  client: "upstream_client_busy",
};

type Needs = { readonly claims: Claims; readonly client: Client; readonly target: EgressTarget };

/**
 * A place among the calls of the upstream. Before the mandate is marked, so that whoever is over its share has it still
 * when there is room. Every way out gives it back: the call's own end, a refusal, or the close of the answer.
 */
export const upstreamPlace = (upstreams: Upstreams) =>
  load("upstream_place", ({ claims, client, target }: Needs): { readonly place: UpstreamPlace } | Denial<Refusal> => {
    const place = upstreams.place(target, claims.zone_id, claims.client_id);
    if (!place.ok) return deny(FULL[place.bound], `as many calls of ${target.origin} run as may (${place.bound})`);
    client.hold(place);
    return { place };
  });
