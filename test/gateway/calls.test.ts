import assert from "node:assert/strict";
import { beforeEach, describe, it } from "node:test";
import type { AuthorityIds } from "../../src/domain/revocation.ts";
import { createRunningCalls, type RunningCall, type RunningCalls } from "../../src/gateway/passage/calls.ts";
import { handRevocations } from "./rig.ts";

type Counted = RunningCall & { told: number };

describe("the index of running calls", () => {
  let hand: ReturnType<typeof handRevocations>;
  let calls: RunningCalls<Counted>;
  /** As the forwarder does: a call that is told leaves the index at once. */
  const begin = (sid: string, more: Partial<AuthorityIds> = {}): Counted => {
    const call: Counted = {
      zone_id: "zone-1",
      cut_by: { sid, ...more },
      places: undefined,
      told: 0,
      revoked() {
        this.told += 1;
        calls.remove(this);
      },
    };
    calls.add(call);
    return call;
  };
  beforeEach(() => {
    hand = handRevocations();
    calls = createRunningCalls(hand.revocations);
  });

  it("tells each call of what was revoked, once, and no other", () => {
    const of_one = [begin("s-1"), begin("s-1"), begin("s-1")];
    const of_edge = begin("s-2", { delegation_edge_id: "e-1", agent_session_id: "a-1" });
    const other = begin("s-3");
    const ended = begin("s-1");
    calls.remove(ended);
    calls.remove(ended);
    assert.equal(calls.size, 5);
    hand.revoke("session", "s-1");
    hand.revoke("session", "s-1");
    hand.revoke("delegation_edge", "e-1");
    assert.deepEqual(
      [...of_one, of_edge, other, ended].map(({ told }) => told),
      [1, 1, 1, 1, 0, 0],
    );
    assert.deepEqual(calls.all(), [other]);
  });

  it("tells a call of what was revoked anywhere on the way that its authority came", () => {
    const link = (n: number) => ({ application_id: "app", agent_session_id: `a-${n}`, delegation_edge_id: `e-${n}` });
    const root = { application_id: "app", agent_session_id: "a-0" };
    const through = () =>
      begin("s-1", { agent_session_id: "a-2", delegation_edge_id: "e-2", delegation_chain: [root, link(1), link(2)] });
    for (const [kind, id] of [
      ["agent_session", "a-0"],
      ["agent_session", "a-1"],
      ["delegation_edge", "e-1"],
      ["agent_session", "a-2"],
      ["delegation_edge", "e-2"],
      ["session", "s-1"],
    ] as const) {
      hand = handRevocations();
      calls = createRunningCalls(hand.revocations);
      const [call, other] = [through(), begin("s-2", { agent_session_id: "a-9" })];
      hand.revoke(kind === "agent_session" ? "delegation_edge" : "agent_session", id);
      assert.equal(call.told, 0, `${id} of another kind`);
      hand.revoke(kind, id);
      assert.deepEqual([call.told, other.told], [1, 0], id);
      assert.equal(calls.size, 1);
    }
  });

  it("does not take an id of one kind for one of another", () => {
    const call = begin("same", { grant_id: "same" });
    hand.revoke("agent_session", "same");
    assert.equal(call.told, 0);
    hand.revoke("grant", "same");
    assert.equal(call.told, 1);
    assert.equal(calls.size, 0);
  });

  it("asks all of them at a snapshot", () => {
    const one = begin("s-1");
    const two = begin("s-2");
    hand.snapshot("session", "s-2");
    assert.deepEqual([one.told, two.told], [0, 1]);
  });

  it("finds the calls of a session that comes back after thousands of others", () => {
    for (let round = 0; round < 3; round += 1) {
      for (let at = 0; at < 3_000; at += 1) calls.remove(begin(`s-${at}`));
      const call = begin("s-7");
      for (let at = 0; at < 3_000; at += 1) if (at !== 7) calls.remove(begin(`t-${round}-${at}`));
      const again = begin("s-7");
      calls.remove(call);
      assert.deepEqual(calls.all(), [again]);
      calls.remove(again);
    }
    const last = begin("s-7");
    hand.revoke("session", "s-7");
    assert.equal(last.told, 1);
  });
});
