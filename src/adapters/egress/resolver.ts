import { Resolver as Channel } from "node:dns/promises";
import { isIP } from "node:net";
import type { Clock } from "../../kernel/clock.ts";
import { systemFile } from "./system-file.ts";

/** The addresses of a name, 32 of each family at most; none where the name has none. Rejects where nobody could say, in bounded time. */
export type Resolver = (hostname: string) => Promise<readonly string[]>;

export type ResolverOptions = {
  readonly clock: Clock;
  /** `address`, `address:port` or `[address]:port` each; the system's own (resolv.conf) if empty. */
  readonly servers: readonly string[];
  readonly hosts_file?: string;
  readonly resolv_file?: string;
  /** For all of a name's questions together. */
  readonly timeout_ms?: number;
};

const TIMEOUT_MS = 4_000;
/** For one question to one server, and how often it is asked. */
const TRY_MS = 1_500;
const TRIES = 2;
/** How long the other family may take once one has said its addresses: a server that drops AAAA is no reason to wait. */
const OTHER_FAMILY_MS = 300;
const MAX_SEARCHED = 6;
/** More are cut before anything is done with them: an answer can hold 4 000, and to order those takes 5 ms of everybody's. */
const MAX_OF_FAMILY = 32;
/** c-ares's words for "there is no such name, or it has no address of that kind". All others mean that nobody said. */
const NONE: ReadonlySet<unknown> = new Set(["ENOTFOUND", "ENODATA", "EBADNAME"]);

type Hosts = ReadonlyMap<string, readonly string[]>;
type Search = { readonly domains: readonly string[]; readonly ndots: number };

const wordsOf = (text: string): readonly (readonly string[])[] =>
  text.split("\n").map((line) =>
    line
      .replace(/[#;].*$/, "")
      .trim()
      .split(/\s+/)
      .map((word) => word.toLowerCase()),
  );

/** hosts(5). An address with a scope is of a link of this machine's own, and nobody's upstream. */
const parseHosts = (text: string): Hosts => {
  const found = new Map<string, string[]>();
  for (const [address = "", ...names] of wordsOf(text)) {
    if (isIP(address) === 0 || address.includes("%")) continue;
    for (const name of names) {
      const addresses = found.get(name) ?? [];
      addresses.push(address);
      found.set(name, addresses);
    }
  }
  return found;
};

const withoutDot = (name: string): string => (name.endsWith(".") ? name.slice(0, -1) : name);

/** resolv.conf(5): the last `search` or `domain` counts. */
const parseSearch = (text: string): Search => {
  let domains: readonly string[] = [];
  let ndots = 1;
  for (const [word = "", ...values] of wordsOf(text)) {
    if (word === "search") domains = values.map(withoutDot).filter((domain) => domain !== "");
    else if (word === "domain") domains = values.slice(0, 1).map(withoutDot);
    else if (word === "options") {
      for (const value of values) {
        const said = /^ndots:(\d{1,2})$/.exec(value)?.[1];
        if (said !== undefined) ndots = Math.min(Number(said), 15);
      }
    }
  }
  return { domains: domains.slice(0, MAX_SEARCHED), ndots };
};

/** The full names that a name may stand for, in their order, as getaddrinfo tries them. */
const candidates = (name: string, { domains, ndots }: Search): readonly string[] => {
  const searched = domains.map((domain) => `${name}.${domain}`);
  return name.split(".").length - 1 >= ndots ? [name, ...searched] : [...searched, name];
};

/** RFC 8305, 4: the families in turn, so that one of them that leads nowhere costs one try. */
const interleave = (v4: readonly string[], v6: readonly string[]): readonly string[] => {
  const out: string[] = [];
  for (let at = 0; at < Math.max(v4.length, v6.length); at += 1) {
    for (const family of [v4, v6]) {
      const address = family[at];
      if (address !== undefined) out.push(address);
    }
  }
  return out;
};

/** One order for one set, whatever order a server rotates it into: connections are kept by it. */
const ordered = (addresses: readonly string[]): readonly string[] => {
  const all = [...new Set(addresses)].sort();
  return interleave(
    all.filter((address) => isIP(address) === 4),
    all.filter((address) => isIP(address) === 6),
  );
};

/**
 * Names as the system knows them (hosts file, search domains, its servers), by c-ares: getaddrinfo, which `dns.lookup`
 * calls, holds one of libuv's four threads for as long as a server is silent, and with them everybody's files and hashes.
 * Each look-up has a channel of its own: it is given up alone, and its port is nobody else's to guess from.
 */
export const createResolver = (options: ResolverOptions): Resolver => {
  const { clock, servers } = options;
  const timeout_ms = options.timeout_ms ?? TIMEOUT_MS;
  const hosts = systemFile(options.hosts_file ?? "/etc/hosts", parseHosts, clock);
  const search = systemFile(options.resolv_file ?? "/etc/resolv.conf", parseSearch, clock);

  const ask = async (channel: Channel, name: string): Promise<readonly string[]> => {
    let grace: NodeJS.Timeout | undefined;
    let failure: unknown;
    const family = async (asked: Promise<readonly string[]>): Promise<readonly string[]> => {
      try {
        const found = (await asked).slice(0, MAX_OF_FAMILY);
        if (found.length > 0) grace ??= setTimeout(() => channel.cancel(), OTHER_FAMILY_MS);
        return found;
      } catch (error) {
        if (!NONE.has((error as NodeJS.ErrnoException).code)) failure = error;
        return [];
      }
    };
    const found = await Promise.all([family(channel.resolve4(name)), family(channel.resolve6(name))]);
    clearTimeout(grace);
    const addresses = ordered(found.flat());
    if (addresses.length === 0 && failure !== undefined) throw failure;
    return addresses;
  };

  return async (hostname) => {
    const listed = hosts().get(hostname);
    if (listed !== undefined) return ordered(listed);
    // RFC 6761, 6.3: never a server's to say, or it could say that another machine is this one.
    if (hostname === "localhost" || hostname.endsWith(".localhost")) return ordered(["127.0.0.1", "::1"]);
    const channel = new Channel({ timeout: TRY_MS, tries: TRIES });
    if (servers.length > 0) channel.setServers(servers);
    let late = false;
    const timer = setTimeout(() => {
      late = true;
      channel.cancel();
    }, timeout_ms);
    try {
      for (const name of candidates(hostname, search())) {
        if (late) throw new Error("no name server answered in time");
        // A name that nobody could say is not passed over: the next one may be somebody else's.
        const addresses = await ask(channel, name);
        if (addresses.length > 0) return addresses;
      }
      return [];
    } finally {
      clearTimeout(timer);
      channel.cancel();
    }
  };
};
