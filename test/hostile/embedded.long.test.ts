import { AGENT_ATTACKS } from "./agent.ts";
import { describeAttacks } from "./suite.ts";
import { ZONE_ADMIN_ATTACKS } from "./zone-admin.ts";

describeAttacks("attackers of the program that embeds all", { storage: "embedded" }, [
  ...AGENT_ATTACKS,
  ...ZONE_ADMIN_ATTACKS,
]);
