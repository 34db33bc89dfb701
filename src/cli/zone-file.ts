import { createHash } from "node:crypto";
import { dirname, relative, resolve } from "node:path";
import * as v from "valibot";
import { type Document, isMap, isNode, isSeq, LineCounter, parseDocument } from "yaml";
import { apiEndpoints } from "../contracts/api.ts";
import type { ApiEndpoint } from "../contracts/api-access.ts";
import { NameSchema } from "../contracts/api-fields.ts";
import { NewZoneSchema } from "../contracts/api-zones.ts";
import { isObject } from "../contracts/members.ts";
import type { Env } from "../config/index.ts";
import { messageOf } from "../http/contract-routes.ts";
import { UsageFault } from "../kernel/problem.ts";
import { CommandFault, EXIT } from "./exit-codes.ts";
import { clean, type Item } from "./show.ts";
import { readText } from "./text-file.ts";
import { KIND_NAMES, KINDS, type KindName, keyOf, whole, wordOf, type Words, wordsOf } from "./zone-kinds.ts";

/** What a thing brings, and where from, for who agrees to it: the file may name secrets that are no business of the zone's. */
export type Brought = { readonly value: string; readonly from: string };
/** A thing as the file wants it. `item`: with every field; `secrets`: what it brings, by field. */
export type Wanted = { readonly item: Item; readonly secrets: Readonly<Record<string, Brought>> };
export type WantedPolicy = { readonly source: string; readonly source_sha256: string };

export type ZoneFile = {
  readonly zone: { readonly slug: string; readonly name: string } | undefined;
  readonly things: Readonly<Record<KindName, ReadonlyMap<string, Wanted>>>;
  readonly policies: ReadonlyMap<string, WantedPolicy>;
  readonly set: { readonly name: string; readonly policies: readonly string[] } | undefined;
};

type Path = readonly (string | number)[];
/** Notes what is wrong at a place of the file. */
type Fault = (path: Path, message: string) => void;

const ID = "00000000-0000-7000-8000-000000000000";
const MAX_FAULTS = 50;

const whyOf = (cause: unknown): string =>
  cause instanceof Error && "code" in cause ? String(cause.code) : "unreadable";

/** The line of a place; of what holds it where it is not there itself. */
const lineAt = (doc: Document, lines: LineCounter, path: Path): number => {
  for (let length = path.length; length > 0; length -= 1) {
    const holder: unknown = doc.getIn(path.slice(0, length - 1), true);
    const last = path[length - 1];
    const pair = isMap(holder)
      ? holder.items.find(({ key }) => isNode(key) && String(key) === String(last))
      : undefined;
    const node: unknown = pair?.key ?? (isSeq(holder) ? holder.items[Number(last)] : undefined);
    if (isNode(node) && node.range) return lines.linePos(node.range[0]).line;
  }
  return 1;
};

const listIn = (all: Item, name: string, fault: Fault): readonly Item[] => {
  const list = all[name] ?? [];
  if (!Array.isArray(list)) {
    fault([name], "must be a list");
    return [];
  }
  return list.map((one, at) => {
    if (isObject(one)) return one;
    fault([name, at], "must have fields");
    return {};
  });
};

/** A secret is not written into the file: it says where it is. */
const secretOf = (env: Env, folder: string, given: unknown, refuse: (message: string) => void): Brought | undefined => {
  const { file, env: variable } = isObject(given) ? given : {};
  if (typeof file === "string") {
    const path = resolve(folder, file);
    try {
      return { value: readText(path).replace(/\r?\n$/, ""), from: `the file ${path}` };
    } catch (cause) {
      refuse(`names a file that can't be read (${whyOf(cause)})`);
      return undefined;
    }
  }
  if (typeof variable === "string") {
    const value = env[variable];
    if (value !== undefined && value !== "") return { value, from: `the variable ${variable}` };
    refuse(`names the variable ${clean(variable.slice(0, 80))}, which is not set`);
    return undefined;
  }
  refuse("must say where the secret is: {file: …} or {env: …}; it is not written here");
  return undefined;
};

/** As the API takes them. */
export const valuesOf = (secrets: Wanted["secrets"]): Readonly<Record<string, string>> =>
  Object.fromEntries(Object.entries(secrets).map(([field, { value }]) => [field, value]));

/** The item as the API takes it, with ids that stand for names, so that the contract can judge it. */
const judgedBody = (name: KindName, item: Item, secrets: Wanted["secrets"]): Item => {
  const kind = KINDS[name];
  const fields = Object.entries(item).filter(([word]) => !kind.secrets.includes(word));
  const body = fields.map(([word, value]) => {
    const reference = kind.references[word];
    return [
      reference?.field ?? word,
      reference === undefined || reference.prefix === true || typeof value !== "string" ? value : ID,
    ];
  });
  return { ...Object.fromEntries(body), ...valuesOf(secrets) };
};

type Reader = { readonly env: Env; readonly folder: string; readonly fault: Fault };

const wantedOf = (reader: Reader, name: KindName, words: Words, item: Item, at: number): Wanted => {
  const kind = KINDS[name];
  const secrets: Record<string, Brought> = {};
  for (const field of kind.secrets.filter((one) => item[one] !== undefined)) {
    const found = secretOf(reader.env, reader.folder, item[field], (message) =>
      reader.fault([name, at, field], message),
    );
    if (found !== undefined) secrets[field] = found;
  }
  for (const { field } of Object.values(kind.references)) {
    // The file names things; an id is of one zone, and the file may be applied to another.
    if (!words.fields.has(field) && item[field] !== undefined)
      reader.fault([name, at, field], `is an id; write ${wordOf(kind, field)} with the name`);
  }
  const { body }: ApiEndpoint = apiEndpoints[kind.operations.create];
  const parsed = v.safeParse(body as v.GenericSchema<unknown, Item>, judgedBody(name, item, secrets));
  if (!parsed.success) {
    for (const issue of parsed.issues) {
      const [field, ...rest] = (issue.path ?? []).map(({ key }) => key as string | number);
      const path = field === undefined ? [] : [wordOf(kind, String(field)), ...rest];
      reader.fault([name, at, ...path], messageOf(issue));
    }
    return { item: whole(name, words, item), secrets };
  }
  // As the API would keep it: a URL in its normal form.
  const kept = [...words.fields].map(([word, field]) => [
    word,
    kind.references[word] === undefined ? parsed.output[field.name] : item[word],
  ]);
  return { item: whole(name, words, Object.fromEntries(kept) as Item), secrets };
};

const requireReferences = (
  things: Readonly<Record<KindName, ReadonlyMap<string, Wanted>>>,
  name: KindName,
  { item }: Wanted,
  at: number,
  fault: Fault,
): void => {
  for (const [word, { to, prefix }] of Object.entries(KINDS[name].references)) {
    const value = item[word];
    if (typeof value !== "string") continue;
    const called = prefix === true ? value.split("|", 1)[0] : value;
    const found = [...things[to].values()].filter((one) => one.item[KINDS[to].called] === called).length;
    if (found > 1) fault([name, at, word], `is the name of ${found} ${to} of this file`);
    // A subject may be none of an issuer of ours; it is taken as it is written.
    if (found === 0 && prefix !== true) fault([name, at, word], `names none of this file's ${to}`);
  }
};

const policiesOf = ({ folder, fault }: Reader, all: Item): Map<string, WantedPolicy> => {
  const policies = new Map<string, WantedPolicy>();
  const schema = v.strictObject({ name: NameSchema, file: v.string() });
  for (const [at, one] of listIn(all, "policies", fault).entries()) {
    const parsed = v.safeParse(schema, one);
    if (!parsed.success) {
      for (const issue of parsed.issues) fault(["policies", at, v.getDotPath(issue) ?? ""], messageOf(issue));
      continue;
    }
    const { name, file } = parsed.output;
    if (policies.has(name)) fault(["policies", at, "name"], "is in this file twice");
    try {
      const source = readText(resolve(folder, file));
      const judged = v.safeParse(apiEndpoints.createPolicyVersion.body, { source });
      if (!judged.success) fault(["policies", at, "file"], `holds a source that ${messageOf(judged.issues[0])}`);
      policies.set(name, { source, source_sha256: createHash("sha256").update(source).digest("hex") });
    } catch (cause) {
      fault(["policies", at, "file"], `can't be read (${whyOf(cause)})`);
    }
  }
  return policies;
};

const SetSchema = v.strictObject({
  name: NameSchema,
  policies: v.pipe(v.array(v.string()), v.minLength(1, "must have at least 1 entry")),
});

const setOf = ({ fault }: Reader, all: Item, policies: ReadonlyMap<string, WantedPolicy>): ZoneFile["set"] => {
  if (all["policy_set"] === undefined) return undefined;
  const parsed = v.safeParse(SetSchema, all["policy_set"]);
  if (!parsed.success) {
    for (const issue of parsed.issues) fault(["policy_set", v.getDotPath(issue) ?? ""], messageOf(issue));
    return undefined;
  }
  for (const [at, name] of parsed.output.policies.entries()) {
    if (!policies.has(name)) fault(["policy_set", "policies", at], "names none of this file's policies");
    if (parsed.output.policies.indexOf(name) !== at) fault(["policy_set", "policies", at], "is in this list twice");
  }
  return parsed.output;
};

const KNOWN: readonly string[] = ["zone", ...KIND_NAMES, "policies", "policy_set"];

/** What a zone's file wants. Throws with every fault, each with file, line and field. Secrets are read from where it says. */
export const readZoneFile = (env: Env, file: string): ZoneFile => {
  const shown = relative(process.cwd(), resolve(file));
  const text = (() => {
    try {
      return readText(file);
    } catch (cause) {
      throw new UsageFault(`--file: ${file} can't be read (${whyOf(cause)})`);
    }
  })();
  const lines = new LineCounter();
  const doc = parseDocument(text, { lineCounter: lines, prettyErrors: false });
  const faults: { readonly line: number; readonly text: string }[] = [];
  const at = (line: number, message: string): void => {
    faults.push({ line, text: `${shown}:${line}: ${clean(message)}` });
  };
  const refuse = (): never => {
    const texts = faults
      .toSorted((a, b) => a.line - b.line)
      .slice(0, MAX_FAULTS)
      .map((one) => one.text);
    throw new CommandFault(EXIT.refused, ...texts);
  };
  for (const error of doc.errors) at(lines.linePos(error.pos[0]).line, error.message);
  if (faults.length > 0) refuse();
  const all: unknown = (() => {
    try {
      return doc.toJS() ?? {};
    } catch {
      return undefined; // aliases of aliases, without end
    }
  })();
  if (!isObject(all)) {
    at(1, "must have fields, and no aliases that grow");
    return refuse();
  }
  const fault: Fault = (path, message) =>
    at(lineAt(doc, lines, path), `${path.filter((part) => part !== "").join(".")}: ${message}`);
  const reader: Reader = { env, folder: dirname(resolve(file)), fault };
  for (const name of Object.keys(all)) if (!KNOWN.includes(name)) fault([name], `is none of ${KNOWN.join(", ")}`);
  const zone = all["zone"] === undefined ? undefined : v.safeParse(NewZoneSchema, all["zone"]);
  for (const issue of zone?.issues ?? []) fault(["zone", v.getDotPath(issue) ?? ""], messageOf(issue));
  const things = Object.fromEntries(KIND_NAMES.map((name) => [name, new Map()])) as unknown as Record<
    KindName,
    Map<string, Wanted>
  >;
  for (const name of KIND_NAMES) {
    const words = wordsOf(name);
    const wanted = listIn(all, name, fault).map((item, index) => wantedOf(reader, name, words, item, index));
    for (const [index, one] of wanted.entries()) {
      const key = keyOf(name, one.item);
      if (things[name].has(key)) fault([name, index], `is in this file twice (${KINDS[name].key.join(", ")})`);
      things[name].set(key, one);
      requireReferences(things, name, one, index, fault);
    }
  }
  const policies = policiesOf(reader, all);
  const set = setOf(reader, all, policies);
  if (faults.length > 0) refuse();
  return { zone: zone?.success === true ? zone.output : undefined, things, policies, set };
};
