import { CALL_FIELDS } from "../../contracts/sts.ts";
import { CALL_METHOD, CALL_PATH } from "../../domain/call.ts";
import { check, deny } from "../../kernel/pipeline.ts";
import type { Facts } from "../facts.ts";

const { method: METHOD, path: PATH } = CALL_FIELDS;

/**
 * The call that a client's mandate is for. One that names none would pass policies on method and path unasked, so it is
 * for applications that were set up for it alone. The Gateway's own hop names the call that it is in the middle of.
 */
export const call = check("call", (f: Pick<Facts, "request" | "application">) => {
  const { caller, method, path } = f.request;
  if (caller.kind === "gateway") return undefined;
  if (method === undefined && path === undefined)
    return f.application.unbound_mandates ? undefined : deny("call_missing");
  if (method === undefined || path === undefined) return deny("call_incomplete");
  if (!CALL_METHOD.test(method))
    return malformed(`${METHOD} must be a method (RFC 9110, 9.1) of at most 64 characters.`);
  return CALL_PATH.test(path)
    ? undefined
    : malformed(`${PATH} must begin with /, end before the query, and have at most 2048 characters of a URL's path.`);
});

const malformed = (description: string) => deny("call_malformed", undefined, { description });
