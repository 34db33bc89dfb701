import assert from "node:assert/strict";
import { describe, it } from "node:test";
import fc from "fast-check";
import ipaddr from "ipaddr.js";
import {
  type AddressClass,
  classifyAddress,
  createEgress,
  type EgressOptions,
} from "../../../src/adapters/egress/index.ts";
import type { EgressRefusal } from "../../../src/ports/egress.ts";

const TABLE: Readonly<Record<AddressClass, readonly string[]>> = {
  public: [
    "8.8.8.8",
    "1.1.1.1",
    "172.15.255.255",
    "172.32.0.1",
    "192.167.1.1",
    "100.63.0.1",
    "100.128.0.1",
    "2606:4700::1111",
    "2a00:1450:4001::1",
    "::ffff:8.8.8.8",
  ],
  private: [
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.0.1",
    "100.64.0.1",
    "198.18.0.1",
    "fd00::1",
    "fc00::1",
    "::ffff:10.0.0.1",
    "64:ff9b::10.0.0.1",
    "64:ff9b::8.8.8.8",
    "2002:a00:1::1",
    "2002:808:808::1",
    "2001:0:808:808::f5ff:fffe",
    "::8.8.8.8",
    "2a00::5efe:10.0.0.1",
    "2a00::200:5efe:10.0.0.1",
  ],
  loopback: ["127.0.0.1", "127.255.255.254", "::1", "::ffff:127.0.0.1", "::ffff:7f00:1"],
  metadata: [
    "169.254.169.254",
    "169.254.170.2",
    "169.254.0.1",
    "168.63.129.16",
    "100.100.100.200",
    "192.0.0.192",
    "fd00:ec2::254",
    "fd20:ce::254",
    "fe80::1",
    "fe80::a9fe:a9fe",
    "::ffff:169.254.169.254",
    "::ffff:a9fe:a9fe",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::a9fe:a9fe",
    "64:ff9b:1:a9fe:a9:fe00::",
    "64:ff9b:1:a9fe:00a9:fe00:1:2",
    "64:ff9b:1:ffa9:fe:a9fe::",
    "64:ff9b:1:ffff:a9:fea9:fe00:0",
    "64:ff9b:1:a83f:81:1000::",
    "2002:808:808::5efe:a9fe:a9fe",
    "2001:0:808:808:0:5efe:a9fe:a9fe",
    "2002:a9fe:a9fe::",
    "2001:0:1:1::5601:5601",
    "fd00::5efe:169.254.169.254",
    "::169.254.169.254",
  ],
  never: [
    "0.0.0.0",
    "0.1.2.3",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "192.0.2.1",
    "198.51.100.1",
    "203.0.113.1",
    "192.88.99.1",
    "::",
    "ff02::1",
    "2001:db8::1",
    "100::1",
    "3fff::1",
    "5f00::1",
    "4000::1",
    "2001:20::1",
    "fe80::1%eth0",
    "1.2.3",
    "0x7f.1",
    "017700000001",
    "127.1",
    "010.0.0.1",
    "host",
    "",
  ],
};

describe("an address", () => {
  for (const [kind, addresses] of Object.entries(TABLE)) {
    for (const address of addresses)
      it(`${address || "(none)"} is ${kind}`, () => assert.equal(classifyAddress(address), kind));
  }

  const v4 = fc.tuple(fc.nat(255), fc.nat(255), fc.nat(255), fc.nat(255));

  it("of IPv4 has the same class in its mapped form, in every spelling", () => {
    fc.assert(
      fc.property(v4, (bytes) => {
        const plain = bytes.join(".");
        const hex = bytes.map((byte) => byte.toString(16).padStart(2, "0"));
        assert.equal(classifyAddress(`::ffff:${plain}`), classifyAddress(plain));
        assert.equal(classifyAddress(`0:0:0:0:0:FFFF:${hex[0]}${hex[1]}:${hex[2]}${hex[3]}`), classifyAddress(plain));
      }),
      { numRuns: 3_000 },
    );
  });

  it("that carries an IPv4 address in any translated form is never public", () => {
    fc.assert(
      fc.property(
        v4,
        fc.constantFrom("64:ff9b::", "64:ff9b:1::", "2002", "teredo", "isatap", "compat", "::ffff:0:"),
        (bytes, form) => {
          const hex = bytes.map((byte) => byte.toString(16).padStart(2, "0"));
          const pair = `${hex[0]}${hex[1]}:${hex[2]}${hex[3]}`;
          const flipped = bytes.map((byte) => (byte ^ 0xff).toString(16).padStart(2, "0"));
          const forms: Record<string, string> = {
            "2002": `2002:${pair}::1`,
            teredo: `2001:0:4136:e378:8000:63bf:${flipped[0]}${flipped[1]}:${flipped[2]}${flipped[3]}`,
            isatap: `2a00:1:2:3:0:5efe:${pair}`,
            compat: `::${pair}`,
          };
          const text = forms[form] ?? `${form}${pair}`;
          assert.notEqual(classifyAddress(text), "public", text);
          if (classifyAddress(bytes.join(".")) === "metadata") assert.equal(classifyAddress(text), "metadata", text);
        },
      ),
      { numRuns: 3_000 },
    );
  });

  it("is public only where the registry's ranges say unicast", () => {
    fc.assert(
      fc.property(
        fc.oneof(
          v4.map((bytes) => bytes.join(".")),
          fc.ipV6(),
        ),
        (text) => {
          if (!ipaddr.isValid(text) || classifyAddress(text) !== "public") return;
          assert.equal(ipaddr.process(text).range(), "unicast", text);
        },
      ),
      { numRuns: 5_000 },
    );
  });
});

const names: Readonly<Record<string, readonly string[]>> = {
  "public.test": ["8.8.8.8", "2606:4700::1111"],
  "private.test": ["10.0.0.1"],
  "mixed.test": ["8.8.8.8", "127.0.0.1"],
  "meta.test": ["169.254.169.254"],
  "loop.test": ["::1"],
  "empty.test": [],
};

const guard = (over: Partial<EgressOptions> = {}) => {
  const asked: string[] = [];
  let now_ms = 1_000;
  const egress = createEgress({
    allow_private: false,
    allow_loopback: false,
    allowlist: [],
    production: false,
    clock: { now_ms: () => now_ms, monotonic_ms: () => now_ms },
    resolver: async (name) => {
      asked.push(name);
      const found = names[name];
      if (found === undefined) throw new Error("ENOTFOUND");
      return found;
    },
    ...over,
  });
  const judge = async (url: string): Promise<EgressRefusal | "allowed"> => {
    const result = await egress.check(new URL(url), "zone");
    return "refused" in result ? result.refused : "allowed";
  };
  return { egress, judge, asked, pass: (ms: number) => (now_ms += ms) };
};

describe("the guard", () => {
  it("lets public targets through and refuses everything else, in every spelling that a URL has for it", async () => {
    const { judge } = guard();
    assert.equal(await judge("https://public.test/x"), "allowed");
    assert.equal(await judge("http://8.8.8.8:8080/"), "allowed");
    assert.equal(await judge("http://[2606:4700::1111]/"), "allowed");
    for (const host of [
      "127.0.0.1",
      "127.1",
      "0x7f.1",
      "0177.0.0.1",
      "2130706433",
      "0x7f000001",
      "017700000001",
      "127.0.0.1.",
      "[::1]",
      "[::ffff:127.0.0.1]",
      "[::ffff:7f00:1]",
      "10.0.0.1",
      "0",
      "[::]",
      "１２７.0.0.1",
      "127。0。0。1",
    ]) {
      assert.equal(await judge(`http://${host}/`), "address_refused", host);
    }
    for (const host of [
      "169.254.169.254",
      "2852039166",
      "0xa9fea9fe",
      "[::ffff:169.254.169.254]",
      "[64:ff9b::169.254.169.254]",
      "[fd00:ec2::254]",
      "168.63.129.16",
      "meta.test",
    ]) {
      assert.equal(await judge(`http://${host}/`), "metadata_address", host);
    }
    for (const host of ["private.test", "mixed.test", "loop.test"])
      assert.equal(await judge(`http://${host}/`), "address_refused");
    for (const host of ["empty.test", "unknown.test"])
      assert.equal(await judge(`http://${host}/`), "name_not_resolved");
    for (const url of ["ftp://public.test/", "file:///etc/passwd", "javascript:1", "ws://public.test/"])
      assert.equal(await judge(url), "scheme_refused");
    assert.equal(await judge("http://user:secret@public.test/"), "url_refused");
  });

  it("in development lets loopback through and no other private address", async () => {
    const { judge } = guard({ allow_loopback: true });
    for (const host of ["127.0.0.1", "[::1]", "loop.test"])
      assert.equal(await judge(`http://${host}/`), "allowed", host);
    for (const host of ["10.0.0.1", "192.168.1.1", "[fd00::1]", "0.0.0.0"])
      assert.equal(await judge(`http://${host}/`), "address_refused", host);
    assert.equal(await judge("http://169.254.169.254/"), "metadata_address");
    assert.equal(await judge("http://mixed.test/"), "allowed", "both of its addresses may be called");
  });

  it("with private upstreams allowed still refuses metadata, unless the address itself is listed", async () => {
    const open = guard({ allow_private: true });
    for (const host of ["10.0.0.1", "127.0.0.1", "[fd00::1]", "private.test"])
      assert.equal(await open.judge(`http://${host}/`), "allowed", host);
    for (const host of ["169.254.169.254", "meta.test", "[fe80::1]"])
      assert.equal(await open.judge(`http://${host}/`), "metadata_address", host);
    for (const host of ["0.0.0.0", "224.0.0.1", "[ff02::1]"])
      assert.equal(await open.judge(`http://${host}/`), "address_refused", host);
    const by_name = guard({ allow_private: true, allowlist: ["meta.test"] });
    assert.equal(
      await by_name.judge("http://meta.test/"),
      "metadata_address",
      "who owns the name could point it there",
    );
    const by_address = guard({ allowlist: ["169.254.169.254"] });
    assert.equal(await by_address.judge("http://169.254.169.254/"), "allowed");
  });

  it("with a list takes exactly what is on it", async () => {
    const { judge } = guard({ allowlist: ["Public.test", "8.8.8.8:8443", "[2606:4700::1111]"] });
    for (const url of [
      "http://public.test/",
      "https://PUBLIC.test.:9/",
      "https://8.8.8.8:8443/",
      "http://[2606:4700:0::1111]/",
    ])
      assert.equal(await judge(url), "allowed", url);
    for (const url of [
      "https://8.8.8.8/",
      "https://x.public.test/",
      "https://public.test.evil.test/",
      "https://1.1.1.1/",
    ])
      assert.equal(await judge(url), "host_not_listed", url);
  });

  it("in production wants https, or a listed host; and private addresses only for listed hosts", async () => {
    const plain = guard({ production: true, allow_private: true });
    assert.equal(await plain.judge("http://public.test/"), "scheme_refused");
    assert.equal(await plain.judge("https://public.test/"), "allowed");
    assert.equal(await plain.judge("https://private.test/"), "address_refused");
    const listed = guard({ production: true, allow_private: true, allowlist: ["private.test"] });
    assert.equal(await listed.judge("http://private.test/"), "allowed");
  });

  it("believes an answer for a moment only, asks once for many, and again for a name that has moved", async () => {
    const moving: Record<string, readonly string[]> = { "moving.test": ["8.8.8.8"] };
    let asked = 0;
    const { judge, pass } = guard({
      resolver: async (name) => {
        asked += 1;
        return moving[name] ?? [];
      },
    });
    await Promise.all(Array.from({ length: 20 }, () => judge("http://moving.test/")));
    assert.equal(asked, 1);
    moving["moving.test"] = ["127.0.0.1"];
    assert.equal(
      await judge("http://moving.test/"),
      "allowed",
      "the checked address is what is dialled, whatever the name says now",
    );
    pass(5_001);
    assert.equal(await judge("http://moving.test/"), "address_refused");
    assert.equal(asked, 2);
  });

  it("gives a target whose address is one that it judged", async () => {
    const { egress } = guard();
    const target = await egress.check(new URL("https://public.test:8443/x?y"), "zone");
    assert.ok(!("refused" in target));
    assert.deepEqual(
      { ...target },
      {
        origin: "https://public.test:8443",
        protocol: "https:",
        hostname: "public.test",
        port: 8443,
        addresses: ["8.8.8.8", "2606:4700::1111"],
      },
    );
  });
});
