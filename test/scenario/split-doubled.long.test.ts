import { describeScenarios } from "./scenarios.ts";
import { splitFaults } from "./split-faults.ts";
import { startSplitTopology } from "./split-topology.ts";

describeScenarios(
  "two Gateways and two STSs, in production",
  () => startSplitTopology({ gateways: 2, stss: 2 }),
  { redis: true },
  splitFaults,
);
