import { configChanged } from "../authority/change.ts";
import type { Challenge, challengeEndpoints } from "../contracts/api-challenges.ts";
import { Problem } from "../kernel/problem.ts";
import type { Caller } from "./caller.ts";
import { missing } from "./faults.ts";
import type { ControlPlane, Parts } from "./parts.ts";
import { decideChallenge, findChallenge, listChallenges } from "./store/challenges.ts";

const ACTIONS = { satisfied: "step_up_challenge.satisfy", rejected: "step_up_challenge.reject" } as const;

/** The STS hears of a decision, for those who wait for it there. No process caches one: the retry reads its row. */
export const challengeVerbs = ({ db, change }: Parts): Pick<ControlPlane, keyof typeof challengeEndpoints> => {
  const decide = (caller: Caller, zone_id: string, id: string, decision: keyof typeof ACTIONS): Promise<Challenge> =>
    change(caller, async (tx) => {
      const decided = await decideChallenge(tx, zone_id, id, decision, caller.actor);
      if (decided === undefined) {
        const now = await findChallenge(tx, zone_id, id);
        if (now === undefined) throw missing("step-up challenge");
        throw new Problem(409, "challenge_not_pending", `This challenge is ${now.status}: it waits for no decision.`);
      }
      const { application_id, subject, resource_id, scopes, method, path, body_sha256 } = decided;
      const bound = { application_id, subject, resource_id, scopes, method, path, body_sha256 };
      return {
        result: decided,
        entry: { action: ACTIONS[decision], zone_id, object_id: id, detail: { kind: decided.kind, bound } },
        announce: [configChanged("challenge", zone_id, id)],
      };
    });
  return {
    listChallenges: ({ params, query }) => listChallenges(db.sql, params.zone_id, query),

    getChallenge: async ({ params: { zone_id, id } }) => {
      const challenge = await findChallenge(db.sql, zone_id, id);
      if (challenge === undefined) throw missing("step-up challenge");
      return challenge;
    },

    satisfyChallenge: ({ caller, params: { zone_id, id } }) => decide(caller, zone_id, id, "satisfied"),
    rejectChallenge: ({ caller, params: { zone_id, id } }) => decide(caller, zone_id, id, "rejected"),
  };
};
