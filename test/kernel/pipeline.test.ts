import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { check, commit, deny, load, pipeline } from "../../src/kernel/pipeline.ts";

type Start = { readonly wanted: number };

const loadLimit = (limit: number) => load("load_limit", async (_facts: Start) => ({ limit }));
const withinLimit = check("within_limit", (facts: { wanted: number; limit: number }) =>
  facts.wanted > facts.limit ? deny("over_limit", `wanted ${facts.wanted}`) : undefined,
);

describe("a pipeline", () => {
  it("adds each step's facts for the next and ends with all of them", async () => {
    const runner = pipeline<Start>().load(loadLimit(3)).check(withinLimit).seal();
    assert.deepEqual(await runner.run({ wanted: 2 }), { facts: { wanted: 2, limit: 3 } });
  });

  it("ends at the first denial, names its step and keeps the facts reached so far for the ledger", async () => {
    const written: number[] = [];
    const write = commit("write", (facts: { wanted: number }) => {
      written.push(facts.wanted);
      return { done: true };
    });
    const runner = pipeline<Start>().load(loadLimit(3)).check(withinLimit).commit(write).seal();
    const outcome = await runner.run({ wanted: 4 });
    assert.equal(outcome.step, "within_limit");
    assert.equal(outcome.denial?.reason, "over_limit");
    assert.equal(outcome.facts.limit, 3);
    assert.deepEqual(written, [], "nothing is committed behind a denial");
  });

  it("does not share facts between two runs", async () => {
    const runner = pipeline<Start>()
      .load(load("own", async (facts: Start) => ({ own: [facts.wanted] })))
      .seal();
    const [one, two] = await Promise.all([runner.run({ wanted: 1 }), runner.run({ wanted: 2 })]);
    assert.deepEqual([one.facts.own, two.facts.own], [[1], [2]]);
  });

  it("commits for the one reason that has an end of its own, and keeps what that added", async () => {
    const written: number[] = [];
    const note = commit("note", (facts: { wanted: number; limit: number }) => {
      written.push(facts.wanted - facts.limit);
      return { noted: `over by ${facts.wanted - facts.limit}` };
    });
    const positive = check("positive", (facts: { wanted: number }) =>
      facts.wanted < 0 ? deny("negative") : undefined,
    );
    const runner = pipeline<Start>()
      .load(loadLimit(3))
      .check(withinLimit)
      .denied("over_limit", note)
      .check(positive)
      .seal();
    const [over, negative, within] = await Promise.all([4, -1, 2].map((wanted) => runner.run({ wanted })));
    assert.deepEqual(written, [1], "neither another reason nor an allowed run commits");
    assert.deepEqual([over?.step, over?.denial?.reason], ["within_limit", "over_limit"]);
    assert.deepEqual(over?.facts, { wanted: 4, limit: 3, noted: "over by 1" });
    assert.deepEqual([negative?.denial?.reason, "noted" in (negative?.facts ?? {})], ["negative", false]);
    assert.deepEqual(within, { facts: { wanted: 2, limit: 3 } });
  });

  it("ends with the refusal of a refusal's commit: what could not be written is not told as if it were", async () => {
    const note = commit("note", (_facts: { wanted: number }) => deny("unwritten", "the database is away"));
    const runner = pipeline<Start>().load(loadLimit(3)).check(withinLimit).denied("over_limit", note).seal();
    const outcome = await runner.run({ wanted: 4 });
    assert.deepEqual([outcome.step, outcome.denial?.reason], ["note", "unwritten"]);
  });

  it("begins a run with every name that an earlier one had, and with none of its values", async () => {
    const seen: (readonly string[])[] = [];
    const look = load("look", (facts: Start) => {
      seen.push(Object.keys(facts));
      return { looked: facts.wanted };
    });
    const runner = pipeline<Start>().load(look).load(loadLimit(3)).seal();
    await runner.run({ wanted: 1 });
    const second = await runner.run({ wanted: 2 });
    assert.deepEqual(seen, [["wanted"], ["wanted", "looked", "limit"]]);
    assert.deepEqual(second.facts, { wanted: 2, looked: 2, limit: 3 });
  });

  it("lets a thrown error through: it is no denial", async () => {
    const failing = load("failing", async (_facts: Start): Promise<{ never: true }> => {
      throw new Error("the database is away");
    });
    await assert.rejects(pipeline<Start>().load(failing).seal().run({ wanted: 1 }), /database is away/);
  });

  it("does not compile with a check behind a commit, a fact that nobody added, or an end that fits no step", () => {
    const write = commit("write", (_facts: Start) => ({ done: true }));
    // @ts-expect-error a check whose fact nobody loaded
    pipeline<Start>().check(withinLimit);
    // @ts-expect-error a check behind a commit
    pipeline<Start>().load(loadLimit(1)).commit(write).check(withinLimit);
    // @ts-expect-error an end for a reason that no step gives
    pipeline<Start>().load(loadLimit(1)).denied("over_limit", write);
    // @ts-expect-error an end whose fact nobody loaded
    pipeline<{ readonly other: true }>().denied("over_limit", write);
    assert.deepEqual(pipeline<Start>().load(loadLimit(1)).check(withinLimit).seal().steps, [
      "load_limit",
      "within_limit",
    ]);
  });
});
