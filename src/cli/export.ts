import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { UsageFault } from "../kernel/problem.ts";
import { dirname, join, resolve } from "node:path";
import { isDeepStrictEqual } from "node:util";
import { Command } from "commander";
import { stringify } from "yaml";
import { type ApiClient, type ConnectionOptions, createApiClient, zoneOf } from "./api-client.ts";
import type { CliContext } from "./context.ts";
import { withConnection } from "./noun-command.ts";
import type { Item } from "./show.ts";
import { KIND_NAMES, type KindName, whole, type Words } from "./zone-kinds.ts";
import { observeZone, type ZoneState } from "./zone-state.ts";

type Options = ConnectionOptions & { readonly file: string; readonly zone?: string; readonly force?: boolean };

/** The item without what the file need not say. */
const brief = (name: KindName, words: Words, item: Item): Item => {
  const entries = Object.entries(item);
  return Object.fromEntries(
    entries.filter(([word, value]) => {
      const others = Object.fromEntries(entries.filter(([other]) => other !== word));
      return !isDeepStrictEqual(whole(name, words, others)[word], value);
    }),
  );
};

/** A file's name of a policy's: what a file system and a shell take as it is, each once. */
const fileNames = (names: readonly string[]): ReadonlyMap<string, string> => {
  const files = new Map<string, string>();
  const used = new Set<string>();
  for (const name of names) {
    const base =
      name
        .toLowerCase()
        .replace(/[^a-z0-9]+/g, "-")
        .replace(/^-|-$/g, "") || "policy";
    let file = base;
    for (let n = 2; used.has(file); n += 1) file = `${base}-${n}`;
    used.add(file);
    files.set(name, `policies/${file}.rego`);
  }
  return files;
};

/** What decides now, else the newest version. */
const sourceOf = async (
  client: ApiClient,
  zone_id: string,
  { active, policies }: ZoneState,
  name: string,
): Promise<string | undefined> => {
  const policy = policies.get(name);
  const version_id =
    active?.members.find((member) => member.policy === name)?.version_id ?? policy?.versions.at(-1)?.id;
  if (policy === undefined || version_id === undefined) return undefined; // it was named, and never written
  return (await client.call("getPolicyVersion", { params: { zone_id, id: policy.id, version_id } })).source;
};

const HEAD = `# A zone's whole desired state, for caracal apply. Secrets are not in it: a provider's are brought by
# client_secret or api_key, each {file: …} or {env: …}; what is left out stays as it is.
`;

/** Everything before anything is written, so that what fails leaves no half of a file. */
const exportZone = async (context: CliContext, options: Options): Promise<void> => {
  const client = createApiClient(context.env, options);
  const zone = await client.call("getZone", { params: { zone_id: await zoneOf(client, options.zone) } });
  const state = await observeZone(client, zone);
  const sources = new Map<string, string>();
  for (const name of state.policies.keys()) {
    const source = await sourceOf(client, zone.id, state, name);
    if (source !== undefined) sources.set(name, source);
  }
  const files = fileNames([...sources.keys()]);
  const things = KIND_NAMES.map(
    (name) => [name, [...state.things[name].values()].map(({ item }) => brief(name, state.words[name], item))] as const,
  );
  const { active } = state;
  const content = {
    zone: { slug: zone.slug, name: zone.name },
    ...Object.fromEntries(things.filter(([, items]) => items.length > 0)),
    ...(files.size === 0 ? {} : { policies: [...files].map(([name, file]) => ({ name, file })) }),
    ...(active === undefined
      ? {}
      : { policy_set: { name: active.name, policies: active.members.map(({ policy }) => policy) } }),
  };
  const folder = dirname(resolve(options.file));
  const written = [
    ...[...files].map(([name, file]) => [join(folder, file), sources.get(name) ?? ""] as const),
    [resolve(options.file), `${HEAD}${stringify(content)}`] as const,
  ];
  const there = written.find(([file]) => existsSync(file));
  if (there !== undefined && options.force !== true)
    throw new UsageFault(`${there[0]} is there already; --force overwrites it`);
  for (const [file, text] of written) {
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, text);
  }
  context.out(`${written.length} files were written: ${options.file} and its policies.`);
};

/** `caracal export -f FILE`: writes the file that `caracal apply` takes, and its policies beside it. */
export const exportCommand = (context: CliContext): Command =>
  withConnection(new Command("export"))
    .description("Write a zone's whole state, without secrets, as the file that caracal apply takes.")
    .requiredOption("-f, --file <file>", "where to; the policies go into the folder policies beside it")
    .option("--zone <zone>", "its id or slug; the running instance's, or the only one, by default")
    .option("--force", "overwrite files that are there")
    .action((options: Options) => exportZone(context, options));
