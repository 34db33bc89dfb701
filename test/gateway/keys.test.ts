import assert from "node:assert/strict";
import { describe, it } from "node:test";
import type { JwksResponse } from "../../src/contracts/sts.ts";
import { createZoneKeys } from "../../src/gateway/known/keys.ts";
import { createLog } from "../../src/kernel/log.ts";
import { keyPair } from "./rig.ts";

const [one, two] = [keyPair("k1").jwk, keyPair("k2").jwk];
const MINUTE_MS = 60_000;

const make = () => {
  let now_ms = 1_000;
  const asked: string[] = [];
  const state: { answer: (zone_id: string) => Promise<JwksResponse | undefined> } = {
    answer: async () => ({ keys: [one] }),
  };
  const keys = createZoneKeys({
    sts: {
      jwks: (zone_id) => {
        asked.push(zone_id);
        return state.answer(zone_id);
      },
    },
    clock: { now_ms: () => now_ms, monotonic_ms: () => now_ms },
    log: createLog({ level: "silent" }),
  });
  return { keys, asked, state, pass: (ms: number) => (now_ms += ms) };
};
const isKey = (found: unknown): boolean => typeof found === "object";

describe("a zone's keys", () => {
  it("are read once for many, and then known at once", async () => {
    const { keys, asked } = make();
    const found = await Promise.all(Array.from({ length: 50 }, async () => keys.find("z", "k1")));
    assert.ok(found.every(isKey));
    assert.ok(!(keys.find("z", "k1") instanceof Promise));
    assert.equal(asked.length, 1);
  });

  it("are served while they are read again after 5 minutes, and not beyond 15", async () => {
    const { keys, asked, state, pass } = make();
    await keys.find("z", "k1");
    const version = keys.version("z");
    state.answer = async () => {
      throw new Error("away");
    };
    pass(5 * MINUTE_MS + 1);
    assert.ok(isKey(keys.find("z", "k1")), "at once, though stale");
    assert.equal(asked.length, 2);
    await new Promise(setImmediate);
    pass(9 * MINUTE_MS);
    assert.ok(isKey(keys.find("z", "k1")));
    await new Promise(setImmediate);
    assert.equal(keys.version("z"), version);
    pass(MINUTE_MS);
    assert.equal(keys.version("z"), -1);
    await new Promise(setImmediate);
    assert.equal(await keys.find("z", "k1"), "unavailable");
    state.answer = async () => ({ keys: [one] });
    pass(1_001);
    assert.ok(isKey(await keys.find("z", "k1")));
  });

  it("that do not exist, or come as an empty set, are never kept, and asked for at a bounded rate", async () => {
    const { keys, asked, state, pass } = make();
    for (const answer of [undefined, { keys: [] }]) {
      asked.length = 0;
      pass(2_000);
      state.answer = async () => answer;
      for (let at = 0; at < 100; at += 1) assert.equal(await keys.find("z", "k1"), "unknown");
      assert.equal(asked.length, 1);
    }
    state.answer = async () => ({ keys: [one] });
    pass(1_001);
    assert.ok(isKey(await keys.find("z", "k1")));
  });

  it("are asked for because of an unknown kid at most every 5 s", async () => {
    const { keys, asked, state, pass } = make();
    await keys.find("z", "k1");
    for (let at = 0; at < 100; at += 1) assert.equal(await keys.find("z", `forged-${at}`), "unknown");
    assert.equal(asked.length, 2);
    state.answer = async () => ({ keys: [two, one] });
    pass(5_001);
    const before = keys.version("z");
    assert.ok(isKey(await keys.find("z", "k2")));
    assert.notEqual(keys.version("z"), before, "what was verified before is verified again");
  });

  it("that are forgotten are not served as stale, nor brought back by an answer to an older question", async () => {
    const { keys, state, asked } = make();
    await keys.find("z", "k1");
    keys.forget("z");
    assert.equal(keys.version("z"), -1);
    let release = (_answer: JwksResponse): void => undefined;
    state.answer = () => new Promise((resolve) => (release = resolve));
    const pending = keys.find("z", "k1");
    keys.forget("z");
    state.answer = async () => ({ keys: [two] });
    release({ keys: [one] });
    assert.equal(await pending, "unknown", "k1 was withdrawn meanwhile");
    assert.ok(isKey(await keys.find("z", "k2")));
    assert.equal(asked.length, 3);
    keys.forgetAll();
    assert.equal(keys.version("z"), -1);
  });

  it("of one zone that hangs hold up no other", async () => {
    const { keys, state } = make();
    state.answer = (zone_id) => (zone_id === "slow" ? new Promise(() => undefined) : Promise.resolve({ keys: [one] }));
    void keys.find("slow", "k1");
    assert.ok(isKey(await keys.find("fast", "k1")));
  });

  it("that have verified a token stay, whatever zones are named in others", async () => {
    const { keys, asked } = make();
    const use = async (zone_id: string): Promise<void> => {
      assert.ok(isKey(await keys.find(zone_id, "k1")));
      assert.notEqual(keys.version(zone_id), -1);
    };
    for (let at = 0; at < 1_000; at += 1) await use(`used-${at}`);
    for (let at = 0; at < 5_000; at += 1) await keys.find(`named-${at}`, "k1");
    asked.length = 0;
    for (let at = 0; at < 1_000; at += 1) await use(`used-${at}`);
    assert.equal(asked.length, 0);
  });

  it("are held for 3 072 zones in use, those that were used last", async () => {
    const { keys, asked } = make();
    for (let at = 0; at < 4_000; at += 1) {
      await keys.find(`z${at}`, "k1");
      keys.version(`z${at}`);
      keys.version("z0");
    }
    asked.length = 0;
    for (const at of [0, 3_999, 4_000 - 3_071]) assert.ok(isKey(keys.find(`z${at}`, "k1")), String(at));
    assert.equal(keys.version("z1"), -1);
    assert.ok(isKey(await keys.find("z1", "k1")));
    assert.equal(asked.length, 1, "it costs one question");
  });

  it("of a flood of zones are asked for a few at a time, each once, and beyond a bound not at all", async () => {
    const { keys, state } = make();
    let running = 0;
    let most = 0;
    const answers: (() => void)[] = [];
    state.answer = (zone_id) =>
      new Promise((resolve) => {
        most = Math.max(most, (running += 1));
        answers.push(() => {
          running -= 1;
          resolve(zone_id === "z2" ? undefined : { keys: [one] });
        });
      });
    const found = Array.from({ length: 3_000 }, async (_, at) => keys.find(`z${at}`, "k1"));
    const all = Promise.all(found);
    for (let asked = 0; asked < 16 + 2_048; asked += 1) {
      while (answers.length === 0) await new Promise(setImmediate);
      answers.shift()?.();
    }
    const said = await all;
    assert.equal(most, 16);
    assert.equal(said.filter(isKey).length, 16 + 2_048 - 1);
    assert.equal(said[2], "unknown");
    assert.equal(said.filter((one) => one === "unavailable").length, 3_000 - 16 - 2_048);
  });
});
