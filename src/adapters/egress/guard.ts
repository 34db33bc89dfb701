import { lookup } from "node:dns/promises";
import { isIP } from "node:net";
import { LRUCache } from "lru-cache";
import type { Clock } from "../../kernel/clock.ts";
import type { Egress, EgressRefusal, EgressRefused, EgressTarget } from "../../ports/egress.ts";
import { type AddressClass, canonicalAddress, classifyAddress } from "./address.ts";

/** Every address of a name. Rejects where it has none. */
export type Resolver = (hostname: string) => Promise<readonly string[]>;

export type EgressOptions = {
  /** `ALLOW_PRIVATE_UPSTREAMS`. In production only for hosts that are on the list. */
  readonly allow_private: boolean;
  /** Development: loopback and nothing else that is private. */
  readonly allow_loopback: boolean;
  /** Exact hosts, or `host:port`; empty: any host. A metadata address is called only if the address itself is listed. */
  readonly allowlist: readonly string[];
  readonly production: boolean;
  readonly clock: Clock;
  readonly resolver?: Resolver;
};

/** An answer of the DNS is believed for this long: the next dial asks again. */
const RESOLVED_MS = 5_000;
/** A name without an address is not asked for again for this long, so that it is no way to load the resolver. */
const UNRESOLVED_MS = 1_000;
const RESOLVE_TIMEOUT_MS = 5_000;
const MAX_NAMES = 1_024;
/** Names that are being looked up: they share libuv's four threads with everything else. */
const MAX_LOOKUPS = 64;
const MAX_ADDRESSES = 64;

const systemResolver: Resolver = async (hostname) =>
  (await lookup(hostname, { all: true, order: "verbatim" })).map(({ address }) => address);

const refuse = (refused: EgressRefusal, detail: string): EgressRefused => ({ refused, detail });

const withoutBrackets = (hostname: string): string =>
  hostname.startsWith("[") && hostname.endsWith("]") ? hostname.slice(1, -1) : hostname;

/** One spelling per entry and per host: lower case, no brackets, no trailing dot, addresses canonical. */
const canonicalHost = (host: string): string => {
  const bare = withoutBrackets(host.trim().toLowerCase());
  return canonicalAddress(bare.endsWith(".") ? bare.slice(0, -1) : bare);
};

const canonicalEntry = (entry: string): string => {
  const port = /^(.*[^:]|\[.*\]):(\d{1,5})$/.exec(entry.trim());
  const isAddress = isIP(withoutBrackets(entry.trim())) !== 0;
  return port === null || isAddress ? canonicalHost(entry) : `${canonicalHost(port[1] as string)}:${Number(port[2])}`;
};

/** A judgement stands as long as what it was made from: an address for good, a name's until it is looked up again. */
type Judged = { readonly result: EgressTarget | EgressRefused; readonly until_ms: number };
type Resolved = { readonly addresses: readonly string[]; readonly until_ms: number };

/** The SSRF guard (see the port): one classifier on parsed bytes, on the name and on every address that it resolves to. */
export const createEgress = (options: EgressOptions): Egress => {
  const { clock } = options;
  const resolver = options.resolver ?? systemResolver;
  const list = new Set(options.allowlist.map(canonicalEntry));
  const names = new LRUCache<string, Resolved>({ max: MAX_NAMES });
  const judged = new LRUCache<string, Judged>({ max: MAX_NAMES });
  const lookups = new Map<string, Promise<readonly string[]>>();

  const allows = (kind: AddressClass, address: string, host_listed: boolean): boolean => {
    if (kind === "public") return true;
    if (kind === "never") return false;
    if (kind === "metadata") return list.has(canonicalAddress(address)); // the name is not enough: who owns it can point it here
    if (kind === "loopback" && options.allow_loopback) return true;
    return options.allow_private && (!options.production || host_listed);
  };

  const judge = (
    url: URL,
    host: string,
    port: number,
    listed: boolean,
    addresses: readonly string[],
  ): EgressTarget | EgressRefused => {
    const [first] = addresses;
    if (first === undefined) return refuse("name_not_resolved", `${host} has no address`);
    for (const address of addresses) {
      const kind = classifyAddress(address);
      if (!allows(kind, address, listed)) {
        return refuse(kind === "metadata" ? "metadata_address" : "address_refused", `${host} is ${address} (${kind})`);
      }
    }
    return {
      origin: url.origin,
      protocol: url.protocol as "http:" | "https:",
      hostname: host,
      port,
      address: first,
      family: isIP(first) as 4 | 6,
    } as EgressTarget;
  };

  const resolve = (host: string): Promise<readonly string[]> => {
    const running = lookups.get(host);
    if (running !== undefined) return running;
    if (lookups.size >= MAX_LOOKUPS) return Promise.resolve([]);
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<readonly string[]>((_, reject) => {
      timer = setTimeout(() => reject(new Error("the resolver did not answer in time")), RESOLVE_TIMEOUT_MS);
    });
    const found = Promise.race([resolver(host), late])
      .then(
        (addresses) => addresses.slice(0, MAX_ADDRESSES),
        () => [],
      )
      .then((addresses) => {
        const until_ms = clock.monotonic_ms() + (addresses.length === 0 ? UNRESOLVED_MS : RESOLVED_MS);
        names.set(host, { addresses, until_ms });
        return addresses;
      })
      .finally(() => {
        clearTimeout(timer);
        lookups.delete(host);
      });
    lookups.set(host, found);
    return found;
  };

  return {
    check(url) {
      const before = judged.get(url.href);
      if (before !== undefined && before.until_ms > clock.monotonic_ms()) return before.result;
      if (url.protocol !== "http:" && url.protocol !== "https:")
        return refuse("scheme_refused", `${url.protocol} is not http or https`);
      if (url.username !== "" || url.password !== "")
        return refuse("url_refused", "the URL holds a user or a password");
      const host = canonicalHost(url.hostname);
      if (host === "") return refuse("url_refused", "the URL has no host");
      const port = url.port === "" ? (url.protocol === "https:" ? 443 : 80) : Number(url.port);
      const listed = list.has(host) || list.has(`${host}:${port}`);
      if (list.size > 0 && !listed) return refuse("host_not_listed", `${host}:${port} is not on the list of hosts`);
      if (options.production && url.protocol === "http:" && !listed) {
        return refuse("scheme_refused", `${host} is plain http and not on the list of hosts`);
      }
      const remember = (addresses: readonly string[], until_ms: number): EgressTarget | EgressRefused => {
        const result = judge(url, host, port, listed, addresses);
        judged.set(url.href, { result, until_ms });
        return result;
      };
      if (isIP(host) !== 0) return remember([host], Infinity);
      const known = names.get(host);
      if (known !== undefined && known.until_ms > clock.monotonic_ms())
        return remember(known.addresses, known.until_ms);
      return resolve(host).then((addresses) => judge(url, host, port, listed, addresses));
    },
  };
};
