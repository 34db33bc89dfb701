/** How somebody vouches for a call before policy lets it pass. */
export const STEP_UP_KINDS = ["mfa", "human_approval", "software_attestation"] as const;
export type StepUpKind = (typeof STEP_UP_KINDS)[number];

/** From its making on. An approval ends with it. */
export const CHALLENGE_TTL_S = 300;
/** A challenge dies of so many wrong answers, wherever they arrive. */
export const MAX_WRONG_ANSWERS = 5;

export type ChallengeStatus = "pending" | "satisfied" | "rejected" | "consumed" | "expired";

const isKind = (value: unknown): value is StepUpKind => (STEP_UP_KINDS as readonly unknown[]).includes(value);

const MEMBER = "step_up_required";

/** What each statement asks for that asks for something: a kind, or a word that is none. */
const asked = (diagnostics: readonly unknown[]): readonly unknown[] =>
  diagnostics.flatMap((one) =>
    typeof one === "object" && one !== null && Object.hasOwn(one, MEMBER)
      ? [(one as Readonly<Record<string, unknown>>)[MEMBER]]
      : [],
  );

/**
 * The kind of step-up that would lift a refusal. `denials`: the diagnostics of each explicit deny. undefined where one of them
 * asks for none, or they ask for two kinds, or for one that nobody knows: one challenge would not lift all of them.
 */
export const stepUpAskedBy = (denials: readonly (readonly unknown[])[]): StepUpKind | undefined => {
  const wishes = denials.map(asked);
  if (wishes.some((wish) => wish.length === 0)) return undefined;
  const [only, another] = new Set(wishes.flat());
  return another === undefined && isKind(only) ? only : undefined;
};
