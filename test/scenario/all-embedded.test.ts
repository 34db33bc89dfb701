import { describeScenarios } from "./scenarios.ts";
import { startEmbedded } from "./topology.ts";

describeScenarios("every role in one process, with nothing beside it", startEmbedded, { redis: false });
