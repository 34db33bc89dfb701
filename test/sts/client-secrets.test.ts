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
      stored: [stored],
      latest: async () => some.stored ?? [stored],
      ...some,
    });

  it("are looked up anew before they are refused, so that neither a client nor a secret of a moment ago is a stranger", async () => {
    let looked = 0;
    const latest = async () => {
      looked += 1;
      return [stored];
    };
    const before = await hashSecret("before", "z");
    for (const known of [[], [before]]) {
      const secrets = createClientSecrets(handClock());
      looked = 0;
      assert.deepEqual(await ask(secrets, { stored: known, latest }), { status: "verified" });
      assert.deepEqual(await ask(secrets, { latest }), { status: "verified" });
      assert.equal(looked, 1, "what is remembered is not looked up");
    }
  });

  it("that are wrong cost one look-up, whether there is such a client or not, and right ones none", async () => {
    const secrets = createClientSecrets(handClock());
    let looked = 0;
    const looking = (found: readonly string[]) => async () => {
      looked += 1;
      return found;
    };
    await ask(secrets, { latest: looking([stored]) });
    assert.equal(looked, 0);
    await ask(secrets, { secret: "wrong", latest: looking([stored]) });
    assert.equal(looked, 1);
    await ask(secrets, { client_id: "nobody", stored: [], latest: looking([]) });
    assert.equal(looked, 2);
  });

  it("charge no failure for a look-up that showed the right one, nor for one that failed", async () => {
    const secrets = createClientSecrets(handClock());
    for (let i = 0; i < 8; i += 1) {
      const away = ask(secrets, { stored: [], latest: () => Promise.reject(new Error("away")) });
      await assert.rejects(away, /away/);
    }
    const made = { client_id: "made", stored: [], latest: async () => [stored] };
    for (let i = 0; i < 8; i += 1) assert.deepEqual(await ask(secrets, made), { status: "verified" });
    assert.deepEqual(await ask(secrets), { status: "verified" });
  });

  it("may be two of one client: both open, both are remembered, and the older one ends alone", async () => {
    const secrets = createClientSecrets(handClock());
    const both = [await hashSecret("new", "z"), stored];
    for (const secret of ["new", "right"]) {
      assert.deepEqual(await ask(secrets, { secret, stored: both }), { status: "verified" });
    }
    // Past the count of failures a secret passes only where it is remembered.
    for (let i = 0; i < 5; i += 1) await ask(secrets, { secret: `wrong${i}`, stored: both });
    assert.equal((await ask(secrets, { secret: "wrong9", stored: both })).status, "throttled");
    for (const secret of ["new", "right", "new", "right"]) {
      assert.deepEqual(await ask(secrets, { secret, stored: both }), { status: "verified" });
    }
    const left = both.slice(0, 1);
    assert.deepEqual(await ask(secrets, { secret: "new", stored: left }), { status: "verified" });
    assert.equal((await ask(secrets, { secret: "right", stored: left })).status, "throttled", "it is a stranger's now");
  });

  it("are right, or wrong, and an unknown or public client's are wrong like any other", async () => {
    const secrets = createClientSecrets(handClock());
    assert.deepEqual(await ask(secrets), { status: "verified" });
    assert.deepEqual(await ask(secrets, { secret: "wrong" }), { status: "wrong" });
    assert.deepEqual(await ask(secrets, { client_id: "nobody", stored: [] }), { status: "wrong" });
    assert.deepEqual(await ask(secrets, { client_id: "nobody", stored: [], secret: "" }), { status: "wrong" });
  });

  it("that were right once are known without another hash, until the stored one changes", async () => {
    const secrets = createClientSecrets(handClock());
    await ask(secrets);
    const started_ms = performance.now();
    for (let i = 0; i < 200; i += 1) assert.deepEqual(await ask(secrets), { status: "verified" });
    assert.ok(performance.now() - started_ms < 2_000, "200 hashes take at least 4 s");
    const other = await hashSecret("new", "z");
    assert.deepEqual(await ask(secrets, { stored: [other] }), { status: "wrong" });
    assert.deepEqual(await ask(secrets, { stored: [] }), { status: "wrong" });
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
    for (const [zone_exists, zoneOf] of [
      [true, () => "hostile"],
      [false, (i: number) => `invented${i}`],
    ] as const) {
      const secrets = createClientSecrets(handClock());
      const never = new Promise<readonly string[]>(() => {});
      const attempt = (i: number) => {
        const latest = () => never; // charged, and not hashed: the count is filled without a second of hashing
        return ask(secrets, { zone_id: zoneOf(i), zone_exists, client_id: `nobody${i}`, stored: [], latest });
      };
      for (let i = 0; i < 100; i += 1) void attempt(i);
      assert.equal((await attempt(100)).status, "throttled", "the count is full");
      assert.deepEqual(await ask(secrets), { status: "verified" }, "never seen, and it gets through");
    }
  });

  it("of 1 000 wrong log-ins at once: none is hashed, and who is right for the first time is let in among them", async () => {
    const secrets = createClientSecrets(handClock());
    const answers = Array.from({ length: 1_000 }, (_, i) =>
      ask(secrets, { client_id: `n${i % 10}`, address: `198.51.100.${i % 250}`, secret: `wrong${i}` }),
    );
    assert.deepEqual(await ask(secrets), { status: "verified" });
    const statuses = (await Promise.all(answers)).map(({ status }) => status);
    assert.deepEqual([...new Set(statuses)], ["wrong"], "a hash would have found its queue full");
  });

  it("are hashed in turn: a zone whose log-ins fill its share leaves places for another zone", async () => {
    const secrets = createClientSecrets(handClock());
    const flood = Array.from({ length: 90 }, (_, i) =>
      ask(secrets, { zone_id: "hostile", client_id: `n${i}`, address: `192.0.2.${i}` }),
    );
    let answered_before = 0;
    for (const one of flood) void one.then(({ status }) => (answered_before += status === "verified" ? 1 : 0));
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
      const ten = Array.from({ length: 10 }, (_, j) => ask(secrets, { client_id: `nobody${i + j}`, stored: [] }));
      results.push(...(await Promise.all(ten)));
    }
    assert.equal(results.filter((one) => one.status === "throttled").length, 10);
    assert.equal((await ask(secrets)).status, "verified");
    assert.equal((await ask(secrets, { client_id: "unseen" })).status, "throttled");
  });
});
