import { describeScenarios } from "./scenarios.ts";
import { splitFaults } from "./split-faults.ts";
import { startSplitTopology } from "./split-topology.ts";

describeScenarios(
  "a process per role, in production",
  () => startSplitTopology({ gateways: 1, stss: 1 }),
  { redis: true },
  splitFaults,
);
