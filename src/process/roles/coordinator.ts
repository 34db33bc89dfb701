import { createCoordinator } from "../../coordinator/index.ts";
import { createMetrics } from "../../kernel/metrics.ts";
import { databaseOf } from "../parts.ts";
import type { MakeRole } from "../make-role.ts";

/** The coordinator of agents. */
export const makeCoordinator: MakeRole<"coordinator"> = (parts) => ({
  role: createCoordinator({ db: databaseOf(parts, "coordinator"), metrics: createMetrics(parts.process_metrics) }),
  services: [],
});
