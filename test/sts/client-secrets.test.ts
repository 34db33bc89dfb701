import assert from "node:assert/strict";
import { before, describe, it } from "node:test";
import { hashSecret } from "../../src/domain/secret-hash.ts";
import type { Clock } from "../../src/kernel/clock.ts";
import { type ClientSecrets, createClientSecrets, type SecretQuestion } from "../../src/sts/client-secrets.ts";

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
    stored = await hashSecret("right");
  });
  const ask = (secrets: ClientSecrets, some: Partial<SecretQuestion> = {}) =>
    secrets.verify({
      zone_id: "z",
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
    const other = await hashSecret("new");
    assert.deepEqual(await ask(secrets, { stored: other }), { status: "wrong" });
    assert.deepEqual(await ask(secrets, { stored: undefined }), { status: "wrong" });
  });

  it("fail five times per client and address; then everything is refused unhashed, the right one too, until time passes", async () => {
    const clock = handClock();
    const secrets = createClientSecrets(clock);
    await ask(secrets);
    for (let i = 0; i < 5; i += 1) assert.equal((await ask(secrets, { secret: `wrong${i}` })).status, "wrong");
    for (const secret of ["wrong9", "right"]) {
      assert.deepEqual(await ask(secrets, { secret }), { status: "throttled", retry_after_s: 12 });
    }
    assert.equal(
      (await ask(secrets, { address: "192.0.2.2" })).status,
      "verified",
      "another address is another's failures",
    );
    assert.equal(
      (await ask(secrets, { client_id: "other", secret: "right" })).status,
      "verified",
      "and another client",
    );
    clock.forward(12_000);
    assert.equal((await ask(secrets)).status, "verified");
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
    const results = await Promise.all(
      Array.from({ length: 110 }, (_, i) => ask(secrets, { client_id: `nobody${i}`, stored: undefined })),
    );
    assert.equal(results.filter((one) => one.status === "throttled").length, 10);
    assert.equal((await ask(secrets)).status, "verified");
    assert.equal((await ask(secrets, { client_id: "unseen" })).status, "throttled");
  });
});
