import assert from "node:assert/strict";
import type { IncomingMessage } from "node:http";
import { describe, it } from "node:test";
import { createAddressReader } from "../../src/sts/edge/address.ts";

const from = (remoteAddress: string, forwarded?: string): IncomingMessage =>
  ({
    socket: { remoteAddress },
    headers: forwarded === undefined ? {} : { "x-forwarded-for": forwarded },
  }) as unknown as IncomingMessage;

describe("a caller's address", () => {
  it("is the peer's: nobody's word about others is believed", () => {
    const addressOf = createAddressReader([], () => {});
    assert.equal(addressOf(from("192.0.2.1", "10.0.0.1")), "192.0.2.1");
    assert.equal(addressOf(from("::ffff:192.0.2.1")), "192.0.2.1");
  });

  it("counts IPv6 by its /64", () => {
    const addressOf = createAddressReader([], () => {});
    assert.equal(addressOf(from("2001:db8:1:2:3:4:5:6")), "2001:db8:1:2::/64");
    assert.equal(addressOf(from("2001:DB8:1:2::9")), addressOf(from("2001:db8:1:2:ffff::1")));
    assert.notEqual(addressOf(from("2001:db8:1:3::1")), addressOf(from("2001:db8:1:2::1")));
    assert.equal(addressOf(from("::1")), "0:0:0:0::/64");
    assert.equal(addressOf(from("fe80::1%eth0")), "fe80:0:0:0::/64");
  });

  it("is told by a proxy that is trusted, from the right, past other trusted ones", () => {
    const addressOf = createAddressReader(["10.0.0.0/8", "2001:db8::1"], () => {});
    assert.equal(addressOf(from("10.0.0.1", "198.51.100.7")), "198.51.100.7");
    assert.equal(addressOf(from("10.0.0.1", "203.0.113.66, 198.51.100.7, 10.2.3.4")), "198.51.100.7");
    assert.equal(addressOf(from("2001:db8::1", "198.51.100.7")), "198.51.100.7");
    assert.equal(addressOf(from("192.0.2.1", "198.51.100.7")), "192.0.2.1");
    for (const nonsense of ["", "unknown", "198.51.100.7:80", "10.0.0.2"])
      assert.equal(addressOf(from("10.0.0.1", nonsense)), "10.0.0.1");
  });

  it("is reported where a peer that is no trusted proxy sends X-Forwarded-For", () => {
    for (const trusted of [[], ["10.0.0.0/8"]]) {
      const told: string[] = [];
      const addressOf = createAddressReader(trusted, (peer) => told.push(peer));
      addressOf(from("192.0.2.1", "198.51.100.7"));
      addressOf(from("192.0.2.1"));
      if (trusted.length > 0) addressOf(from("10.0.0.1", "198.51.100.7"));
      assert.deepEqual(told, ["192.0.2.1"]);
    }
  });
});
