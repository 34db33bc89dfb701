import ipaddr from "ipaddr.js";

/**
 * What an address is, as far as calling it matters. `metadata`: a cloud's own services, and link-local as a whole, where
 * they live. `never`: nobody's upstream (unspecified, multicast, broadcast, reserved, documentation).
 */
export type AddressClass = "public" | "private" | "loopback" | "metadata" | "never";

/** Metadata and platform services outside link-local: AWS (IPv6), Google (IPv6), Azure, Alibaba, Oracle. */
const METADATA = new Set(
  [
    "fd00:ec2::254",
    "fd00:ec2::23",
    "fd00:ec2::253",
    "fd20:ce::254",
    "168.63.129.16",
    "100.100.100.200",
    "192.0.0.192",
  ].map((text) => ipaddr.parse(text).toNormalizedString()),
);

/** IANA's special-purpose registry as ipaddr.js names its ranges; what is not here and not unicast is `never`. */
const V4_CLASSES: Readonly<Record<string, AddressClass>> = {
  unicast: "public",
  private: "private",
  carrierGradeNat: "private",
  loopback: "loopback",
  linkLocal: "metadata",
};
const V6_CLASSES: Readonly<Record<string, AddressClass>> = {
  uniqueLocal: "private",
  deprecatedSiteLocal: "private",
  linkLocal: "metadata",
};
/** 198.18.0.0/15 is for benchmarks (RFC 2544), and in use inside networks: private, not reserved. */
const BENCHMARK: [ipaddr.IPv4, number] = [new ipaddr.IPv4([198, 18, 0, 0]), 15];

const classifyV4 = (address: ipaddr.IPv4): AddressClass => {
  if (METADATA.has(address.toNormalizedString())) return "metadata";
  if (address.match(BENCHMARK)) return "private";
  return V4_CLASSES[address.range()] ?? "never";
};

const v4At = (bytes: readonly number[], at: number, flip = 0): ipaddr.IPv4 =>
  new ipaddr.IPv4(bytes.slice(at, at + 4).map((byte) => byte ^ flip));

/** All zero from `from` up to, not with, `to`. */
const zero = (bytes: readonly number[], from: number, to: number): boolean =>
  bytes.slice(from, to).every((byte) => byte === 0);

const starts = (bytes: readonly number[], ...prefix: readonly number[]): boolean =>
  prefix.every((byte, at) => bytes[at] === byte);

/** The IPv4 addresses that an IPv6 address carries in one of the forms that some router on the way may unwrap. */
const carried = (bytes: readonly number[]): readonly ipaddr.IPv4[] => {
  if (zero(bytes, 0, 12)) return [v4At(bytes, 12)]; // IPv4-compatible (RFC 4291, 2.5.5.1); `::` and `::1` are told apart before
  if (zero(bytes, 0, 8) && starts(bytes.slice(8), 0xff, 0xff, 0, 0)) return [v4At(bytes, 12)]; // RFC 2765, IPv4-translated
  if (starts(bytes, 0, 0x64, 0xff, 0x9b)) return [v4At(bytes, 12), v4At(bytes, 9)]; // NAT64 /96 (RFC 6052), local /48 (RFC 8215)
  if (starts(bytes, 0x20, 0x02)) return [v4At(bytes, 2)]; // 6to4 (RFC 3056)
  if (starts(bytes, 0x20, 0x01, 0, 0)) return [v4At(bytes, 4), v4At(bytes, 12, 0xff)]; // Teredo (RFC 4380): server, client
  const isatap = (bytes[8] === 0 || bytes[8] === 2) && starts(bytes.slice(9), 0, 0x5e, 0xfe); // RFC 5214, 6.1
  return isatap ? [v4At(bytes, 12)] : [];
};

const GLOBAL_UNICAST: [ipaddr.IPv6, number] = [ipaddr.IPv6.parse("2000::"), 3];

const classifyV6 = (address: ipaddr.IPv6): AddressClass => {
  if (address.isIPv4MappedAddress()) return classifyV4(address.toIPv4Address()); // the very IPv4 address (RFC 4291, 2.5.5.2)
  if (METADATA.has(address.toNormalizedString())) return "metadata";
  const range = address.range();
  if (range === "unspecified" || range === "multicast") return "never";
  if (range === "loopback") return "loopback";
  const inside = carried(address.toByteArray()).map(classifyV4);
  if (inside.includes("metadata")) return "metadata";
  const plain = V6_CLASSES[range];
  if (plain !== undefined) return plain;
  // A translated form, of a public address too, is a way round an address check: it is called only where private is.
  if (inside.length > 0) return inside.every((one) => one === "never") ? "never" : "private";
  return range === "unicast" && address.match(GLOBAL_UNICAST) ? "public" : "never";
};

/** IPv6 text → address; undefined where it is none. A scope id makes it one of this machine's own links: none. */
const parseV6 = (text: string): ipaddr.IPv6 | undefined => {
  if (!text.includes(":") || text.includes("%") || !ipaddr.IPv6.isValid(text)) return undefined;
  // ipaddr.js reads `::8.8.8.8` as `::ffff:8.8.8.8`, and look-ups print such addresses so: WHATWG's form is hexadecimal.
  return ipaddr.IPv6.parse(text.includes(".") ? new URL(`http://[${text}]/`).hostname.slice(1, -1) : text);
};

/**
 * The class of a literal address, judged on its bytes. Anything that is not exactly dotted decimal or IPv6 (a scope id,
 * octal or short forms) is `never`: URLs are normalised by WHATWG parsing before, and look-ups give canonical text.
 */
export const classifyAddress = (text: string): AddressClass => {
  if (ipaddr.IPv4.isValidFourPartDecimal(text)) return classifyV4(ipaddr.IPv4.parse(text));
  const address = parseV6(text);
  return address === undefined ? "never" : classifyV6(address);
};

/** One spelling per address, for comparing with a list: `::FFFF:1.2.3.4` and `1.2.3.4` are the same target. */
export const canonicalAddress = (text: string): string => {
  if (ipaddr.IPv4.isValidFourPartDecimal(text)) return ipaddr.IPv4.parse(text).toString();
  const address = parseV6(text);
  if (address === undefined) return text;
  return address.isIPv4MappedAddress() ? address.toIPv4Address().toString() : address.toNormalizedString();
};
