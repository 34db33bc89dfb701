import { isIP } from "node:net";
import { LRUCache } from "lru-cache";
import type { Clock } from "../../kernel/clock.ts";
import type { Egress, EgressRefusal, EgressRefused, EgressTarget } from "../../ports/egress.ts";
import { type AddressClass, canonicalAddress, classifyAddress } from "./address.ts";
import { createNames, type Found, NAME_BOUNDS, type NameBounds } from "./names.ts";
import { createResolver, type Resolver } from "./resolver.ts";

export type EgressOptions = {
  /** `ALLOW_PRIVATE_UPSTREAMS`. In production only for hosts that are on the list. */
  readonly allow_private: boolean;
  /** Development: loopback and nothing else that is private. */
  readonly allow_loopback: boolean;
  /** Exact hosts, or `host:port`; empty: any host. A metadata address is called only if the address itself is listed. */
  readonly allowlist: readonly string[];
  readonly production: boolean;
  readonly clock: Clock;
  /** `DNS_SERVERS`: asked in place of the system's. */
  readonly dns_servers?: readonly string[];
  readonly resolver?: Resolver;
  readonly bounds?: NameBounds;
};

/** Judgements that are remembered. One that is not costs a few microseconds. */
const MAX_JUDGED = 4_096;

const FULL = { zone_full: "zone_lookups_full", full: "lookups_full" } as const satisfies Record<string, EgressRefusal>;

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
/** The SSRF guard (see the port): one classifier on parsed bytes, on the name and on every address that it resolves to. */
export const createEgress = (options: EgressOptions): Egress => {
  const { clock } = options;
  const list = new Set(options.allowlist.map(canonicalEntry));
  const resolver = options.resolver ?? createResolver({ clock, servers: options.dns_servers ?? [] });
  const names = createNames({ resolver, clock, bounds: options.bounds ?? NAME_BOUNDS });
  const judged = new LRUCache<string, Judged>({ max: MAX_JUDGED });

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
    if (addresses.length === 0) return refuse("name_not_resolved", `${host} has no address`);
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
      addresses,
    } as EgressTarget;
  };

  return {
    check(url, zone_id) {
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
      const judgeAll = (addresses: readonly string[], until_ms: number): EgressTarget | EgressRefused => {
        const result = judge(url, host, port, listed, addresses);
        // That nobody could say is one zone's to know: another may have heard an answer.
        if (addresses.length > 0) judged.set(url.href, { result, until_ms });
        return result;
      };
      const judgeFound = (found: Found): EgressTarget | EgressRefused =>
        typeof found === "string"
          ? refuse(FULL[found], `${host} is not looked up`)
          : judgeAll(found.addresses, found.until_ms);
      if (isIP(host) !== 0) return judgeAll([host], Infinity);
      const found = names.find(zone_id, host);
      return found instanceof Promise ? found.then(judgeFound) : judgeFound(found);
    },
  };
};
