import { closeSync, fsyncSync, openSync, unlinkSync, writeSync } from "node:fs";
import { Command, Option } from "commander";
import { apiEndpoints, type ApiOperation } from "../contracts/api.ts";
import type { ApiEndpoint } from "../contracts/api-access.ts";
import { PAGE_LIMIT_DEFAULT } from "../contracts/api-fields.ts";
import { propertiesOf } from "../contracts/openapi.ts";
import { isUuid } from "../kernel/ids.ts";
import { UsageFault } from "../kernel/problem.ts";
import { type ApiClient, type CallParts, type ConnectionOptions, createApiClient, zoneOf } from "./api-client.ts";
import { CommandFault, EXIT, EXIT_CODES_HELP } from "./exit-codes.ts";
import { type Field, fieldsOfSchema, isSecret, optionOf } from "./fields.ts";
import type { CliContext } from "./context.ts";
import { type Noun, NOUNS, VERBS } from "./nouns.ts";
import { fieldsOf, type Item, tableOf } from "./show.ts";

/** One verb of a noun: an endpoint of the API. `words`: the ids that it takes in order. `list`: it answers with pages. */
type Verb = {
  readonly name: string;
  readonly operation: ApiOperation;
  readonly endpoint: ApiEndpoint;
  readonly words: readonly string[];
  readonly list: boolean;
};

type Options = ConnectionOptions & {
  readonly zone?: string;
  readonly json?: boolean;
  readonly quiet?: boolean;
  readonly limit?: string;
  readonly all?: boolean;
  readonly ifMatch?: string;
  readonly idempotencyKey?: string;
  readonly secretOut?: string;
  readonly unset?: readonly string[];
} & Readonly<Record<string, unknown>>;

const PLAIN: Readonly<Record<string, readonly [collection: string, item: string]>> = {
  GET: ["list", "show"],
  POST: ["create", "create"],
  PATCH: ["edit", "edit"],
  PUT: ["set", "set"],
  DELETE: ["archive", "archive"],
};

/** The verb of an endpoint at the end of the noun's path: `…/{id}/satisfy` is `satisfy`, GET of the path itself `list`. */
const verbName = (operation: string, { method, path }: ApiEndpoint, below: string): string => {
  const named = VERBS[operation];
  if (named !== undefined) return named;
  const rest = path
    .slice(below.length)
    .split("/")
    .filter((part) => part !== "");
  const words = rest.filter((part) => !part.startsWith("{"));
  const [collection = "", item = ""] = PLAIN[method] ?? [];
  return words.length > 0 ? words.join("-") : rest.length === 0 ? collection : item;
};

const isBelow = (path: string, root: string): boolean => path === root || path.startsWith(`${root}/`);

const ALL_PATHS = Object.values(NOUNS).flatMap(({ paths }) => paths);

/** The noun's verbs, each an endpoint that no other noun has a longer path to. */
const verbsOf = (noun: Noun): readonly Verb[] =>
  (Object.entries(apiEndpoints) as [ApiOperation, ApiEndpoint][]).flatMap(([operation, endpoint]) => {
    const roots = ALL_PATHS.filter((root) => isBelow(endpoint.path, root)).toSorted((a, b) => b.length - a.length);
    const [root] = roots;
    if (root === undefined || !noun.paths.includes(root)) return [];
    const params = [...endpoint.path.matchAll(/\{([a-z_]+)\}/g)].map(([, name = ""]) => name);
    const words = params.filter((name) => name !== "zone_id" || noun === NOUNS["zone"]);
    const list =
      endpoint.method === "GET" &&
      endpoint.response !== undefined &&
      Object.hasOwn(propertiesOf(endpoint.response).properties, "items");
    return [{ name: verbName(operation, endpoint, root), operation, endpoint, words, list }];
  });

const camel = (flag: string): string => flag.replace(/-([a-z0-9])/g, (_, letter: string) => letter.toUpperCase());

/** What the options say of these fields, in the contract's words. `--unset` makes null or an empty list of one. */
const valuesOf = (fields: readonly Field[], options: Options): Readonly<Record<string, unknown>> => {
  const values: Record<string, unknown> = {};
  for (const field of fields) {
    const given = options[camel(field.flag)];
    const unset = options.unset?.includes(field.flag) === true;
    if (unset && given !== undefined) throw new UsageFault(`--unset ${field.flag}: is given beside --${field.flag}`);
    if (unset) values[field.name] = field.unset;
    else if (given !== undefined) values[field.name] = given;
  }
  return values;
};

/** Where secrets go that are shown once: a file that is there, and ours alone, before anything is made. */
export const openSecretFile = (file: string): { write(text: string): void; drop(): void } => {
  const descriptor = (() => {
    try {
      return openSync(file, "wx", 0o600);
    } catch (cause) {
      const why = cause instanceof Error && "code" in cause ? String(cause.code) : "no access";
      throw new UsageFault(`--secret-out: ${file} can't be made (${why}); it must not be there yet`);
    }
  })();
  return {
    write(text) {
      writeSync(descriptor, text);
      fsyncSync(descriptor);
      closeSync(descriptor);
    },
    drop() {
      closeSync(descriptor);
      unlinkSync(file);
    },
  };
};

const idOf = (item: Item): string => String(item["id"] ?? item["kid"] ?? item["name"] ?? "");

/** Whether answers are for a person. */
const forPerson = (options: Options): boolean => process.stdout.isTTY && options.json !== true;

const showItem = (context: CliContext, options: Options, item: Item): void => {
  if (options.quiet === true) context.out(idOf(item));
  else if (forPerson(options)) for (const line of fieldsOf(item)) context.out(line);
  else context.out(JSON.stringify(item, null, 2));
};

const showList = async (
  context: CliContext,
  options: Options,
  noun: Noun,
  pages: AsyncIterable<readonly Item[]>,
): Promise<number> => {
  let shown = 0;
  const as_json = options.quiet !== true && !forPerson(options);
  for await (const items of pages) {
    const lines = (): readonly string[] => {
      if (options.quiet === true) return items.map(idOf);
      if (as_json) return items.map((item, at) => `${shown + at === 0 ? "[" : ","}${JSON.stringify(item)}`);
      const has = (column: string): boolean => items.some((item) => Object.hasOwn(item, column));
      const columns = noun.columns.filter(has);
      return items.length === 0 ? [] : tableOf(columns.length < 2 ? Object.keys(items[0] ?? {}) : columns, items);
    };
    for (const line of lines()) context.out(line);
    shown += items.length;
  }
  if (as_json) context.out(shown === 0 ? "[]" : "]");
  return shown;
};

/** The id of one that is named by its id, or by the name that people gave it. */
const findId = async (
  client: ApiClient,
  noun: Noun,
  list: ApiOperation | undefined,
  params: Readonly<Record<string, string>>,
  word: string,
): Promise<string> => {
  if (isUuid(word) || noun.named_by === undefined || list === undefined) return word;
  const found = await client.all(list, { params, query: { [noun.named_by]: word } });
  const named = `${noun.named_by} ${JSON.stringify(word.slice(0, 120))}`;
  if (found.length > 1) throw new CommandFault(EXIT.conflict, `${found.length} have the ${named}; give the id`);
  const [one] = found;
  if (one === undefined) throw new CommandFault(EXIT.not_found, `there is none with the ${named} here`);
  return idOf(one);
};

const wholeOf = (text: string | undefined, flag: string): number | undefined => {
  if (text === undefined) return undefined;
  if (!/^[1-9]\d{0,8}$/.test(text)) throw new UsageFault(`--${flag}: is no whole number from 1 up`);
  return Number(text);
};

/** A number, or the id of what is active. */
const revisionOf = (text: string | undefined): string | undefined => {
  if (text !== undefined && !/^[A-Za-z0-9-]{1,64}$/.test(text)) throw new UsageFault("--if-match: is no revision");
  return text;
};

const secretsIn = (endpoint: ApiEndpoint): readonly string[] =>
  endpoint.response === undefined || endpoint.access === "read"
    ? []
    : Object.keys(propertiesOf(endpoint.response).properties).filter(isSecret);

/** What every command over the API takes. */
export const withConnection = (command: Command): Command =>
  command
    .option("--api-url <url>", "where the API is (CARACAL_API_URL)")
    .option("--token-file <file>", "a file with the admin token (CARACAL_ADMIN_TOKEN_FILE)")
    .addHelpText("after", EXIT_CODES_HELP);

/** For the help: `id-or-name`. */
const argumentOf = (noun: Noun, word: string): string => {
  if (word === "id" && noun.named_by !== undefined) return `id-or-${noun.named_by}`;
  return word === "zone_id" ? "zone" : word.replaceAll("_", "-");
};

const verbCommand = (context: CliContext, noun: Noun, verb: Verb, list: ApiOperation | undefined): Command => {
  const { name, operation, endpoint, words } = verb;
  const command = withConnection(new Command(name).description(`${endpoint.summary}.`));
  const in_zone = endpoint.path.includes("{zone_id}") && !words.includes("zone_id");
  const query = fieldsOfSchema(endpoint.query).filter((field) => field.name !== "limit" && field.name !== "cursor");
  const body = endpoint.body === undefined ? [] : fieldsOfSchema(endpoint.body);
  const secrets = secretsIn(endpoint);
  const unsettable = body.filter(({ unset }) => unset !== undefined).map(({ flag }) => flag);
  for (const word of words) command.argument(`<${argumentOf(noun, word)}>`);
  if (in_zone) command.option("--zone <zone>", "its id or slug; the running instance's, or the only one, by default");
  for (const field of [...query, ...body]) command.addOption(optionOf(field));
  if (unsettable.length > 0) {
    command.addOption(
      new Option("--unset <field>", "make it null or an empty list; repeat it for several")
        .choices(unsettable)
        .argParser((value: string, before: readonly string[] | undefined) => {
          if (!unsettable.includes(value))
            throw new UsageFault(`--unset: ${value.slice(0, 80)} is none of ${unsettable.join(", ")}`);
          return [...(before ?? []), value];
        }),
    );
  }
  if (verb.list) {
    command
      .option("--limit <n>", `so many at most (${PAGE_LIMIT_DEFAULT} by default)`)
      .option("--all", "every one, page after page");
  }
  if (endpoint.edits === true) command.option("--if-match <revision>", "only if it is still the one that you saw");
  if (endpoint.status === 201) command.option("--idempotency-key <key>", "make it once, however often it is asked");
  if (secrets.length > 0)
    command.option(
      "--secret-out <file>",
      `write ${secrets.join(", ")} to this new file (mode 0600) instead of showing it`,
    );
  command.option("--json", "JSON on a terminal, too").option("--quiet", "ids only");

  const partsOf = async (client: ApiClient, given: readonly string[], options: Options): Promise<CallParts> => {
    const params: Record<string, string> = in_zone ? { zone_id: await zoneOf(client, options.zone) } : {};
    for (const [at, word] of words.entries()) {
      const value = given[at] ?? "";
      if (value === "") throw new UsageFault(`<${word}>: is empty`);
      params[word] =
        word === "zone_id"
          ? value === "system"
            ? value
            : await zoneOf(client, value)
          : word === "id"
            ? await findId(client, noun, list, params, value)
            : value;
    }
    return {
      params,
      query: valuesOf(query, options) as Readonly<Record<string, string>>,
      ...(endpoint.body === undefined ? {} : { body: valuesOf(body, options) }),
      if_match: revisionOf(options.ifMatch),
      idempotency_key: options.idempotencyKey,
    };
  };

  return command.action(async (...args: unknown[]) => {
    const given = args.slice(0, words.length) as readonly string[];
    const options = args[words.length] as Options;
    const most = options.all === true ? Infinity : (wholeOf(options.limit, "limit") ?? PAGE_LIMIT_DEFAULT);
    const client = createApiClient(context.env, options);
    const parts = await partsOf(client, given, options);
    if (verb.list) {
      const shown = await showList(context, options, noun, client.pages(operation, parts, most));
      if (shown === most) process.stderr.write(`caracal: ${shown} are shown; --all shows what may follow\n`);
      return;
    }
    if (options.quiet === true && secrets.length > 0 && options.secretOut === undefined)
      throw new UsageFault(`--quiet: would lose ${secrets.join(", ")}, which is shown once; give --secret-out as well`);
    const file = options.secretOut === undefined ? undefined : openSecretFile(options.secretOut);
    const answer = (await client.call(operation, parts).catch((error: unknown) => {
      file?.drop();
      throw error;
    })) as Item | undefined;
    const held = answer === undefined ? [] : secrets.filter((one) => typeof answer[one] === "string");
    file?.write(held.map((one) => `${String(answer?.[one])}\n`).join(""));
    if (answer === undefined) return;
    const kept = file === undefined ? [] : held;
    showItem(context, options, Object.fromEntries(Object.entries(answer).filter(([key]) => !kept.includes(key))));
    if (kept.length === 0 && held.length > 0 && forPerson(options))
      process.stderr.write(`caracal: ${held.join(", ")} is shown this once; keep it\n`);
  });
};

/** `caracal NOUN VERB`: the endpoints of the API below the noun's path. */
export const nounCommand =
  (name: string) =>
  (context: CliContext): Command => {
    const noun = NOUNS[name] as Noun;
    const command = new Command(name).description(noun.about);
    const verbs = verbsOf(noun);
    const list = verbs.find((verb) => verb.name === "list")?.operation;
    for (const verb of verbs) command.addCommand(verbCommand(context, noun, verb, list));
    return command;
  };
