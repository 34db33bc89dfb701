import { Unavailable } from "../../ports/streams.ts";

/** No answer, or none that can be used: never a decision. `what` says why to who reads the log. */
export const unusable = (what: string, cause?: unknown): Unavailable => new Unavailable(`sts (${what})`, cause);
