import type { Revocations } from "../../domain/revocation.ts";
import type { Clock } from "../../kernel/clock.ts";
import type { Database } from "../../ports/database.ts";
import { readSession, type SessionRow } from "../store/zones.ts";
import { createAnnounced } from "./announced.ts";

export type Session = SessionRow & { readonly id: string };
export type Found = { readonly session: Session; readonly marked: boolean };

export type Sessions = {
  /**
   * The session, and whether the revocation stream has a mark on it. The mark is looked at last: a revocation that came
   * while the row was being read is seen. undefined: there is none. Rejects where the database can't be asked.
   */
  get(zone_id: string, id: string): Found | undefined | Promise<Found | undefined>;
  /** It was changed: the next who asks for it reads it. */
  forget(zone_id: string, id: string): void;
  /** A session that was just written. */
  put(zone_id: string, session: Session): void;
};

const MAX_SESSIONS = 50_000;

/** The sessions that tokens stand for. None begins again once it is over, so each is read once (`createAnnounced`). */
export const createSessions = (options: {
  readonly db: Database;
  readonly revocations: Revocations;
  readonly clock: Clock;
  readonly onRead?: (() => void) | undefined;
}): Sessions => {
  const { revocations, clock } = options;
  const known = createAnnounced<Session>({
    async read(zone_id, id) {
      options.onRead?.();
      const row = await readSession(options.db.sql, zone_id, id);
      return row === undefined ? undefined : { id, ...row };
    },
    holds: () => true,
    max: MAX_SESSIONS,
    revocations,
    clock,
  });
  const found = (zone_id: string, session: Session | undefined): Found | undefined =>
    session === undefined ? undefined : { session, marked: revocations.revoked(zone_id, "session", session.id) };

  return {
    get(zone_id, id) {
      const session = known.get(zone_id, id);
      return session instanceof Promise ? session.then((row) => found(zone_id, row)) : found(zone_id, session);
    },
    forget: (zone_id, id) => known.forget(zone_id, id),
    put: (zone_id, session) => known.put(zone_id, session.id, session),
  };
};
