import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { setImmediate } from "node:timers/promises";
import fc from "fast-check";
import { Cancelling } from "../../src/kernel/cancel.ts";
import { createPlaces, type Places } from "../../src/kernel/places.ts";

const never = new Cancelling();
const small = (): Places =>
  createPlaces({ zone_max: 3, client_max: 2, waiting_max: 2, full: (limit) => new Error(`full: ${limit}`) });

/** Enters, and notes the name when there is a place. */
const entering = (places: Places, inside: string[], name: string, signal = never) => {
  const [zone_id = "", client_id = ""] = name.split("/");
  const entered = places.enter(zone_id, client_id, signal).then((leave) => {
    inside.push(name);
    return leave;
  });
  entered.catch(() => undefined);
  return entered;
};

describe("places of zones", () => {
  it("a client waits at its bound and a zone at its own; other clients and zones do not", async () => {
    const places = small();
    const inside: string[] = [];
    for (const name of ["a/x/1", "a/x/2", "a/x/3", "a/y/1", "a/y/2", "b/x/1"]) void entering(places, inside, name);
    await setImmediate();
    assert.deepEqual(inside, ["a/x/1", "a/x/2", "a/y/1", "b/x/1"]);
  });

  it("of those that wait each client gets a place in turn", async () => {
    const places = createPlaces({ zone_max: 1, client_max: 1, waiting_max: 9, full: () => new Error("full") });
    const inside: string[] = [];
    const all = ["a/x/1", "a/x/2", "a/x/3", "a/y/1", "a/y/2"].map((name) => entering(places, inside, name));
    for (const one of [0, 1, 3, 2, 4]) (await all[one])?.();
    assert.deepEqual(inside, ["a/x/1", "a/x/2", "a/y/1", "a/x/3", "a/y/2"]);
    assert.equal(places.zones, 0);
  });

  it("one too many is refused, and one who is gone waits no longer", async () => {
    const places = small();
    const inside: string[] = [];
    const gone = new Cancelling();
    const first = entering(places, inside, "a/x/1");
    void entering(places, inside, "a/x/2");
    const third = entering(places, inside, "a/x/3", gone);
    void entering(places, inside, "a/x/4");
    await assert.rejects(entering(places, inside, "a/x/5"), /full: 2/);
    gone.cancel();
    await assert.rejects(third, { code: "request_aborted" });
    await assert.rejects(entering(places, inside, "a/x/6", gone), { code: "request_aborted" });
    const leave = await first;
    leave();
    leave();
    await setImmediate();
    assert.deepEqual(inside, ["a/x/1", "a/x/2", "a/x/4"]);
  });

  it("whatever comes, goes and gives up, no bound is passed, nobody waits before a free place, and nothing is left", async () => {
    const step = fc.record({
      client: fc.constantFrom("a/x", "a/y", "a/z", "b/x"),
      act: fc.constantFrom("in", "in", "out", "gone"),
    });
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 60 }), async (steps) => {
        const places = createPlaces({ zone_max: 3, client_max: 2, waiting_max: 99, full: () => new Error("full") });
        const held: { readonly client: string; readonly leave: () => void }[] = [];
        const waiting: { readonly client: string; readonly signal: Cancelling }[] = [];
        for (const { client, act } of steps) {
          if (act === "in") {
            const one = { client, signal: new Cancelling() };
            waiting.push(one);
            const [zone_id = "", client_id = ""] = client.split("/");
            places.enter(zone_id, client_id, one.signal).then(
              (leave) => {
                waiting.splice(waiting.indexOf(one), 1);
                held.push({ client, leave });
              },
              () => waiting.splice(waiting.indexOf(one), 1),
            );
          }
          const at = held.findIndex((one) => one.client === client);
          if (act === "out" && at !== -1) held.splice(at, 1)[0]?.leave();
          if (act === "gone") waiting.find((one) => one.client === client)?.signal.cancel();
          await setImmediate();
          const of = (prefix: string): number => held.filter((one) => one.client.startsWith(prefix)).length;
          for (const one of waiting)
            assert.ok(of(one.client) === 2 || of(one.client.slice(0, 2)) === 3, `${one.client} waits for nothing`);
          for (const name of ["a/x", "a/y", "a/z", "b/x"]) assert.ok(of(name) <= 2);
          assert.ok(of("a/") <= 3);
        }
        while (held.length > 0) {
          held.pop()?.leave();
          await setImmediate();
        }
        assert.equal(places.zones, 0);
      }),
    );
  });
});
