import { createInterface } from "node:readline/promises";
import { Command } from "commander";
import type { Zone } from "../contracts/api-zones.ts";
import { UsageFault } from "../kernel/problem.ts";
import { type ApiClient, type ConnectionOptions, createApiClient, zoneOf } from "./api-client.ts";
import { CommandFault, EXIT } from "./exit-codes.ts";
import type { CliContext } from "./context.ts";
import { withConnection } from "./noun-command.ts";
import { openSecretsFile, type SecretsFile } from "./secrets-file.ts";
import { clean, type Item } from "./show.ts";
import { readZoneFile, valuesOf, type WantedPolicy, type ZoneFile } from "./zone-file.ts";
import { KIND_NAMES, KINDS, type KindName, keyOf } from "./zone-kinds.ts";
import { type Change, planOf, type Plan, type Shown, versionOf } from "./zone-plan.ts";
import { observeZone, type ZoneState } from "./zone-state.ts";

type Options = ConnectionOptions & {
  readonly file: string;
  readonly zone?: string;
  readonly yes?: boolean;
  readonly dryRun?: boolean;
  readonly prune?: boolean;
  readonly secretsOut?: string;
};

/** What the changes are made with. `ids`: of each kind by the name that the file has for it; it grows while they are made. */
type Making = {
  readonly context: CliContext;
  readonly client: ApiClient;
  readonly file: ZoneFile;
  readonly zone_id: string;
  readonly state: ZoneState;
  readonly ids: Readonly<Record<KindName, Map<string, string>>>;
  readonly versions: Map<string, string>;
  readonly secrets: SecretsFile | undefined;
};

/** The API's fields: ids for the names that the file has. */
const bodyOf = ({ ids, file }: Making, name: KindName, key: string, set: Item): Item => {
  const { references } = KINDS[name];
  const fields = Object.entries(set).map(([word, value]) => {
    const reference = references[word];
    if (reference === undefined || typeof value !== "string") return [reference?.field ?? word, value];
    const [called = "", ...rest] = reference.prefix === true ? value.split("|") : [value];
    return [reference.field, [ids[reference.to].get(called) ?? called, ...rest].join("|")];
  });
  return { ...Object.fromEntries(fields), ...valuesOf(file.things[name].get(key)?.secrets ?? {}) };
};

const keepSecret = ({ context, secrets }: Making, name: string, client_id: string, client_secret: string): void => {
  if (secrets === undefined)
    context.out(`application ${clean(name)}: client_id ${client_id} client_secret ${client_secret} (shown this once)`);
  else secrets.keep(name, { client_id, client_secret });
};

const create = async (making: Making, name: KindName, key: string, set: Item): Promise<void> => {
  const { client, zone_id, ids, secrets } = making;
  const { operations, called } = KINDS[name];
  const named = String(set[called]);
  const body = bodyOf(making, name, key, set);
  if (name === "applications" && (set["credential_types"] as readonly string[]).includes("client_secret"))
    secrets?.expect(named);
  const made: Item = (await client.call(operations.create, { params: { zone_id }, body })) ?? {};
  ids[name].set(named, String(made["id"]));
  if (typeof made["client_secret"] === "string") keepSecret(making, named, String(made["id"]), made["client_secret"]);
};

const writePolicy = async (
  { client, zone_id, state, versions }: Making,
  name: string,
  { source }: WantedPolicy,
): Promise<void> => {
  const params = { zone_id };
  const id = state.policies.get(name)?.id ?? (await client.call("createPolicy", { params, body: { name } })).id;
  versions.set(name, (await client.call("createPolicyVersion", { params: { ...params, id }, body: { source } })).id);
};

const activate = async (making: Making, name: string, policies: readonly string[]): Promise<void> => {
  const { client, zone_id, state, versions, file } = making;
  const params = { zone_id };
  const id = state.sets.get(name)?.id ?? (await client.call("createPolicySet", { params, body: { name } })).id;
  const entries = policies.map((policy) => ({
    policy_version_id: versions.get(policy) ?? versionOf(state, policy, file.policies.get(policy) as WantedPolicy),
  }));
  // A version that was made by a run that was interrupted before it was active is taken up.
  const made = (await client.all("listPolicySetVersions", { params: { ...params, id } })).findLast(
    (version) => JSON.stringify(version["entries"]) === JSON.stringify(entries),
  );
  const version_id =
    made === undefined
      ? (await client.call("createPolicySetVersion", { params: { ...params, id }, body: { entries } })).id
      : String(made["id"]);
  const if_match = state.activation; // what decides must be what was seen
  await client.call("activatePolicySet", { params: { ...params, id }, if_match, body: { version_id } });
};

/** What is edited or archived must be as it was seen: who changed it meanwhile is not overwritten. */
const seen = ({ zone_id }: Making, found: { readonly id: string; readonly revision: number } | undefined) => ({
  params: { zone_id, id: found?.id ?? "" },
  if_match: found?.revision,
});

type Maker<D extends Change["does"]> = (
  making: Making,
  change: Extract<Change, { readonly does: D }>,
) => Promise<unknown>;

/** How each change is made. */
const MAKERS: { readonly [D in Change["does"]]: Maker<D> } = {
  create: (making, { kind, key, set }) => create(making, kind, key, set),
  edit: (making, { kind, key, set }) =>
    making.client.call(KINDS[kind].operations.update, {
      ...seen(making, making.state.things[kind].get(key)),
      body: bodyOf(making, kind, key, set),
    }),
  archive: (making, { kind, key }) =>
    making.client.call(KINDS[kind].operations.archive, seen(making, making.state.things[kind].get(key))),
  policy: (making, { name, wanted }) => writePolicy(making, name, wanted),
  activate: (making, { name, policies }) => activate(making, name, policies),
  archive_policy: (making, { name }) =>
    making.client.call("archivePolicy", seen(making, making.state.policies.get(name))),
  archive_set: (making, { name }) => making.client.call("archivePolicySet", seen(making, making.state.sets.get(name))),
};

/** A client whose secret was lost with a former run gets another one. */
const replaceLost = async (making: Making, lost: readonly string[]): Promise<void> => {
  const { client, zone_id, ids } = making;
  for (const name of lost) {
    const id = ids.applications.get(name) ?? "";
    const { client_secret } = await client.call("replaceSecret", { params: { zone_id, id } });
    keepSecret(making, name, id, client_secret);
  }
};

const show = (context: CliContext, { sign, label, fields }: Shown): void => {
  context.out(clean(`${sign} ${label}`));
  for (const field of fields) context.out(clean(`    ${field}`));
};

/** Asks on the terminal; where there is none, nothing is done without --yes. */
const confirmed = async (changes: number): Promise<boolean> => {
  if (!process.stdin.isTTY)
    throw new UsageFault("--yes: is missing, and there is no terminal to ask on; nothing was changed");
  const terminal = createInterface({ input: process.stdin, output: process.stderr });
  const answer = await terminal.question(`Make these ${changes} changes? (yes/no) `);
  terminal.close();
  return answer.trim() === "yes";
};

/** The zone that the file is for: the one of --zone, else that of the file's slug, which may not be there yet. */
const findZone = async (client: ApiClient, options: Options, file: ZoneFile): Promise<Zone | undefined> => {
  if (options.zone !== undefined || file.zone === undefined) {
    return client.call("getZone", { params: { zone_id: await zoneOf(client, options.zone) } });
  }
  const [found] = await client.all("listZones", { query: { slug: file.zone.slug } });
  return found as Zone | undefined;
};

const zoneChange = (options: Options, file: ZoneFile, zone: Zone | undefined): Shown | undefined => {
  if (file.zone === undefined || options.zone !== undefined) return undefined;
  const { slug, name } = file.zone;
  if (zone === undefined) return { sign: "+", label: `zone ${slug}`, fields: [`name: ${JSON.stringify(name)}`] };
  if (zone.name === name) return undefined;
  return { sign: "~", label: `zone ${slug}`, fields: [`name: ${JSON.stringify(zone.name)} → ${JSON.stringify(name)}`] };
};

const changeZone = async (client: ApiClient, file: ZoneFile, zone: Zone | undefined): Promise<Zone> => {
  const { slug = "", name = "" } = file.zone ?? {};
  if (zone === undefined) return client.call("createZone", { body: { slug, name } });
  return client.call("updateZone", { params: { zone_id: zone.id }, body: { name }, if_match: zone.revision });
};

const applyFile = async (context: CliContext, options: Options): Promise<void> => {
  const file = readZoneFile(context.env, options.file);
  const client = createApiClient(context.env, options);
  const secrets = options.secretsOut === undefined ? undefined : openSecretsFile(options.secretsOut);
  const zone = await findZone(client, options, file);
  const of_zone = zoneChange(options, file, zone);
  const state = await observeZone(client, zone);
  const plan: Plan = planOf(file, state, options.prune === true);
  const lost = (secrets?.pending ?? []).filter((name) => {
    const key = keyOf("applications", { name });
    return file.things.applications.has(key) && state.things.applications.has(key);
  });
  if (of_zone !== undefined) show(context, of_zone);
  for (const change of plan.changes) show(context, change);
  for (const name of lost) {
    show(context, {
      sign: "~",
      label: `application ${name}`,
      fields: ["client_secret: (replaced: a former run ended before it was kept)"],
    });
  }
  for (const label of plan.kept) context.out(clean(`  ${label} is not in the file and stays; --prune archives it`));
  const count = plan.changes.length + lost.length + (of_zone === undefined ? 0 : 1);
  if (count === 0) {
    context.out("Nothing to do.");
    return;
  }
  if (options.dryRun === true) {
    context.out(`${count} changes; none was made.`);
    return;
  }
  if (options.yes !== true && !(await confirmed(count))) throw new CommandFault(EXIT.refused, "nothing was changed");
  const { id: zone_id } = of_zone === undefined && zone !== undefined ? zone : await changeZone(client, file, zone);
  const ids = Object.fromEntries(
    KIND_NAMES.map((name) => [
      name,
      new Map([...state.things[name].values()].map(({ id, item }) => [String(item[KINDS[name].called]), id])),
    ]),
  ) as unknown as Making["ids"];
  const making: Making = { context, client, file, zone_id, state, ids, versions: new Map(), secrets };
  await replaceLost(making, lost);
  for (const [done, change] of plan.changes.entries()) {
    const make = MAKERS[change.does] as Maker<typeof change.does>;
    await make(making, change as never).catch((error: unknown) => {
      if (!(error instanceof CommandFault)) throw error;
      const rest = `${done} of ${plan.changes.length} changes were made; apply the file again for the rest`;
      throw new CommandFault(
        error.exit_code,
        clean(`${change.label}: ${error.faults[0] ?? ""}`),
        ...error.faults.slice(1),
        rest,
      );
    });
  }
  context.out(`${count} changes were made.`);
};

/** `caracal apply -f FILE`: makes a zone what its file says. */
export const applyCommand = (context: CliContext): Command =>
  withConnection(new Command("apply"))
    .description("Make a zone what its file says: show the difference, ask, and make the changes in order.")
    .requiredOption("-f, --file <file>", "the zone's whole desired state, as caracal export writes it")
    .option("--zone <zone>", "apply it to this zone (id or slug) instead of the file's own")
    .option("--yes", "do not ask")
    .option("--dry-run", "show the difference and change nothing")
    .option("--prune", "archive what is in the zone and not in the file")
    .option("--secrets-out <file>", "keep new client secrets in this file (JSON, mode 0600) instead of showing them")
    .action((options: Options) => applyFile(context, options));
