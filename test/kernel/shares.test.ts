import assert from "node:assert/strict";
import { describe, it } from "node:test";
import fc from "fast-check";
import { createShares, type Share } from "../../src/kernel/shares.ts";

const taken = (shares: ReturnType<typeof createShares>, zone: string, client: string): Share => {
  const share = shares.take(zone, client);
  assert.ok(share.ok);
  return share;
};
const refused = (shares: ReturnType<typeof createShares>, zone: string, client: string): string => {
  const share = shares.take(zone, client);
  return share.ok ? "none" : share.bound;
};

describe("shares of a bound", () => {
  it("a client holds at most its share of its zone's, and another client of the zone still has its own", () => {
    const shares = createShares({ limit: 8, zone_share: 0.75, client_share: 0.5 });
    for (let count = 0; count < 4; count += 1) taken(shares, "a", "greedy");
    assert.equal(refused(shares, "a", "greedy"), "client");
    taken(shares, "a", "modest");
  });

  it("a zone holds at most its share, and another zone still has the rest", () => {
    const shares = createShares({ limit: 8, zone_share: 0.75, client_share: 0.5 });
    for (let count = 0; count < 6; count += 1) taken(shares, "a", `client-${count}`);
    assert.equal(refused(shares, "a", "one-more"), "zone");
    taken(shares, "b", "client");
    taken(shares, "b", "client");
    assert.equal(refused(shares, "b", "other"), "process");
  });

  it("a client of the same name in another zone is another client", () => {
    const shares = createShares({ limit: 4, zone_share: 0.5, client_share: 0.25 });
    taken(shares, "a", "same");
    assert.equal(refused(shares, "a", "same"), "client");
    taken(shares, "b", "same");
  });

  it("a zone that is alone may hold all where it is given all", () => {
    const shares = createShares({ limit: 3, zone_share: 1, client_share: 1 });
    for (let count = 0; count < 3; count += 1) taken(shares, "a", "client");
    assert.notEqual(refused(shares, "a", "client"), "none");
  });

  it("the smallest bound lets everybody hold one", () => {
    const shares = createShares({ limit: 1, zone_share: 0.75, client_share: 0.5 });
    taken(shares, "a", "client").release();
    taken(shares, "b", "client");
  });

  it("a place that is given back twice counts once", () => {
    const shares = createShares({ limit: 4, zone_share: 1, client_share: 1 });
    taken(shares, "a", "client");
    const share = taken(shares, "a", "client");
    share.release();
    share.release();
    assert.equal(shares.held, 1);
  });

  it("whatever is taken and given back, no bound is passed and nothing is remembered after the last", () => {
    const step = fc.record({
      zone: fc.constantFrom("a", "b", "c"),
      client: fc.constantFrom("x", "y"),
      take: fc.boolean(),
    });
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 9 }), fc.array(step, { maxLength: 60 }), (limit, steps) => {
        const shares = createShares({ limit, zone_share: 0.75, client_share: 0.5 });
        const zone_limit = Math.max(1, Math.floor(limit * 0.75));
        const client_limit = Math.max(1, Math.floor(limit * 0.5));
        const holding: { readonly zone: string; readonly client: string; readonly share: Share }[] = [];
        for (const { zone, client, take } of steps) {
          if (take) {
            const share = shares.take(zone, client);
            const of_zone = holding.filter((one) => one.zone === zone);
            const of_client = of_zone.filter((one) => one.client === client);
            const room = holding.length < limit && of_zone.length < zone_limit && of_client.length < client_limit;
            assert.equal(share.ok, room);
            if (share.ok) holding.push({ zone, client, share });
          } else holding.pop()?.share.release();
          assert.equal(shares.held, holding.length);
        }
        for (const { share } of holding) share.release();
        assert.equal(shares.held, 0);
        assert.equal(shares.zones, 0);
      }),
    );
  });
});
