import type { Endpoint } from "./endpoint.ts";

/**
 * Who may call. `bootstrap`: the bootstrap token and nobody else. `registration`: an initial access token of the path's zone. `global`: an admin token that no zone bounds. `zone`: one
 * that is global or of the path's zone. `own`: any admin token; the endpoint keeps to the token's own zone by itself.
 */
export type Reach = "bootstrap" | "registration" | "global" | "zone" | "own";

/**
 * An endpoint of the control plane. `write` is refused to read-only tokens. In an archived zone there is nothing any more,
 * but for the endpoints that are `archived_too`.
 */
export type ApiEndpoint = Endpoint & {
  readonly reach: Reach;
  readonly access: "read" | "write";
  readonly archived_too?: true;
  /** What it changes has a revision, so it takes `If-Match`; to all other changes no entity tag matches (412). */
  readonly edits?: true;
  /** Fields of the answer that are secrets: a request that is answered again by its `Idempotency-Key` is without them. */
  readonly shown_once?: readonly string[];
};
