import { apiEndpoints, type ApiOperation } from "../contracts/api.ts";
import type { ApiEndpoint } from "../contracts/api-access.ts";
import { type Field, fieldsOfSchema } from "./fields.ts";
import type { Item } from "./show.ts";

/** The kinds of things that a zone's file lists, in the order in which they depend on each other. */
export const KIND_NAMES = ["issuers", "providers", "applications", "resources", "grants"] as const;
export type KindName = (typeof KIND_NAMES)[number];

type Operations = {
  readonly list: ApiOperation;
  readonly create: ApiOperation;
  readonly update: ApiOperation;
  readonly archive: ApiOperation;
};

/** A field of the file that names another thing where the API has its id. `prefix`: the name ends before the first `|`. */
export type Reference = { readonly to: KindName; readonly field: string; readonly prefix?: true };

export type Kind = {
  readonly one: string;
  readonly operations: Operations;
  /** What tells one from another in the file and in the zone. */
  readonly key: readonly string[];
  /** How others name it in the file. */
  readonly called: string;
  readonly references: Readonly<Record<string, Reference>>;
  readonly secrets: readonly string[];
  /** What a field is where the file leaves it out, if the contract does not say. */
  readonly absent?: (item: Item) => Item;
  /** Whether it is no file's: somebody else made it and keeps it. */
  readonly foreign?: (live: Item) => boolean;
};

const operations = (one: string, many: string): Operations =>
  ({ list: `list${many}`, create: `create${one}`, update: `update${one}`, archive: `archive${one}` }) as Operations;

export const KINDS: Readonly<Record<KindName, Kind>> = {
  issuers: {
    one: "issuer",
    operations: operations("Issuer", "Issuers"),
    key: ["issuer_url", "audience"],
    called: "name",
    references: {},
    secrets: [],
  },
  providers: {
    one: "provider",
    operations: operations("Provider", "Providers"),
    key: ["name"],
    called: "name",
    references: {},
    secrets: ["client_secret", "api_key"],
  },
  applications: {
    one: "application",
    operations: operations("Application", "Applications"),
    key: ["name"],
    called: "name",
    references: { workload_issuer: { to: "issuers", field: "workload_issuer_id" } },
    secrets: [],
    absent: ({ kind }) => ({ credential_types: kind === "public" ? [] : ["client_secret"] }),
    foreign: ({ registration_token_id }) => registration_token_id !== null, // a client that registered itself
  },
  resources: {
    one: "resource",
    operations: operations("Resource", "Resources"),
    key: ["identifier"],
    called: "identifier",
    references: {
      application: { to: "applications", field: "application_id" },
      provider: { to: "providers", field: "provider_id" },
    },
    secrets: [],
  },
  grants: {
    one: "grant",
    operations: operations("Grant", "Grants"),
    key: ["application", "subject", "resource"],
    called: "subject",
    references: {
      application: { to: "applications", field: "application_id" },
      resource: { to: "resources", field: "resource_id" },
      subject: { to: "issuers", field: "subject", prefix: true },
    },
    secrets: [],
  },
};

const fieldsOf = (operation: ApiOperation): readonly Field[] => {
  const { body }: ApiEndpoint = apiEndpoints[operation];
  return body === undefined ? [] : fieldsOfSchema(body);
};

/** The file's word for a field of the API. */
export const wordOf = (kind: Kind, field: string): string =>
  Object.keys(kind.references).find((word) => kind.references[word]?.field === field) ?? field;

export type Words = {
  /** Everything that the file may say of one, but secrets: the file's word → the contract's field. */
  readonly fields: ReadonlyMap<string, Field>;
  /** Those of them that can be changed. */
  readonly changeable: ReadonlySet<string>;
};

/** The words of each kind, from its contracts. */
export const wordsOf = (name: KindName): Words => {
  const kind = KINDS[name];
  const fields = fieldsOf(kind.operations.create).filter((field) => !kind.secrets.includes(field.name));
  return {
    fields: new Map(fields.map((field) => [wordOf(kind, field.name), field])),
    changeable: new Set(fieldsOf(kind.operations.update).map((field) => wordOf(kind, field.name))),
  };
};

/** The item with every field of its kind: what it leaves out is what the API would make of it. */
export const whole = (name: KindName, words: Words, item: Item): Item => {
  const { absent } = KINDS[name];
  const absents = Object.fromEntries([...words.fields].map(([word, field]) => [word, field.absent]));
  const given = Object.fromEntries(
    [...words.fields.keys()].map((word) => [word, item[word]]).filter(([, value]) => value !== undefined),
  );
  const all = { ...absents, ...absent?.({ ...absents, ...given }), ...given };
  return Object.fromEntries(Object.entries(all).filter(([, value]) => value !== undefined));
};

/** What tells one from another, as text. */
export const keyOf = (name: KindName, item: Item): string => JSON.stringify(KINDS[name].key.map((word) => item[word]));

/** For people: `resource resource://x`. */
export const labelOf = (name: KindName, item: Item): string =>
  `${KINDS[name].one} ${name === "grants" ? `${String(item["application"])} → ${String(item["resource"])} for ${String(item["subject"])}` : String(item[KINDS[name].called])}`;
