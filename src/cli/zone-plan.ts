import { isDeepStrictEqual } from "node:util";
import { CommandFault, EXIT } from "./exit-codes.ts";
import type { Item } from "./show.ts";
import type { WantedPolicy, ZoneFile } from "./zone-file.ts";
import { KIND_NAMES, type KindName, labelOf } from "./zone-kinds.ts";
import type { ZoneState } from "./zone-state.ts";

/** What one change shows: a sign, the thing, and its fields before and after. Never a secret's value. */
export type Shown = { readonly sign: "+" | "~" | "-"; readonly label: string; readonly fields: readonly string[] };

/** One change, in the order in which they are made. */
export type Change = Shown &
  (
    | { readonly does: "create"; readonly kind: KindName; readonly key: string; readonly set: Item }
    | { readonly does: "edit"; readonly kind: KindName; readonly key: string; readonly set: Item }
    | { readonly does: "archive"; readonly kind: KindName; readonly key: string }
    | { readonly does: "policy"; readonly name: string; readonly wanted: WantedPolicy }
    | { readonly does: "activate"; readonly name: string; readonly policies: readonly string[] }
    | { readonly does: "archive_policy"; readonly name: string }
    | { readonly does: "archive_set"; readonly name: string }
  );

export type Plan = {
  readonly changes: readonly Change[];
  /** What is in the zone and not in the file, and stays. */
  readonly kept: readonly string[];
};

const text = (value: unknown): string => JSON.stringify(value) ?? "-";
/** The database keeps the members of an object in an order of its own. */
const same = (a: unknown, b: unknown): boolean => isDeepStrictEqual(a ?? null, b ?? null);

const requireFixed = (state: ZoneState, name: KindName, before: Item, after: Item): void => {
  for (const word of state.words[name].fields.keys()) {
    if (state.words[name].changeable.has(word) || same(before[word], after[word])) continue;
    throw new CommandFault(
      EXIT.conflict,
      `${labelOf(name, after)}: ${word} is ${text(before[word])} and can't be changed; archive it first, or name another`,
    );
  }
};

const changesOfKind = (file: ZoneFile, state: ZoneState, name: KindName): readonly Change[] =>
  [...file.things[name]].flatMap(([key, { item, secrets }]): readonly Change[] => {
    const live = state.things[name].get(key);
    const label = labelOf(name, item);
    const brought = Object.entries(secrets);
    const secretFields = brought.map(([field, { from }]) => `${field}: (secret of ${from})`);
    if (live === undefined) {
      const fields = Object.entries(item).filter(([, value]) => value !== null && !same(value, []) && value !== false);
      return [
        {
          does: "create",
          sign: "+",
          kind: name,
          key,
          label,
          set: item,
          fields: [...fields.map(([word, value]) => `${word}: ${text(value)}`), ...secretFields],
        },
      ];
    }
    requireFixed(state, name, live.item, item);
    const changed = Object.keys(item).filter((word) => !same(live.item[word], item[word]));
    const missing = brought.filter(([field]) => !live.secrets.includes(field));
    if (changed.length === 0 && missing.length === 0) return [];
    return [
      {
        does: "edit",
        sign: "~",
        kind: name,
        key,
        label,
        set: Object.fromEntries(changed.map((word) => [word, item[word]])),
        fields: [
          ...changed.map((word) => `${word}: ${text(live.item[word])} → ${text(item[word])}`),
          // What moves loses its secrets, so they are always brought along.
          ...secretFields,
        ],
      },
    ];
  });

/** The newest version with that very source; a former one is taken again instead of being made anew. */
export const versionOf = (state: ZoneState, name: string, { source_sha256 }: WantedPolicy): string | undefined =>
  state.policies.get(name)?.versions.findLast((version) => version.source_sha256 === source_sha256)?.id;

const policyChanges = (file: ZoneFile, state: ZoneState): readonly Change[] => {
  const made = [...file.policies].flatMap(([name, wanted]): readonly Change[] => {
    if (versionOf(state, name, wanted) !== undefined) return [];
    const live = state.policies.get(name);
    const fields = [`source: ${wanted.source_sha256.slice(0, 12)}, ${wanted.source.split("\n").length} lines`];
    return [{ does: "policy", sign: live === undefined ? "+" : "~", label: `policy ${name}`, fields, name, wanted }];
  });
  if (file.set === undefined) return made;
  const { name, policies } = file.set;
  const wanted = policies.map((policy) => versionOf(state, policy, file.policies.get(policy) as WantedPolicy));
  const { active } = state;
  const is_active =
    active?.name === name &&
    same(
      active.members.map(({ version_id }) => version_id),
      wanted.map((id) => id ?? null),
    );
  if (is_active) return made;
  const before =
    active === undefined ? "none" : `${active.name}: ${active.members.map(({ policy }) => policy).join(", ")}`;
  const fields = [`active: ${before} → ${name}: ${policies.join(", ")}`];
  return [
    ...made,
    { does: "activate", sign: state.sets.has(name) ? "~" : "+", label: `policy set ${name}`, fields, name, policies },
  ];
};

const labelled = (sign: Shown["sign"], label: string): Shown => ({ sign, label, fields: [] });

/** What is in the zone and not in the file, last first, so that nothing is archived before what depends on it. */
const leftOvers = (file: ZoneFile, state: ZoneState): readonly Change[] => {
  const active = file.set?.name ?? state.active?.name;
  const activePolicies = new Set(file.set === undefined ? state.active?.members.map(({ policy }) => policy) : []);
  return [
    ...[...state.sets.keys()]
      .filter((name) => name !== active)
      .map((name): Change => ({ ...labelled("-", `policy set ${name}`), does: "archive_set", name })),
    ...[...state.policies.keys()]
      .filter((name) => !file.policies.has(name) && !activePolicies.has(name))
      .map((name): Change => ({ ...labelled("-", `policy ${name}`), does: "archive_policy", name })),
    ...KIND_NAMES.toReversed().flatMap((kind) =>
      [...state.things[kind]]
        .filter(([key]) => !file.things[kind].has(key))
        .map(([key, { item }]): Change => ({ ...labelled("-", labelOf(kind, item)), does: "archive", kind, key })),
    ),
  ];
};

/** The changes that make the zone what the file says, in the order of dependence; with `prune`, of the whole zone. */
export const planOf = (file: ZoneFile, state: ZoneState, prune: boolean): Plan => {
  const left_over = leftOvers(file, state);
  return {
    changes: [
      ...KIND_NAMES.flatMap((name) => changesOfKind(file, state, name)),
      ...policyChanges(file, state),
      ...(prune ? left_over : []),
    ],
    kept: prune ? [] : left_over.map(({ label }) => label),
  };
};
