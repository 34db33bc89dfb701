import { Problem } from "../kernel/problem.ts";
import type { Metrics } from "../kernel/metrics.ts";
import type { Database } from "../ports/database.ts";
import { sendProblem } from "../http/problem.ts";
import { databaseReachable } from "../http/ready.ts";
import { requestIdOf } from "../http/request-id.ts";
import type { Role } from "../http/role.ts";

export type CoordinatorDeps = {
  readonly db: Database;
  readonly metrics: Metrics;
};

/** The Coordinator: it keeps its place in every topology and dispatches the outbox; it has no resources of its own yet. */
export const createCoordinator = (deps: CoordinatorDeps): Role => ({
  name: "coordinator",
  handle: (request, response) => {
    const path = (request.url ?? "").split("?", 1)[0] ?? "";
    request.resume();
    sendProblem(
      response,
      new Problem(404, "not_found", `The Coordinator has nothing at ${path.slice(0, 200)}.`),
      requestIdOf(request.headers["x-request-id"]),
    );
  },
  services: [],
  ready: [databaseReachable(deps.db)],
  metrics: deps.metrics,
});
