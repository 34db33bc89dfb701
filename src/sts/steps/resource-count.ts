import { MAX_RESOURCES } from "../../contracts/sts.ts";
import { check, deny } from "../../kernel/pipeline.ts";
import type { Facts } from "../facts.ts";

/** A mandate is for exactly one resource: one for several could be used at one in the name of another. */
export const oneResource = check("resource_count", (f: Pick<Facts, "request">) =>
  f.request.resources.length === 1 ? undefined : deny("resource_count_exchange"),
);

export const someResources = check("resource_count", (f: Pick<Facts, "request">) =>
  f.request.resources.length <= MAX_RESOURCES ? undefined : deny("resource_count_issue"),
);
