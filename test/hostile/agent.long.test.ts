import { AGENT_ATTACKS } from "./agent.ts";
import { describeAttacks } from "./suite.ts";

describeAttacks("an agent as an attacker", { storage: "servers" }, AGENT_ATTACKS);
