import assert from "node:assert/strict";
import { createMemory } from "../../src/adapters/memory/index.ts";
import { after, before, describe, it } from "node:test";
import { type Backend, BACKENDS } from "./backends.ts";

const LIFE_MS = 60_000;

for (const [name, start] of Object.entries(BACKENDS)) {
  describe(`marks on ${name}`, () => {
    let backend: Backend;
    let now_ms = 0;
    before(async () => {
      backend = await start();
      await backend.marks.prime();
      now_ms = Date.now() + 50; // behind the beginning of the memory, whatever the rounding
    });
    after(() => backend.close());

    it("marks an id once and sees it ever after, from any client", async () => {
      assert.equal(await backend.marks.once("jti", "a", now_ms, now_ms + LIFE_MS), "marked");
      assert.equal(await backend.marks.once("jti", "a", now_ms, now_ms + LIFE_MS), "seen");
      assert.equal(await backend.another().marks.once("jti", "a", now_ms, now_ms + LIFE_MS), "seen");
    });

    it("tells exactly one of many callers at the same instant that it was first", async () => {
      const clients = [backend.marks, backend.another().marks, backend.another().marks];
      const results = await Promise.all(
        Array.from({ length: 300 }, (_, i) =>
          (clients[i % 3] as Backend["marks"]).once("jti", "race", now_ms, now_ms + LIFE_MS),
        ),
      );
      assert.equal(results.filter((result) => result === "marked").length, 1);
      assert.equal(results.filter((result) => result === "seen").length, 299);
    });

    it("tells each of those at the same instant by its own id and time", async () => {
      const before_ms = now_ms - 3_600_000;
      const results = await Promise.all([
        backend.marks.once("jti", "mixed", now_ms, now_ms + LIFE_MS),
        backend.marks.once("jti", "mixed too old", before_ms, now_ms + LIFE_MS),
        backend.marks.once("jti", "mixed", now_ms, now_ms + LIFE_MS),
        backend.marks.once("jti", "mixed", before_ms, now_ms + LIFE_MS),
        backend.marks.once("jti", "mixed other", now_ms, now_ms + LIFE_MS),
      ]);
      assert.deepEqual(results, ["marked", "lost", "seen", "seen", "marked"]);
    });

    it("marks many more at once than fit one call, each once", async () => {
      const ids = Array.from({ length: 700 }, (_, i) => `many ${i % 350}`);
      const results = await Promise.all(ids.map((id) => backend.marks.once("jti", id, now_ms, now_ms + LIFE_MS)));
      assert.ok(results.slice(0, 350).every((one) => one === "marked"));
      assert.ok(results.slice(350).every((one) => one === "seen"));
    });

    it("keeps kinds apart", async () => {
      assert.equal(await backend.marks.once("jti", "kinds", now_ms, now_ms + LIFE_MS), "marked");
      assert.equal(await backend.marks.once("nonce", "kinds", now_ms, now_ms + LIFE_MS), "marked");
    });

    it("calls lost what was issued before the memory of marks began", async () => {
      const before_ms = now_ms - 3_600_000;
      assert.equal(await backend.marks.once("jti", "old", before_ms, before_ms + 2 * 3_600_000), "lost");
      assert.equal(await backend.marks.once("jti", "old", before_ms, before_ms + 2 * 3_600_000), "lost");
    });

    it("remembers an id beyond its expiry, for clocks that differ", async () => {
      assert.equal(await backend.marks.once("jti", "expired", now_ms, now_ms - 1), "marked");
      assert.equal(await backend.marks.once("jti", "expired", now_ms, now_ms - 1), "seen");
    });

    it("primes as often as asked without losing anything", async () => {
      assert.equal(await backend.marks.once("jti", "primed", now_ms, now_ms + LIFE_MS), "marked");
      await backend.marks.prime();
      assert.equal(await backend.marks.once("jti", "primed", now_ms, now_ms + LIFE_MS), "seen");
      assert.equal(await backend.marks.once("jti", "primed-2", now_ms, now_ms + LIFE_MS), "marked");
    });
  });
}

it("keeps marks in memory for as long as they are to be kept, however the wall clock is set", async () => {
  const began_ms = Date.now();
  let wall_ms = began_ms;
  let passed_ms = 0;
  const { marks } = await createMemory({ clock: { now_ms: () => wall_ms, monotonic_ms: () => passed_ms } });
  const once = () => marks.once("jti", "a", began_ms, began_ms + LIFE_MS);
  assert.equal(await once(), "marked");
  for (const jump_ms of [3_600_000, -3_600_000]) {
    wall_ms = began_ms + jump_ms;
    for (let i = 0; i < 8; i += 1) await marks.once("jti", `${jump_ms} ${i}`, wall_ms + 3_600_000, wall_ms + 3_601_000);
    assert.equal(await once(), "seen");
  }
  passed_ms += LIFE_MS + 120_000;
  assert.equal(await once(), "marked");
});
