import { CALL_FIELDS, GRANT_CLIENT_CREDENTIALS, TOKEN_TYPE_ACCESS_TOKEN } from "../../contracts/sts.ts";
import { check, deny } from "../../kernel/pipeline.ts";
import type { Facts } from "../facts.ts";

/** What is asked for and not served is refused by name: an actor or an edge that is left out would widen the answer. */
export const supportedFields = check("supported_fields", (f: Pick<Facts, "request">) => {
  const { request } = f;
  const [unsupported] = request.unsupported;
  if (unsupported !== undefined)
    return refuse("field_not_supported", `${unsupported} is not supported by this server; leave it out.`);
  if (request.requested_token_type !== undefined && request.requested_token_type !== TOKEN_TYPE_ACCESS_TOKEN) {
    return refuse(
      "field_not_supported",
      `requested_token_type must be ${TOKEN_TYPE_ACCESS_TOKEN}; others are not supported by this server.`,
    );
  }
  for (const name of ["subject_token_type", "actor_token_type"] as const) {
    if (request[name] !== undefined && request[name] !== TOKEN_TYPE_ACCESS_TOKEN) {
      return refuse(
        "field_not_supported",
        `${name} must be ${TOKEN_TYPE_ACCESS_TOKEN}; others are not supported by this server.`,
      );
    }
  }
  return undefined;
});

/** Fields that belong to an exchange mean that the caller thinks it asks for one. */
export const issueFields = check("issue_fields", (f: Pick<Facts, "request">) => {
  const { request } = f;
  if (request.subject_token !== undefined && request.grant_type === GRANT_CLIENT_CREDENTIALS) {
    return refuse("field_not_allowed", `subject_token does not go with grant_type=${GRANT_CLIENT_CREDENTIALS}.`);
  }
  if (request.subject_token_type !== undefined) {
    return refuse("field_not_allowed", "subject_token_type is sent with a subject_token only.");
  }
  if (request.actor_token !== undefined || request.actor_token_type !== undefined) {
    return refuse("field_not_allowed", "actor_token is sent with a subject_token only: it says who acts for that one.");
  }
  if (request.session_id !== undefined) {
    return refuse(
      "field_not_allowed",
      "session_id is sent with a subject_token only: an ambient token begins a session of its own.",
    );
  }
  if (request.method !== undefined || request.path !== undefined) {
    const names = `${CALL_FIELDS.method} and ${CALL_FIELDS.path}`;
    return refuse("field_not_allowed", `${names} are sent with a subject_token only: an ambient token is for no call.`);
  }
  return undefined;
});

/** RFC 8693, 2.1: the type is required with the token. */
export const exchangeFields = check("exchange_fields", (f: Pick<Facts, "request">) => {
  if (f.request.grant_type === GRANT_CLIENT_CREDENTIALS) {
    return refuse(
      "field_not_allowed",
      "The Gateway asks by grant_type=urn:ietf:params:oauth:grant-type:token-exchange.",
    );
  }
  if (f.request.subject_token === undefined) return deny("subject_token_missing");
  if (f.request.subject_token_type === undefined) {
    return refuse("subject_token_type_missing", `subject_token_type is missing: send ${TOKEN_TYPE_ACCESS_TOKEN}.`);
  }
  if (f.request.actor_token !== undefined && f.request.actor_token_type === undefined)
    return refuse("actor_token_type_missing", `actor_token_type is missing: send ${TOKEN_TYPE_ACCESS_TOKEN}.`);
  if (f.request.actor_token === undefined && f.request.actor_token_type !== undefined)
    return refuse("field_not_allowed", "actor_token_type is sent with an actor_token only.");
  return undefined;
});

const refuse = <const R extends string>(reason: R, description: string) => deny(reason, undefined, { description });
