import { AGENT_ATTACKS, TLS_ATTACKS } from "./agent.ts";
import { describeAttacks } from "./suite.ts";

describeAttacks("an agent as an attacker", { storage: "servers" }, AGENT_ATTACKS);
// Last: from here on this process's clients believe the certificates of one program alone.
describeAttacks("an agent as an attacker, over TLS", { storage: "servers", tls: true }, TLS_ATTACKS);
