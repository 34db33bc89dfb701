import { InvalidArgumentError, Option } from "commander";
import type * as v from "valibot";
import { propertiesOf } from "../contracts/openapi.ts";
import { UsageFault } from "../kernel/problem.ts";
import { readText } from "./text-file.ts";

type Json = Readonly<Record<string, unknown>>;

/** A field of a contract as an option. `form`: how its value is written. */
export type Field = {
  readonly name: string;
  readonly flag: string;
  readonly form: "text" | "number" | "boolean" | "list" | "json" | "secret";
  readonly required: boolean;
  /** What `--unset` makes of it; undefined where it can't be unset. */
  readonly unset?: null | readonly never[];
  readonly choices?: readonly string[];
  readonly about: string;
  /** What it is where it is not given, as far as the contract says so. */
  readonly absent?: unknown;
  /** The one field of a list's entries: a value stands for an object with it. */
  readonly entry?: string;
};

/** What nobody else on the machine may read in the list of processes, nor the shell in its history. */
const SECRET = /(^|_)(secret|token|api_key)$/;
/** Whether a field holds a secret. */
export const isSecret = (name: string): boolean => SECRET.test(name);

const formOf = (name: string, schema: Json): Field["form"] => {
  if (isSecret(name)) return "secret";
  const type = schema["type"] ?? "string";
  if (type === "integer" || type === "number") return "number";
  if (type === "boolean") return "boolean";
  if (type === "object") return "json";
  if (type !== "array") return "text";
  const { items } = schema as { items?: Json };
  return items?.["type"] === "object" && entryOf(schema).entry === undefined ? "json" : "list";
};

const entryOf = (schema: Json): { readonly entry?: string } => {
  const { items } = schema as { items?: { type?: string; properties?: object; required?: readonly string[] } };
  const names = Object.keys(items?.properties ?? {});
  const [only] = names;
  return schema["type"] === "array" && items?.type === "object" && names.length === 1 && only !== undefined
    ? { entry: only }
    : {};
};

const fieldOf = (name: string, given: Json, required: boolean): Field => {
  const options = (given["anyOf"] ?? [given]) as readonly Json[];
  const schema = options.find(({ type }) => type !== "null") ?? given;
  const form = formOf(name, schema);
  const unset =
    options.length > 1
      ? { unset: null }
      : form === "list" && !((schema["minItems"] as number) > 0)
        ? { unset: [] as const }
        : {};
  const choices = (schema["enum"] ?? (schema["items"] as Json | undefined)?.["enum"]) as readonly string[] | undefined;
  const absent = Object.hasOwn(given, "default") ? given["default"] : form === "boolean" ? false : unset.unset;
  const about = [schema["description"], choices === undefined ? undefined : choices.join(", ")];
  return {
    name,
    flag: name.replaceAll("_", "-"),
    form,
    required,
    ...unset,
    ...(absent === undefined ? {} : { absent }),
    ...(choices === undefined ? {} : { choices }),
    ...entryOf(schema),
    about: about.filter((part) => part !== undefined).join("; "),
  };
};

/** The fields of a contract's query or body. */
export const fieldsOfSchema = (schema: v.GenericSchema<unknown, object>): readonly Field[] => {
  const { properties, required } = propertiesOf(schema);
  return Object.entries(properties).map(([name, one]) => fieldOf(name, one as Json, required.includes(name)));
};

/** A file's text, or standard input's for `-`; throws the fault that names it. */
const givenText = (file: string): string => {
  try {
    return readText(file);
  } catch (cause) {
    const why = cause instanceof Error && "code" in cause ? String(cause.code) : "unreadable";
    throw new UsageFault(`${file === "-" ? "standard input" : file} can't be read (${why})`);
  }
};

/** `@file` → what the file holds, `@-` → standard input, `@@text` → `@text`. */
const textOf = (value: string): string => {
  if (value.startsWith("@@")) return value.slice(1);
  return value.startsWith("@") ? givenText(value.slice(1)) : value;
};

const jsonOf = (value: string): unknown => {
  try {
    return JSON.parse(textOf(value));
  } catch (cause) {
    if (!(cause instanceof SyntaxError)) throw cause;
    throw new InvalidArgumentError("It is no JSON.");
  }
};

const PARSERS: Readonly<Record<Field["form"], (field: Field, value: string, before: unknown) => unknown>> = {
  text: (_field, value) => textOf(value),
  number: (_field, value) => {
    if (!/^-?\d{1,15}$/.test(value)) throw new InvalidArgumentError("It is no whole number.");
    return Number(value);
  },
  boolean: (_field, value) => {
    if (value !== "true" && value !== "false") throw new InvalidArgumentError("It is neither true nor false.");
    return value === "true";
  },
  list: ({ entry }, value, before) => [
    ...(Array.isArray(before) ? (before as readonly unknown[]) : []),
    entry === undefined ? textOf(value) : { [entry]: textOf(value) },
  ],
  json: (_field, value) => jsonOf(value),
  secret: (_field, value) => {
    if (value !== "-" && !value.startsWith("@"))
      throw new InvalidArgumentError(
        "A secret is no argument, which others can see: give @FILE, or - for standard input.",
      );
    return givenText(value === "-" ? "-" : value.slice(1)).replace(/\r?\n$/, "");
  },
};

const VALUES: Readonly<Record<Field["form"], string>> = {
  text: " <text>",
  number: " <n>",
  boolean: " [true|false]",
  list: " <text>",
  json: " <json|@file>",
  secret: " <@file|->",
};

/** The option of a field. */
export const optionOf = (field: Field): Option => {
  const words = [field.about, field.form === "list" ? "repeat it for several" : "", field.required ? "required" : ""];
  const option = new Option(`--${field.flag}${VALUES[field.form]}`, words.filter((word) => word !== "").join("; "));
  option.argParser((value: string, before: unknown) => {
    const parsed = PARSERS[field.form](field, value, before);
    const said = Array.isArray(parsed) ? parsed.at(-1) : parsed;
    if (field.choices !== undefined && !field.choices.includes(String(said)))
      throw new InvalidArgumentError(`Allowed choices are ${field.choices.join(", ")}.`);
    return parsed;
  });
  if (field.form === "boolean") option.preset("true");
  return option.makeOptionMandatory(field.required);
};
