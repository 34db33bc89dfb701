import type { Database } from "../ports/database.ts";
import type { ReadyCheck } from "./role.ts";

/** The role's database answers. */
export const databaseReachable = (db: Database): ReadyCheck => ({
  name: "database",
  fault: () =>
    db.ping().then(
      () => undefined,
      () => "can't be reached",
    ),
});

/** Redis, or what stands for it, answers. */
export const redisReachable = (ping: () => Promise<void>): ReadyCheck => ({
  name: "redis",
  fault: () =>
    ping().then(
      () => undefined,
      () => "can't be reached",
    ),
});
