import assert from "node:assert/strict";
import { describe, it } from "node:test";
import fc from "fast-check";
import { type DelegationEdge, MAX_HOPS, pathFault, pathOf } from "../../src/domain/delegation.ts";
import { idsOf, revokedBy } from "../../src/domain/revocation.ts";

const NOW_S = 1_000;
const SCOPES = ["a", "b", "c"];
const RESOURCES = ["r1", "r2"];

/** The parts of an edge that say what it gives. */
type Given = Pick<DelegationEdge, "scopes" | "resource_id" | "expires_at_s" | "max_hops">;

const given: fc.Arbitrary<Given> = fc.record({
  scopes: fc.uniqueArray(fc.constantFrom(...SCOPES)),
  resource_id: fc.constantFrom(null, ...RESOURCES),
  expires_at_s: fc.integer({ min: NOW_S - 1, max: NOW_S + 4 }),
  max_hops: fc.integer({ min: 1, max: 4 }),
});
/** Most lists that are drawn at random widen somewhere; of these each hop cuts down what it got, in most of its ways. */
const narrowing: fc.Arbitrary<readonly Given[]> = fc
  .tuple(given, fc.array(fc.tuple(given, fc.boolean()), { maxLength: 4 }))
  .map(([root, hops]) => {
    const list = [root];
    for (const [one, careless] of hops) {
      const parent = list.at(-1) as Given;
      list.push(
        careless
          ? one
          : {
              scopes: one.scopes.filter((scope) => parent.scopes.includes(scope)),
              resource_id: parent.resource_id ?? one.resource_id,
              expires_at_s: Math.min(one.expires_at_s, parent.expires_at_s),
              max_hops: Math.max(1, parent.max_hops - 1),
            },
      );
    }
    return list;
  });

const edgesOf = (list: readonly Given[]): DelegationEdge[] =>
  list.map((one, at) => ({
    ...one,
    id: `e${at}`,
    parent_edge_id: at === 0 ? null : `e${at - 1}`,
    source_session_id: `s${at}`,
    target_session_id: `s${at + 1}`,
    issuer_application_id: `app${at}`,
    receiver_application_id: `app${at + 1}`,
    ttl_s: null,
    edge_version: 1,
    constraints_json: {},
    revoked: false,
    source: { active: true, expires_at_s: NOW_S + 100 },
    budget: null,
  }));
const pathThrough = (edges: readonly DelegationEdge[]) => {
  const path = pathOf(edges, 7);
  assert.ok(path !== undefined);
  return path;
};

/**
 * The reference: authority as the plain set of all that may be done, and when, with it. An edge gives a set; who passes it on
 * may give no element that it did not get; and an edge that may be passed on n times more gives n − 1 to the next.
 */
const everything = (edge: Given): ReadonlySet<string> => {
  const all = new Set<string>();
  for (const scope of edge.scopes)
    for (const resource of [...RESOURCES, "another"])
      for (let at_s = NOW_S - 2; at_s < NOW_S + 6; at_s += 1)
        if ((edge.resource_id ?? resource) === resource && at_s < edge.expires_at_s)
          all.add(`${scope} ${resource} ${at_s}`);
  return all;
};

describe("a path of delegations", () => {
  it("holds exactly where the reference says so, and gives exactly what its last edge may", () => {
    let held = 0;
    fc.assert(
      fc.property(narrowing, (list) => {
        const sets = list.map(everything);
        const shrinks = sets.every((set, at) => at === 0 || [...set].every((one) => sets[at - 1]?.has(one)));
        const may = list.every(({ max_hops }, at) => max_hops >= list.length - at);
        const lives = list.every(({ expires_at_s }) => expires_at_s > NOW_S);
        const path = pathThrough(edgesOf(list));
        const holds = pathFault(path, NOW_S) === undefined;
        // What is refused though nothing was widened: an edge that gives nothing at all, or a depth that would never be used.
        if (holds) {
          held += 1;
          assert.ok(shrinks && may && lives);
          const { scopes, resource_id, expires_at_s } = path;
          assert.deepEqual(everything({ scopes, resource_id, expires_at_s, max_hops: 1 }), sets.at(-1));
        } else if (sets.every((set) => set.size > 0) && may && lives) {
          const counted = list.every(({ max_hops }, at) => at === 0 || max_hops < (list[at - 1]?.max_hops ?? 0));
          assert.ok(!shrinks || !counted, JSON.stringify(list));
        }
      }),
      { numRuns: 2_000 },
    );
    assert.ok(held > 100, `only ${held} paths held`);
  });

  const four = (): DelegationEdge[] =>
    edgesOf([4, 3, 2, 1].map((max_hops) => ({ scopes: ["a"], resource_id: null, expires_at_s: NOW_S + 10, max_hops })));
  const withOne = (at: number, some: Partial<DelegationEdge>) =>
    pathFault(pathThrough(four().map((edge, index) => (index === at ? { ...edge, ...some } : edge))), NOW_S);

  it("is over with any of its edges, whichever it is", () => {
    assert.equal(pathFault(pathThrough(four()), NOW_S), undefined);
    for (const at of [0, 1, 2, 3]) {
      assert.equal(withOne(at, { revoked: true }), "revoked");
      assert.equal(withOne(at, { source: { active: false, expires_at_s: NOW_S + 1 } }), "source_ended");
      assert.equal(withOne(at, { source: { active: true, expires_at_s: NOW_S } }), "source_ended");
      assert.equal(withOne(at, { expires_at_s: NOW_S }), "expired");
      const budget = { exchanges_max: 3, exchanges_used: 3, cost_max: null };
      assert.equal(withOne(at, { budget }), "budget_spent");
      assert.equal(withOne(at, { budget: { ...budget, exchanges_used: 2 } }), undefined);
      assert.equal(withOne(at, { budget: { ...budget, exchanges_max: null } }), undefined);
    }
  });

  it("is broken where its edges do not follow each other", () => {
    for (const at of [0, 1, 2, 3]) assert.equal(withOne(at, { parent_edge_id: "another" }), "broken");
    for (const at of [1, 2, 3]) {
      assert.equal(withOne(at, { source_session_id: "another" }), "broken");
      assert.equal(withOne(at, { parent_edge_id: null }), "broken");
    }
    assert.equal(pathOf([], 0), undefined);
  });

  it("is of ten edges at most, whatever its root allowed", () => {
    const long = (length: number) =>
      pathFault(
        pathThrough(
          edgesOf(
            Array.from({ length }, (_, at) => ({
              scopes: ["a"],
              resource_id: null,
              expires_at_s: NOW_S + 10,
              max_hops: 50 - at,
            })),
          ),
        ),
        NOW_S,
      );
    assert.equal(long(MAX_HOPS), undefined);
    assert.equal(long(MAX_HOPS + 1), "too_deep");
  });

  it("ends with the first of its edges and givers, and its mandates with the shortest time of an edge", () => {
    const edges = four();
    const [a, b, c, d] = edges as [DelegationEdge, DelegationEdge, DelegationEdge, DelegationEdge];
    const path = pathThrough([
      a,
      { ...b, ttl_s: 60 },
      { ...c, ttl_s: 30, source: { active: true, expires_at_s: NOW_S + 5 } },
      d,
    ]);
    assert.deepEqual([path.expires_at_s, path.ttl_s], [NOW_S + 5, 30]);
    assert.equal(pathThrough(edges).ttl_s, Infinity);
  });

  it("is in the token with everybody whom it came through, each of whom can end it", () => {
    const { chain, seen } = pathThrough(four());
    assert.deepEqual(seen.path, ["e0", "e1", "e2", "e3"]);
    const authority = { sid: "s", agent_session_id: "s4", delegation_edge_id: "e3", delegation_chain: chain };
    assert.deepEqual(idsOf(authority), ["s", "s4", "e3", "s0", "s1", "e0", "s2", "e1", "s3", "e2"]);
    for (const id of idsOf(authority)) {
      const by = { revoked: (_zone: string, _kind: string, one: string) => one === id };
      assert.notEqual(revokedBy(by, "z", authority), undefined, id);
    }
    assert.equal(revokedBy({ revoked: () => false }, "z", authority), undefined);
  });
});
