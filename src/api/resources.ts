import type { resourceEndpoints } from "../contracts/api-resources.ts";
import type { ControlPlane, Parts } from "./parts.ts";
import { thingVerbs } from "./things.ts";

export const resourceVerbs = (parts: Parts): Pick<ControlPlane, keyof typeof resourceEndpoints> => {
  const resources = thingVerbs(parts, "resource");
  return {
    listResources: resources.list,
    createResource: resources.create,
    getResource: resources.get,
    updateResource: resources.update,
    archiveResource: resources.archive,
  };
};
