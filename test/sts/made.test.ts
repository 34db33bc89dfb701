import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { hashSecret } from "../../src/domain/secret-hash.ts";
import { ALLOW_AGENTS, type Fixture, startFixture } from "./fixture.ts";

/** Nothing is announced here: what was committed is in the database, and nowhere else. */
describe("what was made works when the answer says so", () => {
  let f: Fixture;
  let zone: string;

  before(async () => {
    f = await startFixture({ dispatcher: false });
    zone = await f.newZone();
    await f.activate(zone, ALLOW_AGENTS);
    assert.equal((await f.ambient(zone, await f.newApplication(zone))).status, 200);
  });
  after(() => f.close());

  it("a client, a resource and a replaced secret, 20 times, at once", async () => {
    for (let i = 0; i < 20; i += 1) {
      const made = await f.newApplication(zone);
      const ambient = await f.ambient(zone, made);
      assert.equal(ambient.status, 200, JSON.stringify(ambient.body));
      const [first, second] = [await f.newResource(zone), await f.newResource(zone)];
      const token = String(ambient.body["access_token"]);
      assert.equal((await f.exchange(zone, made, token, first.identifier)).status, 200);
      assert.equal((await f.ambient(zone, made, { resource: second.identifier })).status, 200);
      const secret = `replaced-secret-${i}`;
      const secret_hash = await hashSecret(secret, zone);
      await f.control
        .sql`update applications set secret_hash = ${secret_hash} where zone_id = ${zone} and id = ${made.id}`;
      assert.equal((await f.ambient(zone, { ...made, secret })).status, 200);
    }
  });

  it("and a wrong secret or an unknown name is refused as ever, after the zone was read anew", async () => {
    const made = await f.newApplication(zone);
    assert.equal((await f.ambient(zone, made)).status, 200);
    const loads = await f.metric("sts_zone_loads_total");
    assert.equal((await f.ambient(zone, { ...made, secret: "wrong" })).status, 401);
    assert.equal((await f.ambient(zone, { ...made, id: "nobody" })).status, 401);
    assert.equal((await f.ambient(zone, made, { resource: "resource://nowhere" })).body["reason"], "resource_unknown");
    assert.ok((await f.metric("sts_zone_loads_total")) >= loads + 3);
  });
});
