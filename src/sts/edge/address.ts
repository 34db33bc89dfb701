import { BlockList, isIP, isIPv4 } from "node:net";
import type { IncomingMessage } from "node:http";
import { countable } from "../../http/address.ts";

const family = (address: string): "ipv4" | "ipv6" => (isIPv4(address) ? "ipv4" : "ipv6");

/** The configuration has checked their form. */
const listOf = (trusted: readonly string[]): BlockList => {
  const list = new BlockList();
  for (const entry of trusted) {
    const [address = "", prefix] = entry.split("/");
    if (prefix === undefined) list.addAddress(address, family(address));
    else list.addSubnet(address, Number(prefix), family(address));
  }
  return list;
};

/**
 * Who calls. `X-Forwarded-For` is believed only from a proxy that is listed, and then read from the right, up to the first
 * address that is no such proxy: what stands further left is the caller's own word. `onUntrusted`: the header came from
 * this peer, which is not listed; either it lies, or everybody after an unlisted proxy is counted as one address.
 */
export const createAddressReader = (
  trusted_proxies: readonly string[],
  onUntrusted: (peer: string) => void,
): ((request: IncomingMessage) => string) => {
  const trusted = listOf(trusted_proxies);
  const isTrusted = (address: string): boolean => isIP(address) !== 0 && trusted.check(address, family(address));
  return (request) => {
    const peer = request.socket.remoteAddress ?? "";
    if (isIP(peer) === 0) return "unknown";
    const header = request.headers["x-forwarded-for"];
    if (!isTrusted(peer)) {
      if (header !== undefined) onUntrusted(peer);
      return countable(peer);
    }
    const hops = (Array.isArray(header) ? header.join(",") : (header ?? "")).split(",").map((hop) => hop.trim());
    const caller = hops.findLast((hop) => !isTrusted(hop));
    return countable(caller !== undefined && isIP(caller) !== 0 ? caller : peer);
  };
};
