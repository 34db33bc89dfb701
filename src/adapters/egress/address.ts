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

type Bytes = readonly number[];
/** One way to carry an IPv4 address in an IPv6 one: which addresses have that form, and what they carry. */
type Form = { readonly is: (bytes: Bytes) => boolean; readonly carries: (bytes: Bytes) => readonly ipaddr.IPv4[] };

const at = (bytes: Bytes, ...places: readonly number[]): ipaddr.IPv4 =>
  new ipaddr.IPv4(places.map((place) => bytes[place] as number));

/**
 * The forms that some router on the way may unwrap. Of NAT64 only who runs it knows how long its prefix is, and so where
 * the address stands (RFC 6052, 2.2): each place that the registered prefixes leave room for is looked at.
 */
const FORMS: readonly Form[] = [
  // IPv4-compatible (RFC 4291, 2.5.5.1); `::` and `::1` are told apart before.
  { is: (bytes) => zero(bytes, 0, 12), carries: (bytes) => [v4At(bytes, 12)] },
  // IPv4-translated (RFC 2765).
  {
    is: (bytes) => zero(bytes, 0, 8) && starts(bytes.slice(8), 0xff, 0xff, 0, 0),
    carries: (bytes) => [v4At(bytes, 12)],
  },
  // NAT64: the well-known /96 (RFC 6052), and the local /48 (RFC 8215), within which /48, /56, /64 and /96 are in use.
  {
    is: (bytes) => starts(bytes, 0, 0x64, 0xff, 0x9b),
    carries: (bytes) => [at(bytes, 6, 7, 9, 10), at(bytes, 7, 9, 10, 11), v4At(bytes, 9), v4At(bytes, 12)],
  },
  // 6to4 (RFC 3056).
  { is: (bytes) => starts(bytes, 0x20, 0x02), carries: (bytes) => [v4At(bytes, 2)] },
  // Teredo (RFC 4380): the server, and the client's own in reverse.
  { is: (bytes) => starts(bytes, 0x20, 0x01, 0, 0), carries: (bytes) => [v4At(bytes, 4), v4At(bytes, 12, 0xff)] },
  // ISATAP (RFC 5214, 6.1), under any prefix, that of another form too.
  {
    is: (bytes) => (bytes[8] === 0 || bytes[8] === 2) && starts(bytes.slice(9), 0, 0x5e, 0xfe),
    carries: (bytes) => [v4At(bytes, 12)],
  },
];

/** The IPv4 addresses that an IPv6 address carries. */
const carried = (bytes: Bytes): readonly ipaddr.IPv4[] =>
  FORMS.flatMap((form) => (form.is(bytes) ? form.carries(bytes) : []));

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
