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
    const runner = pipeline<Start>().load(loadLimit(3)).check(withinLimit).seal({ limit: undefined });
    assert.deepEqual(await runner.run({ wanted: 2 }), { facts: { wanted: 2, limit: 3 } });
  });

  it("ends at the first denial, names its step and keeps the facts reached so far for the ledger", async () => {
    const written: number[] = [];
    const write = commit("write", (facts: { wanted: number }) => {
      written.push(facts.wanted);
      return { done: true };
    });
    const runner = pipeline<Start>()
      .load(loadLimit(3))
      .check(withinLimit)
      .commit(write)
      .seal({ limit: undefined, done: undefined });
    const outcome = await runner.run({ wanted: 4 });
    assert.equal(outcome.step, "within_limit");
    assert.equal(outcome.denial?.reason, "over_limit");
    assert.equal(outcome.facts.limit, 3);
    assert.deepEqual(written, [], "nothing is committed behind a denial");
  });

  it("does not share facts between two runs", async () => {
    const runner = pipeline<Start>()
      .load(load("own", async (facts: Start) => ({ own: [facts.wanted] })))
      .seal({ own: undefined });
    const [one, two] = await Promise.all([runner.run({ wanted: 1 }), runner.run({ wanted: 2 })]);
    assert.deepEqual([one.facts.own, two.facts.own], [[1], [2]]);
  });

  it("lets a thrown error through: it is no denial", async () => {
    const failing = load("failing", async (_facts: Start): Promise<{ never: true }> => {
      throw new Error("the database is away");
    });
    await assert.rejects(
      pipeline<Start>().load(failing).seal({ never: undefined }).run({ wanted: 1 }),
      /database is away/,
    );
  });

  it("does not compile with a check behind a commit, a fact that nobody added, or a blank that lacks one", () => {
    const write = commit("write", (_facts: Start) => ({ done: true }));
    // @ts-expect-error a check whose fact nobody loaded
    pipeline<Start>().check(withinLimit);
    // @ts-expect-error a check behind a commit
    pipeline<Start>().load(loadLimit(1)).commit(write).check(withinLimit);
    // @ts-expect-error a fact that the blank does not name
    pipeline<Start>().load(loadLimit(1)).seal({});
    assert.deepEqual(pipeline<Start>().load(loadLimit(1)).check(withinLimit).seal({ limit: undefined }).steps, [
      "load_limit",
      "within_limit",
    ]);
  });
});
