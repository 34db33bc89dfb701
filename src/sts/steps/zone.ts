import { deny, load } from "../../kernel/pipeline.ts";
import type { Asker } from "../edge/request.ts";
import type { Snapshots } from "../known/snapshots.ts";

/** The zone as it is. That there is none is no answer yet: it must look like a wrong secret. */
export const zone = (snapshots: Snapshots) =>
  load("zone", (f: { readonly request: Asker }) => {
    const found = snapshots.get(f.request.zone_id);
    if (!(found instanceof Promise)) return { zone: found };
    return found.then(
      (snapshot) => ({ zone: snapshot }),
      () => deny("zone_unavailable"),
    );
  });
