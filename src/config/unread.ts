import { type Env, type Variable, VARIABLES } from "./variables.ts";

/** Whoever sets a variable of this beginning means us. */
const PREFIX = "CARACAL_";
/** Letters that a misspelt name may differ by. */
const MAX_DISTANCE = 2;
/** Shorter names are near to too many others. */
const MIN_LENGTH = 7;

const KNOWN: readonly string[] = Object.entries<Variable>(VARIABLES).flatMap(([name, variable]) =>
  variable.secret === true ? [name, `${name}_FILE`] : [name],
);

/** How many letters must be added, taken away or replaced to make one of the other (Levenshtein). */
const distance = (a: string, b: string): number => {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i += 1) {
    const next = [i];
    for (let j = 1; j <= b.length; j += 1) {
      const replaced = (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(replaced, (row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1));
    }
    row = next;
  }
  return row[b.length] ?? 0;
};

const nearest = (name: string): string | undefined => {
  const near = KNOWN.filter((known) => Math.abs(known.length - name.length) <= MAX_DISTANCE)
    .map((known) => ({ known, by: distance(name, known) }))
    .filter(({ by }) => by <= MAX_DISTANCE);
  return near.toSorted((a, b) => a.by - b.by)[0]?.known;
};

/** What to say of a name that is set; undefined where it is ours, or of no concern to us. */
const unread = (name: string): string | undefined => {
  if (KNOWN.includes(name) || name.length < MIN_LENGTH || name.length > 128) return undefined;
  const whole = name.replace(/_FILE$/, "");
  if (whole !== name && KNOWN.includes(whole)) {
    return `${name}: nothing reads it; only secrets are read from files. Did you mean ${whole}?`;
  }
  const meant = nearest(name);
  if (meant !== undefined) return `${name}: nothing reads it. Did you mean ${meant}?`;
  return name.startsWith(PREFIX) ? `${name}: nothing reads it. \`caracal config\` lists every variable.` : undefined;
};

/** A line for each variable that is set and read by no role, where its name says that it was meant for us. */
export const unreadVariables = (env: Env): readonly string[] =>
  Object.keys(env)
    .filter((name) => env[name] !== undefined && env[name] !== "")
    .flatMap((name) => unread(name) ?? []);
