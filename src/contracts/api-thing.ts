import * as v from "valibot";
import type { ApiEndpoint } from "./api-access.ts";
import { NoQuerySchema, TimeSchema, ZoneItemParamsSchema, ZoneParamsSchema } from "./api-fields.ts";

/** What every thing of a zone has. `revision` grows with each edit, and is its ETag: `If-Match: "3"`. */
export const thingFields = {
  id: v.string(),
  zone_id: v.string(),
  revision: v.number(),
  created_at: TimeSchema,
  updated_at: TimeSchema,
};

type Schema = v.GenericSchema<unknown, object>;

/**
 * The five endpoints of a thing of a zone. `item`: as it is shown; `made`: as the answer that makes it shows it; `page`:
 * a page of items; `archives`: what archiving it does, in one line.
 */
export const thingEndpoints = <
  const Path extends string,
  Item extends Schema,
  Made extends Schema,
  ItemPage extends Schema,
  Query extends Schema,
  New extends Schema,
  Changes extends Schema,
>(thing: {
  readonly path: Path;
  readonly one: string;
  readonly many: string;
  readonly makes: string;
  readonly archives: string;
  readonly item: Item;
  readonly made: Made;
  readonly page: ItemPage;
  readonly query: Query;
  readonly fresh: New;
  readonly changes: Changes;
}) =>
  ({
    list: {
      method: "GET",
      path: `/v1/zones/{zone_id}/${thing.path}`,
      summary: `The zone's ${thing.many}`,
      reach: "zone",
      access: "read",
      params: ZoneParamsSchema,
      query: thing.query,
      status: 200,
      response: thing.page,
    },
    create: {
      method: "POST",
      path: `/v1/zones/{zone_id}/${thing.path}`,
      summary: thing.makes,
      reach: "zone",
      access: "write",
      params: ZoneParamsSchema,
      query: NoQuerySchema,
      body: thing.fresh,
      status: 201,
      response: thing.made,
    },
    get: {
      method: "GET",
      path: `/v1/zones/{zone_id}/${thing.path}/{id}`,
      summary: `One ${thing.one}`,
      reach: "zone",
      access: "read",
      params: ZoneItemParamsSchema,
      query: NoQuerySchema,
      status: 200,
      response: thing.item,
    },
    update: {
      method: "PATCH",
      path: `/v1/zones/{zone_id}/${thing.path}/{id}`,
      summary: `Change one ${thing.one}; fields that are left out stay`,
      reach: "zone",
      access: "write",
      edits: true,
      params: ZoneItemParamsSchema,
      query: NoQuerySchema,
      body: thing.changes,
      status: 200,
      response: thing.item,
    },
    archive: {
      method: "DELETE",
      path: `/v1/zones/{zone_id}/${thing.path}/{id}`,
      summary: thing.archives,
      reach: "zone",
      access: "write",
      edits: true,
      params: ZoneItemParamsSchema,
      query: NoQuerySchema,
      status: 204,
    },
  }) as const satisfies Record<string, ApiEndpoint>;
