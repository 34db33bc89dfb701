import { describeScenarios } from "./scenarios.ts";
import { startOnPostgresAndRedis } from "./topology.ts";

describeScenarios("every role in one process, on PostgreSQL and Redis", startOnPostgresAndRedis, { redis: true });
