import { type Entry, type Position, START, type Streams } from "../../ports/streams.ts";
import { deadLetter } from "../../domain/dead-letter.ts";
import type { Commands } from "./connection.ts";
import { BROADCAST_GROUP, ownerKey, type ReaderContext, readBroadcast, readGroup } from "./readers.ts";
import { SCRIPTS } from "./scripts.ts";
import { compareIds, entriesOf, flatten, idOf, millisecondsOf, pairs, type RawEntry, successorOf } from "./replies.ts";

/** How long one burial of an entry is remembered: longer than any replica takes to come to the same entry. */
const BURIED_S = 86_400;
/** Dead letters of a broadcast stream. Who can forge entries must not be able to fill the server with them. */
const DEAD_MAX = 100_000;
/** The last resort for a broadcast stream whose reader holds on to it: its readers notice the hole. */
const BROADCAST_MAX = 1_000_000;
/** A consumer of a group without anything pending, away for so long, is forgotten. */
const CONSUMER_GONE_MS = 3_600_000;

type Group = {
  readonly name: string;
  readonly delivered: string;
  readonly pending: number;
  readonly lag: number | null;
};

const groupsOf = async (commands: Commands, stream: string): Promise<readonly Group[]> => {
  const raw = await commands
    .send<unknown[][]>("xinfo", ["GROUPS", stream], { expected: "ERR no such key" })
    .catch(orElse<unknown[][]>("ERR no such key", []));
  return raw.map((one) => {
    const facts = pairs(one);
    return {
      name: String(facts.get("name")),
      delivered: String(facts.get("last-delivered-id")),
      pending: Number(facts.get("pending")),
      lag: typeof facts.get("lag") === "number" ? (facts.get("lag") as number) : null,
    };
  });
};

const orElse =
  <T>(word: string, value: T) =>
  (error: unknown): T => {
    if (error instanceof Error && error.message.startsWith(word)) return value;
    throw error;
  };

/** The first id that `group` may still need: its oldest pending entry, else the one behind its last. */
const neededBy = async (commands: Commands, stream: string, group: Group): Promise<string> => {
  if (group.pending === 0) return successorOf(group.delivered);
  const [count, oldest] = await commands.send<[number, string | null]>("xpending", [stream, group.name]);
  return count > 0 && oldest !== null ? oldest : successorOf(group.delivered);
};

const sweepOwners = async (commands: Commands, stream: string, groups: readonly Group[]): Promise<readonly Group[]> => {
  const alive = await Promise.all(
    groups.map(async (group) => {
      if (!group.name.startsWith(BROADCAST_GROUP)) return true;
      const owner = group.name.slice(BROADCAST_GROUP.length);
      return (await commands.send<number>("exists", [ownerKey(owner)])) === 1;
    }),
  );
  const gone = groups.filter((_, i) => !alive[i]);
  await Promise.all(gone.map((group) => commands.send("xgroup", ["DESTROY", stream, group.name])));
  return groups.filter((_, i) => alive[i]);
};

const sweepConsumers = async (commands: Commands, stream: string, group: string): Promise<void> => {
  const consumers = await commands.send<unknown[][]>("xinfo", ["CONSUMERS", stream, group]);
  const gone = consumers
    .map(pairs)
    .filter((one) => Number(one.get("pending")) === 0 && Number(one.get("idle")) > CONSUMER_GONE_MS);
  await Promise.all(
    gone.map((one) => commands.send("xgroup", ["DELCONSUMER", stream, group, String(one.get("name"))])),
  );
};

/** Streams on Redis 6.2 and up, one server or a primary with replicas behind one address (no cluster). */
export const createStreams = (commands: Commands, context: ReaderContext): Streams => ({
  append: (stream, entries) =>
    Promise.all(entries.map((fields) => commands.send<string>("xadd", flatten(fields, [stream, "*"]), { now: true }))),

  async position(stream): Promise<Position> {
    const info = await commands
      .send<unknown[]>("xinfo", ["STREAM", stream], { expected: "ERR no such key" })
      .catch(orElse<unknown[]>("ERR no such key", []));
    return String(pairs(info).get("last-generated-id") ?? START);
  },

  subscribeAll: async (options) => readBroadcast(commands, context, options),
  consumeGroup: async (options) => readGroup(commands, context, options),

  async moveDead(stream, group, entry, to, reason) {
    const fields = flatten(deadLetter(entry, reason));
    const most = group === undefined ? DEAD_MAX : 0; // what a consuming group can't process may be somebody's ledger
    const mark = `caracal:buried:${stream}:${entry.id}`;
    await commands.run(SCRIPTS.bury, [3, to, mark, stream, group ?? "", entry.id, BURIED_S, most, ...fields]);
  },

  async range(stream, after, count): Promise<readonly Entry[]> {
    const raw = await commands.send<RawEntry[]>("xrange", [stream, `(${after}`, "+", "COUNT", count]);
    return entriesOf(raw);
  },

  async remove(stream, ids) {
    if (ids.length > 0) await commands.send("xdel", [stream, ...ids]);
  },

  length: (stream) => commands.send<number>("xlen", [stream]),

  async backlog(stream, name) {
    const group = (await groupsOf(commands, stream)).find((one) => one.name === name);
    if (group === undefined) return commands.send<number>("xlen", [stream]);
    if (group.lag !== null) return group.pending + group.lag;
    // Redis before 7, or one that lost count: the unread ones, counted.
    const unread = await commands.send<unknown[]>("xrange", [stream, `(${group.delivered}`, "+", "COUNT", 10_000]);
    return group.pending + unread.length;
  },

  async load(stream, name) {
    const [memory, bytes, groups, [seconds, microseconds]] = await Promise.all([
      commands.send<string>("info", ["memory"]),
      commands.send<number | null>("memory", ["USAGE", stream]),
      groupsOf(commands, stream),
      commands.send<[string, string]>("time", []),
    ]);
    const fact = (field: string): number => Number(new RegExp(`^${field}:(\\d+)`, "m").exec(memory)?.[1] ?? 0);
    const group = groups.find((one) => one.name === name);
    const needed = group === undefined ? START : await neededBy(commands, stream, group);
    const [oldest] = await commands.send<RawEntry[]>("xrange", [stream, needed, "+", "COUNT", 1]);
    const now_ms = Number(seconds) * 1000 + Number(microseconds) / 1000;
    return {
      bytes: bytes ?? 0,
      room_bytes: Math.max(0, (fact("maxmemory") || fact("total_system_memory")) - fact("used_memory")),
      oldest_ms: oldest === undefined ? 0 : Math.max(0, now_ms - millisecondsOf(oldest[0])),
    };
  },

  async trim(stream, keep_ms) {
    const groups = await sweepOwners(commands, stream, await groupsOf(commands, stream));
    const consuming = groups.filter((group) => !group.name.startsWith(BROADCAST_GROUP));
    await Promise.all(consuming.map((group) => sweepConsumers(commands, stream, group.name)));
    // Without a group nobody has read: what a consumer will come for one day stays.
    if (keep_ms === undefined && consuming.length === 0) return;
    const needed = await Promise.all(groups.map((group) => neededBy(commands, stream, group)));
    if (keep_ms !== undefined) {
      const [seconds] = await commands.send<[string, string]>("time", []);
      needed.push(idOf(Number(seconds) * 1000 - keep_ms));
    }
    const oldest = needed.reduce((a, b) => (compareIds(a, b) <= 0 ? a : b));
    await commands.send("xtrim", [stream, "MINID", oldest]);
    if (keep_ms !== undefined) await commands.send("xtrim", [stream, "MAXLEN", "~", BROADCAST_MAX]);
  },

  async identity() {
    const info = await commands.send<string>("info", ["replication"]);
    return /master_replid:(\w+)/.exec(info)?.[1] ?? "";
  },
});
