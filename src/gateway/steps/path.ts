import { check, deny } from "../../kernel/pipeline.ts";
import type { Route } from "../facts.ts";
import { isQuery, pathFault } from "../edge/path.ts";

/** On the text that the upstream will get: a path that climbs is refused, never tidied up. */
export const pathClean = check("path", ({ route }: { readonly route: Route }) => {
  const fault = pathFault(route.path);
  if (fault !== undefined) return deny("path_refused", undefined, { description: `The path is refused: ${fault}.` });
  if (!isQuery(route.query)) {
    return deny("path_refused", undefined, { description: "The query holds a character that a URL can't." });
  }
  return undefined;
});
