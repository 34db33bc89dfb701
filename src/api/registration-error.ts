import { type ErrorBody, problemBody } from "../http/problem.ts";
import type { Problem } from "../kernel/problem.ts";

/** RFC 7591, 3.2.2: what a stock client reads. What the general shape says beside it stays. */
export type RegistrationErrorBody = ErrorBody & { readonly error_description: string };

const codeOf = ({ status, code, issues = [] }: Problem): string => {
  if (status !== 400) return code; // RFC 6750's, and what that RFC has no word for
  const [first] = issues;
  return first !== undefined && first.path.startsWith("redirect_uris")
    ? "invalid_redirect_uri"
    : "invalid_client_metadata";
};

/** RFC 6749, 5.2: no quotes, no backslashes, nothing but ASCII. */
const ascii = (text: string): string => text.replace(/["\\]/g, "'").replace(/[^\x20-\x7e]/g, "?");

/** A refusal of a registration. */
export const registrationError = (problem: Problem, request_id: string): RegistrationErrorBody => {
  const [first] = problem.issues ?? [];
  const where = first === undefined || first.path === "" ? "" : ` ${first.path} ${first.message}.`;
  return {
    ...problemBody(problem, request_id),
    error: codeOf(problem),
    error_description: ascii(`${problem.description}${where}`),
  };
};
