import { check, deny } from "../../kernel/pipeline.ts";
import type { Facts } from "../facts.ts";

/** A challenge is named together with its answer. */
export const stepUpFields = check("step_up_fields", (f: Pick<Facts, "request">) => {
  const { challenge_id, challenge_response } = f.request;
  return (challenge_id === undefined) === (challenge_response === undefined) ? undefined : deny("challenge_incomplete");
});

/** An ambient token is for no call, so nobody can have approved it. */
export const noStepUpFields = check("step_up_fields", (f: Pick<Facts, "request">) => {
  const { challenge_id, challenge_response } = f.request;
  if (challenge_id === undefined && challenge_response === undefined) return undefined;
  return deny("field_not_allowed", undefined, {
    description: "challenge_id and challenge_response are sent with a subject_token only: an approval is for a call.",
  });
});
