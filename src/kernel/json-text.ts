/** Whether nothing within `value` can change any more: a JSON value that is frozen throughout. */
export const isConstant = (value: unknown): boolean =>
  typeof value !== "object" ||
  value === null ||
  (Object.isFrozen(value) && Object.values(value).every((part) => isConstant(part)));

/** Freezes a JSON value throughout, and returns it. Not for values of unknown depth: it recurses. */
export const constant = <T>(value: T): T => {
  if (typeof value !== "object" || value === null) return value;
  for (const part of Object.values(value)) constant(part);
  return Object.freeze(value);
};

const texts = new WeakMap<object, string>();

/**
 * `JSON.stringify(value)`, made once for a value that can't change any more (`constant`). The text is remembered while
 * somebody holds that very object. Whoever reads the source again has another object, and so another text.
 */
export const jsonText = (value: object): string => {
  const known = texts.get(value);
  if (known !== undefined) return known;
  const text = JSON.stringify(value);
  if (isConstant(value)) texts.set(value, text);
  return text;
};
