import { describeAttacks } from "./suite.ts";
import { UPSTREAM_ATTACKS } from "./upstream.ts";

describeAttacks("an upstream as an attacker", { storage: "servers" }, UPSTREAM_ATTACKS);
