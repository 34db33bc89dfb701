import { deny, load } from "../../kernel/pipeline.ts";
import type { Asker } from "../edge/request.ts";
import type { Snapshots } from "../known/snapshots.ts";

/** The zone as it is. A missing zone is refused later, by `client`, so that it looks like a wrong secret. */
export const zone = (snapshots: Snapshots) =>
  load("zone", (f: { readonly request: Asker }) => {
    const found = snapshots.get(f.request.zone_id);
    if (!(found instanceof Promise)) return { zone: found };
    return found.then(
      (snapshot) => ({ zone: snapshot }),
      () => deny("zone_unavailable"),
    );
  });
