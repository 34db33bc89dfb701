import assert from "node:assert/strict";
import { before, describe, it } from "node:test";
import { hashSecret } from "../../src/domain/secret-hash.ts";
import type { Clock } from "../../src/kernel/clock.ts";
import {
  type ClientSecrets,
  createClientSecrets,
  type SecretQuestion,
  type SecretResult,
} from "../../src/sts/known/client-secrets.ts";

const handClock = (): Clock & { forward(ms: number): void } => {
  let at_ms = 1_000_000;
  return {
    now_ms: () => at_ms,
    monotonic_ms: () => at_ms,
    forward(ms) {
      at_ms += ms;
    },
  };
};

describe("client secrets", () => {
  let stored = "";
  before(async () => {
    stored = await hashSecret("right", "z");
  });
  const ask = (secrets: ClientSecrets, some: Partial<SecretQuestion> = {}) =>
    secrets.verify({
      zone_id: "z",
      zone_exists: true,
      client_id: "app",
      address: "192.0.2.1",
      secret: "right",
      stored,
      latest: async () => ("stored" in some ? some.stored : stored),
      ...some,
    });

  it("are looked up anew before they are hashed, so that a client of a moment ago is no stranger", async () => {
    const secrets = createClientSecrets(handClock());
    let looked = 0;
    const latest = async () => {
      looked += 1;
      return stored;
    };
    assert.deepEqual(await ask(secrets, { stored: undefined, latest }), { status: "verified" });
    assert.deepEqual(await ask(secrets, { latest }), { status: "verified" });
    assert.equal(looked, 1, "what is remembered is not looked up");
  });

  it("are right, or wrong, and an unknown or public client's are wrong like any other", async () => {
    const secrets = createClientSecrets(handClock());
    assert.deepEqual(await ask(secrets), { status: "verified" });
    assert.deepEqual(await ask(secrets, { secret: "wrong" }), { status: "wrong" });
    assert.deepEqual(await ask(secrets, { client_id: "nobody", stored: undefined }), { status: "wrong" });
    assert.deepEqual(await ask(secrets, { client_id: "nobody", stored: undefined, secret: "" }), { status: "wrong" });
  });

  it("that were right once are known without another hash, until the stored one changes", async () => {
    const secrets = createClientSecrets(handClock());
    await ask(secrets);
    const started_ms = performance.now();
    for (let i = 0; i < 200; i += 1) assert.deepEqual(await ask(secrets), { status: "verified" });
    assert.ok(performance.now() - started_ms < 2_000, "200 hashes take at least 4 s");
    const other = await hashSecret("new", "z");
    assert.deepEqual(await ask(secrets, { stored: other }), { status: "wrong" });
    assert.deepEqual(await ask(secrets, { stored: undefined }), { status: "wrong" });
  });

  it("fail five times per client and address; then one that was never right here is refused unhashed until time passes", async () => {
    const clock = handClock();
    const secrets = createClientSecrets(clock);
    for (let i = 0; i < 5; i += 1) assert.equal((await ask(secrets, { secret: `wrong${i}` })).status, "wrong");
    for (const secret of ["wrong9", "right"]) {
      assert.deepEqual(await ask(secrets, { secret }), { status: "throttled", retry_after_s: 12 });
    }
    const elsewhere = await ask(secrets, { address: "192.0.2.2", client_id: "other" });
    assert.equal(elsewhere.status, "verified", "another address is another's failures");
    clock.forward(12_000);
    assert.equal((await ask(secrets)).status, "verified");
  });

  it("that were right before pass whatever strangers at the same address did", async () => {
    const secrets = createClientSecrets(handClock());
    await ask(secrets);
    for (let i = 0; i < 6; i += 1) await ask(secrets, { secret: `wrong${i}` });
    assert.equal((await ask(secrets, { secret: "wrong9" })).status, "throttled");
    assert.deepEqual(await ask(secrets), { status: "verified" });
    assert.equal((await ask(secrets, { secret: "wrong9" })).status, "throttled", "and clear no count of theirs");
  });

  it("of one zone lock out no client of another zone at the same address, and invented zones are counted as one", async () => {
    const secrets = createClientSecrets(handClock());
    const failures = (zone_exists: boolean, zoneOf: (i: number) => string) =>
      Promise.all(
        Array.from({ length: 140 }, (_, i) =>
          ask(secrets, { zone_id: zoneOf(i), zone_exists, client_id: `nobody${i}`, stored: undefined }),
        ),
      );
    const of_one = await failures(true, () => "hostile");
    const of_none = await failures(false, (i) => `invented${i}`);
    for (const results of [of_one, of_none]) {
      assert.ok(results.filter((one) => one.status === "throttled" || one.status === "busy").length >= 40);
    }
    assert.deepEqual(await ask(secrets), { status: "verified" }, "never seen, and it gets through");
  });

  it("are hashed in turn: a zone whose attempts fill its share leaves places for another zone", async () => {
    const secrets = createClientSecrets(handClock());
    const flood = Array.from({ length: 90 }, (_, i) =>
      ask(secrets, { zone_id: "hostile", client_id: `n${i}`, address: `192.0.2.${i}`, secret: `w${i}` }),
    );
    let answered_before = 0;
    for (const one of flood) void one.then(({ status }) => (answered_before += status === "wrong" ? 1 : 0));
    assert.deepEqual(await ask(secrets), { status: "verified" });
    assert.ok(answered_before <= 5, `${answered_before} of the flood went first`);
    assert.ok(
      (await Promise.all(flood)).some((one) => one.status === "busy"),
      "what is over the share is refused",
    );
  });

  it("are charged before they are hashed, so that many at once don't all get through", async () => {
    const secrets = createClientSecrets(handClock());
    const results = await Promise.all(Array.from({ length: 40 }, (_, i) => ask(secrets, { secret: `wrong${i}` })));
    assert.equal(results.filter((one) => one.status === "wrong").length, 5);
    assert.equal(results.filter((one) => one.status === "throttled").length, 35);
  });

  it("cost a client that starts with many calls at once one hash", async () => {
    const secrets = createClientSecrets(handClock());
    const results = await Promise.all(Array.from({ length: 100 }, () => ask(secrets)));
    assert.ok(results.every((one) => one.status === "verified"));
  });

  it("fail a hundred times per address, whatever client ids are invented, and a known client is not locked out by that", async () => {
    const secrets = createClientSecrets(handClock());
    await ask(secrets);
    const results: SecretResult[] = [];
    for (let i = 0; i < 110; i += 10) {
      const ten = Array.from({ length: 10 }, (_, j) =>
        ask(secrets, { client_id: `nobody${i + j}`, stored: undefined }),
      );
      results.push(...(await Promise.all(ten)));
    }
    assert.equal(results.filter((one) => one.status === "throttled").length, 10);
    assert.equal((await ask(secrets)).status, "verified");
    assert.equal((await ask(secrets, { client_id: "unseen" })).status, "throttled");
  });
});
