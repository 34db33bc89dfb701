import { describeAttacks } from "./suite.ts";
import { ZONE_ADMIN_ATTACKS } from "./zone-admin.ts";

describeAttacks("a zone's admin as an attacker", { storage: "servers" }, ZONE_ADMIN_ATTACKS);
