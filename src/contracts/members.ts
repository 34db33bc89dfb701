import type { Issue } from "../kernel/problem.ts";

/**
 * The members of a JSON object that passes with every call, declared once: its type, its reader and the most that it
 * takes follow. Elsewhere valibot's schemas are used; they say more, and cost ten times as much to read.
 */

/** One value's form. `fault`: what is wrong with it, for a person; undefined where nothing is. It never repeats the value. */
export type Member<T, Optional extends boolean = boolean> = {
  readonly optional: Optional;
  readonly fault: (value: unknown) => string | undefined;
  /** Carries the type alone; no member has it. */
  readonly type?: T;
};
export type Members = Readonly<Record<string, Member<unknown>>>;

type ValueOf<M> = M extends Member<infer T> ? T : never;
/** The object that `members` declare. */
export type ObjectOf<M extends Members> = {
  readonly [K in keyof M as M[K]["optional"] extends true ? never : K]: ValueOf<M[K]>;
} & { readonly [K in keyof M as M[K]["optional"] extends true ? K : never]?: ValueOf<M[K]> | undefined };

const member = <T>(fault: (value: unknown) => string | undefined): Member<T, false> => ({ optional: false, fault });

/** A string of `min` to `max` UTF-16 units. */
export const text = (min = 0, max = Infinity): Member<string, false> =>
  member((value) => {
    if (typeof value !== "string") return "must be a string";
    if (value.length < min) return "must not be empty";
    return value.length > max ? `is longer than ${max} characters` : undefined;
  });

export const number: Member<number, false> = member((value) =>
  typeof value === "number" ? undefined : "must be a number",
);

/** A whole number from `min` to `max`. */
export const whole = (min: number, max: number): Member<number, false> =>
  member((value) =>
    Number.isInteger(value) && (value as number) >= min && (value as number) <= max
      ? undefined
      : `must be a whole number from ${min} to ${max}`,
  );

/** This very value, or one of these. */
export const oneOf = <const T extends string>(...values: readonly T[]): Member<T, false> =>
  member((value) =>
    (values as readonly unknown[]).includes(value) ? undefined : `must be one of ${values.join(", ")}`,
  );

export const listOf = <T>(item: Member<T>): Member<readonly T[], false> =>
  member((value) => {
    if (!Array.isArray(value)) return "must be a list";
    const fault = value.map(item.fault).find((one) => one !== undefined);
    return fault === undefined ? undefined : `each of it ${fault}`;
  });

export const anything: Member<unknown, false> = member(() => undefined);

export const isObject = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/** An object with these members; others are passed over. Read it by its own names alone. */
export const objectOf = <M extends Members>(members: M): Member<ObjectOf<M>, false> =>
  member((value) => {
    const issue = issueIn(members, value, "");
    return issue === undefined ? undefined : `${issue.path === "" ? "" : `has a ${issue.path} that `}${issue.message}`;
  });

/** An object whose every member has that form, under whatever name. */
export const recordOf = <T>(of: Member<T>): Member<Readonly<Record<string, T>>, false> =>
  member((value) =>
    isObject(value)
      ? Object.values(value)
          .map(of.fault)
          .find((one) => one !== undefined)
      : "must be an object",
  );

export const optional = <T>(of: Member<T>): Member<T, true> => ({ optional: true, fault: of.fault });

/** The first thing that is wrong with a value that should have these members; others are passed over. */
export const issueIn = (members: Members, value: unknown, path: string): Issue | undefined => {
  if (!isObject(value)) return { path, message: "must be an object" };
  for (const name in members) {
    const { optional: may_lack, fault } = members[name] as Member<unknown>;
    const found = Object.hasOwn(value, name) ? value[name] : undefined;
    const message = found === undefined ? (may_lack ? undefined : "is missing") : fault(found);
    if (message !== undefined) return { path: path === "" ? name : `${path}.${name}`, message };
  }
  return undefined;
};

/** The first thing that is wrong with a list of 1 to `max` values, each judged by `issue` under its own path. */
export const issueOfList = (
  value: unknown,
  path: string,
  max: number,
  issue: (one: unknown, path: string) => Issue | undefined,
): Issue | undefined => {
  if (!Array.isArray(value)) return { path, message: "must be a list" };
  if (value.length < 1 || value.length > max) return { path, message: `must have 1 to ${max} members` };
  for (const [at, one] of value.entries()) {
    const found = issue(one, `${path}.${at}`);
    if (found !== undefined) return found;
  }
  return undefined;
};

const printable = (name: string): string => (/^[\x21-\x7e]{1,64}$/.test(name) ? name : "a member");

/** As `issueIn`, and a member that was not declared is one: last, since its name says the least about what is wrong. */
export const strictIssueIn = (members: Members, value: unknown, path: string): Issue | undefined => {
  const issue = issueIn(members, value, path);
  if (issue !== undefined || !isObject(value)) return issue;
  const unknown = Object.keys(value).find((name) => !Object.hasOwn(members, name));
  if (unknown === undefined) return undefined;
  return { path: path === "" ? printable(unknown) : `${path}.${printable(unknown)}`, message: "is not known here" };
};

/** Whether a value has these members: the cheap question, where nobody hears what is wrong. */
export const has = <M extends Members>(members: M, value: unknown): value is ObjectOf<M> =>
  issueIn(members, value, "") === undefined;

/** Bytes of an object of texts as JSON, at the most: each UTF-16 unit as an escape of six bytes. */
export const mostBytesOf = (members: Members, value: Readonly<Record<string, unknown>>): number => {
  let bytes = 2;
  for (const name in members) {
    const text_value = value[name];
    if (typeof text_value === "string") bytes += 6 * text_value.length + name.length + 6;
  }
  return bytes;
};
