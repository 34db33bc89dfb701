import {
  type Activation,
  type Named,
  NO_ACTIVATION,
  type PolicySetVersion,
  type PolicyVersionSummary,
} from "../contracts/api-policies.ts";
import type { Zone } from "../contracts/api-zones.ts";
import type { ApiClient } from "./api-client.ts";
import { CommandFault, EXIT } from "./exit-codes.ts";
import type { Item } from "./show.ts";
import { KIND_NAMES, KINDS, type KindName, keyOf, labelOf, whole, type Words, wordsOf } from "./zone-kinds.ts";

/** A living thing of the zone. `item`: in the file's words, with every field. */
export type Live = {
  readonly id: string;
  readonly revision: number;
  readonly item: Item;
  readonly secrets: readonly string[];
};

export type LivePolicy = {
  readonly id: string;
  readonly revision: number;
  readonly versions: readonly PolicyVersionSummary[];
};

/** The active set: its members by policy and version, in order. */
export type ActiveSet = {
  readonly id: string;
  readonly name: string;
  readonly members: readonly { readonly policy: string; readonly version_id: string }[];
};

export type ZoneState = {
  /** undefined: it is not there yet. */
  readonly zone: Zone | undefined;
  readonly words: Readonly<Record<KindName, Words>>;
  readonly things: Readonly<Record<KindName, ReadonlyMap<string, Live>>>;
  readonly policies: ReadonlyMap<string, LivePolicy>;
  readonly sets: ReadonlyMap<string, { readonly id: string; readonly revision: number }>;
  readonly active: ActiveSet | undefined;
  /** What decides in the zone, as its ETag. */
  readonly activation: string;
};

/** ids → names, as far as they are known. */
export type Names = Readonly<Record<KindName, Map<string, string>>>;

/** An API's value in the file's word: a name for an id. */
const named = (names: Names, name: KindName, word: string, value: unknown): unknown => {
  const reference = KINDS[name].references[word];
  if (reference === undefined || typeof value !== "string") return value;
  const [id = "", ...rest] = reference.prefix === true ? value.split("|") : [value];
  const called = names[reference.to].get(id) ?? id;
  return reference.prefix === true ? [called, ...rest].join("|") : called;
};

/** What refers to a client that registered itself is as little a file's as the client. */
const isForeign = (names: Names, name: KindName, live: Item): boolean =>
  KINDS[name].foreign?.(live) === true ||
  Object.values(KINDS[name].references).some(({ to, field, prefix }) => {
    const id = live[field];
    return prefix !== true && typeof id === "string" && !names[to].has(id);
  });

const thingsOf = async (
  client: ApiClient,
  zone: Zone | undefined,
  words: ZoneState["words"],
): Promise<ZoneState["things"]> => {
  const names = Object.fromEntries(KIND_NAMES.map((name) => [name, new Map()])) as unknown as Names;
  const things = Object.fromEntries(KIND_NAMES.map((name) => [name, new Map()])) as unknown as Record<
    KindName,
    Map<string, Live>
  >;
  if (zone === undefined) return things;
  for (const name of KIND_NAMES) {
    const { operations, called, one } = KINDS[name];
    for (const live of await client.all(operations.list, { params: { zone_id: zone.id } })) {
      if (isForeign(names, name, live)) continue;
      const id = String(live["id"]);
      names[name].set(id, String(live[called]));
      const said = Object.fromEntries(
        [...words[name].fields].map(([word, field]) => [word, named(names, name, word, live[field.name])]),
      );
      const item = whole(name, words[name], said);
      const key = keyOf(name, item);
      if (things[name].has(key))
        throw new CommandFault(
          EXIT.conflict,
          `two have the name of ${labelOf(name, item)}; a file can't tell them apart: rename one (caracal ${one === "application" ? "app" : one} edit)`,
        );
      const secrets = (live["secret_config_keys"] ?? []) as readonly string[];
      things[name].set(key, { id, revision: Number(live["revision"]), item, secrets });
    }
  }
  return things;
};

/** The zone as it is, in the file's words. Sources of policies are not read: a version is known by its hash. */
export const observeZone = async (client: ApiClient, zone: Zone | undefined): Promise<ZoneState> => {
  const words = Object.fromEntries(KIND_NAMES.map((name) => [name, wordsOf(name)])) as unknown as ZoneState["words"];
  const things = await thingsOf(client, zone, words);
  const policies = new Map<string, LivePolicy>();
  const sets = new Map<string, { id: string; revision: number }>();
  if (zone === undefined) return { zone, words, things, policies, sets, active: undefined, activation: NO_ACTIVATION };
  const params = { zone_id: zone.id };
  for (const { id, name, revision } of (await client.all("listPolicies", { params })) as unknown as readonly Named[]) {
    const versions = (await client.all("listPolicyVersions", {
      params: { ...params, id },
    })) as unknown as readonly PolicyVersionSummary[];
    policies.set(name, { id, revision, versions });
  }
  let active: ActiveSet | undefined;
  let activation = NO_ACTIVATION;
  for (const { id, name, revision } of (await client.all("listPolicySets", {
    params,
  })) as unknown as readonly Named[]) {
    sets.set(name, { id, revision });
    if (active !== undefined) continue;
    const state = await client.call("getActivation", { params: { ...params, id } });
    activation = state.revision;
    if (state.active === null) continue;
    active = { id, name, members: await membersOf(client, state.active, policies) };
  }
  return { zone, words, things, policies, sets, active, activation };
};

const membersOf = async (
  client: ApiClient,
  { zone_id, policy_set_id, version_id }: Activation,
  policies: ZoneState["policies"],
): Promise<ActiveSet["members"]> => {
  const version: PolicySetVersion = await client.call("getPolicySetVersion", {
    params: { zone_id, id: policy_set_id, version_id },
  });
  return version.entries.map(({ policy_version_id }) => {
    const [policy = ""] =
      [...policies].find(([, { versions }]) => versions.some(({ id }) => id === policy_version_id)) ?? [];
    return { policy, version_id: policy_version_id };
  });
};
