import type { resourceEndpoints } from "../contracts/api-resources.ts";
import { uuidv7 } from "../kernel/ids.ts";
import type { Transaction } from "../ports/database.ts";
import { configChanged } from "./change.ts";
import { missing, unusable } from "./faults.ts";
import type { ControlPlane, Parts } from "./parts.ts";
import { holdApplication } from "./store/applications.ts";
import { archiveResource, findResource, insertResource, listResources, updateResource } from "./store/resources.ts";
import { requireHeldZone } from "./zones.ts";

const requireServer = async (
  tx: Transaction,
  zone_id: string,
  application_id: string | null | undefined,
): Promise<void> => {
  if (application_id === null || application_id === undefined) return;
  if (!(await holdApplication(tx, zone_id, application_id)))
    throw unusable("application_id", "names no application of this zone");
};

export const resourceVerbs = ({ db, change }: Parts): Pick<ControlPlane, keyof typeof resourceEndpoints> => ({
  listResources: ({ params, query }) => listResources(db.sql, params.zone_id, query),

  createResource: ({ caller, params: { zone_id }, body }) =>
    change(caller, async (tx) => {
      await requireHeldZone(tx, zone_id);
      await requireServer(tx, zone_id, body.application_id);
      const resource = await insertResource(tx, zone_id, uuidv7(), body);
      return {
        result: resource,
        entry: { action: "resource.create", zone_id, object_id: resource.id, detail: body },
        announce: [configChanged("resource", zone_id, resource.id)],
      };
    }),

  getResource: async ({ params }) => {
    const resource = await findResource(db.sql, params.zone_id, params.id);
    if (resource === undefined) throw missing("resource");
    return resource;
  },

  updateResource: ({ caller, params: { zone_id, id }, body }) =>
    change(caller, async (tx) => {
      await requireServer(tx, zone_id, body.application_id);
      const resource = await updateResource(tx, zone_id, id, body);
      if (resource === undefined) throw missing("resource");
      return {
        result: resource,
        entry: { action: "resource.update", zone_id, object_id: id, detail: body },
        announce: [configChanged("resource", zone_id, id)],
      };
    }),

  archiveResource: ({ caller, params: { zone_id, id } }) =>
    change(caller, async (tx) => {
      if (!(await archiveResource(tx, zone_id, id))) throw missing("resource");
      return {
        result: undefined,
        entry: { action: "resource.archive", zone_id, object_id: id },
        announce: [configChanged("resource", zone_id, id)],
      };
    }),
});
