/**
 * Rego's `sprintf`, the one builtin that runs outside the module's counter: a subset of Go's formatting, bounded in the length of
 * what goes in and comes out, and without regular expressions over the caller's text. What Go marks in its output
 * (`%!d(string=x)`, `%!s(MISSING)`) is marked the same; so are the verbs that are left out: `%x` of a fraction, `%q` of a
 * number, `%b %c %e %g %o %t %U`, flags but `-0+`.
 */

/** Characters of format and result, arguments, and the widest field. Above: `undefined`, so that the rule is undefined. */
const MAX_TEXT = 4096;
const MAX_ARGUMENTS = 64;
const MAX_WIDTH = 64;

type Verb = {
  readonly verb: string;
  readonly left: boolean;
  readonly zero: boolean;
  readonly plus: boolean;
  readonly width: number;
  readonly precision: number | undefined;
};

/** A value as Rego writes it, for `%v` and `%s` of what is neither text nor number. */
const regoText = (value: unknown): string => {
  if (Array.isArray(value)) return `[${value.map(regoText).join(", ")}]`;
  if (typeof value === "object" && value !== null) {
    const members = Object.entries(value).map(([name, item]) => `${JSON.stringify(name)}: ${regoText(item)}`);
    return `{${members.toSorted().join(", ")}}`;
  }
  return JSON.stringify(value);
};

/** Go's type of a value, in its complaints: only text and numbers come as themselves, all else as text. */
const typeName = (value: unknown): string =>
  typeof value !== "number" ? "string" : Number.isInteger(value) ? "int" : "float64";
const plainText = (value: unknown): string =>
  typeof value === "string" ? value : typeof value === "number" ? String(value) : regoText(value);

const padded = (text: string, { left, zero, width }: Verb): string => {
  if (left) return text.padEnd(width);
  if (!zero) return text.padStart(width);
  const sign = /^[+-]/.test(text) ? (text[0] as string) : "";
  return sign + text.slice(sign.length).padStart(width - sign.length, "0");
};

const signed = (text: string, value: number, { plus }: Verb): string => (plus && value >= 0 ? `+${text}` : text);

const cut = (text: string, { precision }: Verb): string =>
  precision === undefined ? text : [...text].slice(0, precision).join("");

/** A whole number with at least `precision` digits. */
const whole = (value: number, verb: Verb, radix = 10): string => {
  const digits = Math.abs(value)
    .toString(radix)
    .padStart(verb.precision ?? 1, "0");
  return signed(value < 0 ? `-${digits}` : digits, value, verb);
};

/** Any value as it is. */
const plain = (value: unknown, verb: Verb): string => {
  if (typeof value !== "number") return cut(plainText(value), verb);
  return Number.isInteger(value) ? whole(value, verb) : signed(String(value), value, verb);
};

/** A verb that the value has not. */
const complaint = (value: unknown, verb: Verb): string =>
  `%!${verb.verb}(${typeName(value)}=${padded(plain(value, verb), verb)})`;

/** Of a number its digits, of text its bytes. */
const hex = (value: unknown, verb: Verb): string | undefined => {
  if (typeof value !== "number") return Buffer.from(plainText(value)).toString("hex");
  return Number.isInteger(value) ? whole(value, verb, 16) : undefined;
};

const FORMATS: Readonly<Record<string, (value: unknown, verb: Verb) => string | undefined>> = {
  v: (value, verb) => plain(value, { ...verb, plus: false }), // Go takes this plus for more detail
  s: (value, verb) => (typeof value === "number" ? undefined : cut(plainText(value), verb)),
  q: (value) => (typeof value === "number" ? undefined : JSON.stringify(plainText(value))),
  d: (value, verb) => (Number.isInteger(value) ? whole(value as number, verb) : undefined),
  x: (value, verb) => hex(value, verb),
  X: (value, verb) => hex(value, verb)?.toUpperCase(),
  f: (value, verb) =>
    typeof value === "number" && !Number.isInteger(value)
      ? signed(value.toFixed(verb.precision ?? 6), value, verb)
      : undefined,
};

const isDigit = (char: string | undefined): char is string => char !== undefined && char >= "0" && char <= "9";

/** The directive behind a `%`, and where it ends; undefined where it asks for too much. */
const readVerb = (format: string, start: number): { readonly verb: Verb; readonly end: number } | undefined => {
  let at = start;
  let left = false;
  let zero = false;
  let plus = false;
  for (; format[at] !== undefined && "-0+".includes(format[at] as string); at += 1) {
    left ||= format[at] === "-";
    zero ||= format[at] === "0";
    plus ||= format[at] === "+";
  }
  const number = (): number => {
    let value = 0;
    for (; isDigit(format[at]); at += 1) value = Math.min(value * 10 + Number(format[at]), MAX_WIDTH + 1);
    return value;
  };
  const width = number();
  let precision: number | undefined;
  if (format[at] === ".") {
    at += 1;
    precision = number();
  }
  if (width > MAX_WIDTH || (precision ?? 0) > MAX_WIDTH) return undefined;
  const char = format.codePointAt(at);
  const verb = char === undefined ? "" : String.fromCodePoint(char);
  return { verb: { verb, left, zero: zero && !left, plus, width, precision }, end: at + verb.length };
};

/** `sprintf(format, values)`; undefined where an argument is of the wrong type or a limit is exceeded. */
export const sprintf = (format: unknown, values: unknown): string | undefined => {
  if (
    typeof format !== "string" ||
    format.length > MAX_TEXT ||
    !Array.isArray(values) ||
    values.length > MAX_ARGUMENTS
  ) {
    return undefined;
  }
  let out = "";
  let used = 0;
  let at = 0;
  while (at < format.length) {
    const next = format.indexOf("%", at);
    out += next === -1 ? format.slice(at) : format.slice(at, next);
    if (next === -1) break;
    const read = readVerb(format, next + 1);
    if (read === undefined) return undefined;
    const { verb } = read;
    at = read.end;
    if (verb.verb === "%") out += "%";
    else if (verb.verb === "") out += "%!(NOVERB)";
    else if (used >= values.length) out += `%!${verb.verb}(MISSING)`;
    else {
      const value: unknown = values[used];
      used += 1;
      const text = FORMATS[verb.verb]?.(value, verb);
      out += text === undefined ? complaint(value, verb) : padded(text, verb);
    }
    if (out.length > MAX_TEXT) return undefined;
  }
  if (used < values.length) {
    const extra = values.slice(used).map((value) => `${typeName(value)}=${plainText(value)}`);
    out += `%!(EXTRA ${extra.join(", ")})`;
  }
  return out.length > MAX_TEXT ? undefined : out;
};
