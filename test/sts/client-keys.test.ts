import assert from "node:assert/strict";
import { describe, it } from "node:test";
import type { JwsKey, JwsVerdict } from "../../src/domain/jws.ts";
import { createLog } from "../../src/kernel/log.ts";
import { createClientKeys, type KeySource, KeysUnavailable } from "../../src/sts/known/client-keys.ts";
import { DocumentUnavailable } from "../../src/sts/known/documents.ts";
import { makeKey } from "../support/jwt.ts";

const KEY = makeKey("ES256", "known");
const SOURCE: KeySource = { from: "jwks_uri", url: "https://keys.test/jwks" };

/** By hand: the time, and what the hosts say. */
const byHand = () => {
  let now_ms = 1_000_000;
  const asked: string[] = [];
  let answer: () => Promise<unknown> = async () => ({ keys: [KEY.jwk] });
  const clock = { now_ms: () => now_ms, monotonic_ms: () => now_ms };
  const documents = {
    fetch: (zone_id: string, url: string) => {
      asked.push(`${zone_id} ${url}`);
      return answer();
    },
  };
  const keys = createClientKeys({ documents, clock, log: createLog({ level: "silent" }) });
  const by =
    (kid: string) =>
    (known: readonly JwsKey[]): JwsVerdict =>
      known.some((key) => key.kid === kid) ? "verified" : "unknown_key";
  return {
    asked,
    forward: (ms: number) => void (now_ms += ms),
    answers: (next: () => Promise<unknown>) => void (answer = next),
    ask: (kid: string, zone_id = "z", source: KeySource = SOURCE) => keys.judge(zone_id, source, by(kid)),
  };
};
const away = () => Promise.reject(new DocumentUnavailable("away"));

describe("the keys of clients", () => {
  it("are fetched again for a key that is not among them, no sooner than after 5 s, whatever keys are invented", async () => {
    const t = byHand();
    assert.equal(await t.ask("known"), "verified");
    for (let i = 0; i < 50; i += 1) assert.equal(await t.ask(`invented${i}`), "unknown_key");
    assert.equal(t.asked.length, 1);
    t.forward(5_000);
    for (let i = 0; i < 50; i += 1) assert.equal(await t.ask(`invented${i}`), "unknown_key");
    assert.equal(t.asked.length, 2);
    assert.equal(await t.ask("known"), "verified");
  });

  it("are fetched once for many who ask at once, and believed for 5 min, then asked for beside the answer", async () => {
    const t = byHand();
    const found = await Promise.all(Array.from({ length: 40 }, () => t.ask("known")));
    assert.deepEqual([...new Set(found)], ["verified"]);
    t.forward(299_999);
    await t.ask("known");
    assert.equal(t.asked.length, 1);
    t.forward(1);
    t.answers(() => new Promise(() => {}));
    assert.equal(await t.ask("known"), "verified", "nobody waits for the fetch");
    assert.equal(t.asked.length, 2);
  });

  it("are the last ones for 15 min while their host is away, and then none; it is asked later and later", async () => {
    const t = byHand();
    await t.ask("known");
    t.answers(away);
    t.forward(899_999);
    assert.equal(await t.ask("known"), "verified");
    await Promise.resolve();
    t.forward(1);
    await assert.rejects(t.ask("known"), KeysUnavailable);
    const at: number[] = [];
    for (let s = 0; s < 400; s += 1) {
      const before = t.asked.length;
      await assert.rejects(t.ask("known"), KeysUnavailable);
      if (t.asked.length > before) at.push(s);
      t.forward(1_000);
    }
    const pauses = at.slice(1).map((second, i) => second - (at[i] ?? 0));
    assert.deepEqual(pauses.slice(0, 7), [2, 4, 8, 16, 32, 60, 60]);
    t.answers(async () => ({ keys: [KEY.jwk] }));
    t.forward(60_000);
    assert.equal(await t.ask("known"), "verified");
  });

  it("are a zone's own: at most 64 of its log-ins wait for them, and another zone asks the same host itself", async () => {
    const t = byHand();
    let finish: (value: unknown) => void = () => {};
    t.answers(() => new Promise((resolve) => (finish = resolve)));
    const waiting = Array.from({ length: 64 }, () => t.ask("known"));
    await assert.rejects(t.ask("known"), KeysUnavailable);
    const finish_first = finish;
    t.answers(async () => ({ keys: [KEY.jwk] }));
    assert.equal(await t.ask("known", "other"), "verified");
    assert.deepEqual(t.asked, [`z ${SOURCE.url}`, `other ${SOURCE.url}`]);
    finish_first({ keys: [KEY.jwk] });
    assert.deepEqual([...new Set(await Promise.all(waiting))], ["verified"]);
    assert.equal(await t.ask("known"), "verified");
  });

  it("of an issuer are where its own metadata says, and nobody else's", async () => {
    const issuer: KeySource = { from: "issuer", url: "https://issuer.test/" };
    const t = byHand();
    const answers: unknown[] = [{ issuer: issuer.url, jwks_uri: "https://keys.test/all" }, { keys: [KEY.jwk] }];
    t.answers(async () => answers.shift());
    assert.equal(await t.ask("known", "z", issuer), "verified");
    assert.deepEqual(t.asked, ["z https://issuer.test/.well-known/openid-configuration", "z https://keys.test/all"]);
    const lying = byHand();
    lying.answers(async () => ({ issuer: "https://issuer.test", jwks_uri: "https://keys.test/all" }));
    await assert.rejects(lying.ask("known", "z", issuer), KeysUnavailable);
    assert.equal(lying.asked.length, 1);
  });
});
