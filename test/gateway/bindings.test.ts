import assert from "node:assert/strict";
import { describe, it } from "node:test";
import type { BindingsPage } from "../../src/contracts/sts.ts";
import { type BindingTable, createBindings } from "../../src/gateway/known/bindings.ts";
import { createLog } from "../../src/kernel/log.ts";
import type { BindingsQuery } from "../../src/ports/sts.ts";
import { createRig, RESOURCE } from "./rig.ts";

const tick = async (rig: Awaited<ReturnType<typeof createRig>>): Promise<void> => {
  const service = rig.role.services.find((one) => one.name === "gateway-bindings") as unknown as {
    tick(): Promise<void>;
  };
  await service.tick();
};

describe("the bindings", () => {
  it("are asked for when they changed, and the last ones stay while the STS is away", async () => {
    const rig = await createRig();
    try {
      assert.equal(await rig.metric("bindings_loaded"), 1);
      assert.equal((await rig.call("/")).status, 200);
      rig.sts.bound = () => Promise.reject(new Error("away"));
      rig.role.invalidated({ zone_id: "zone-1", kind: "resource", id: "res-1" });
      await assert.rejects(tick(rig));
      assert.equal((await rig.call("/")).status, 200);
      rig.sts.bound = () => ({ version: "2", zones: [{ zone_id: "zone-1", resources: [] }] });
      rig.role.invalidationsLost();
      await tick(rig);
      assert.equal((await rig.call("/")).status, 403);
      assert.equal(await rig.metric("bindings_loaded"), 0);
      rig.sts.bound = () => ({
        version: "3",
        zones: [
          {
            zone_id: "zone-1",
            resources: [
              { id: "a", identifier: "resource://odd", upstream_url: "::no url" },
              { id: "b", identifier: RESOURCE, upstream_url: rig.upstream_origin },
            ],
          },
        ],
      });
      rig.role.invalidationsLost();
      await tick(rig);
      assert.equal(await rig.metric("bindings_loaded"), 1, "one that is no URL is left out");
    } finally {
      await rig.close();
    }
  });

  it("are a condition of readiness until they were read once", async () => {
    const rig = await createRig();
    try {
      assert.equal(await rig.role.ready.find((one) => one.name === "bindings")?.fault(), undefined);
      assert.equal(await rig.role.ready.find((one) => one.name === "marks")?.fault(), undefined);
    } finally {
      await rig.close();
    }
  });

  it("are asked for before a resource is refused, and where the STS is away nobody is told that there is none", async () => {
    const rig = await createRig();
    try {
      rig.sts.bound = () => ({ version: "2", zones: [{ zone_id: "zone-1", resources: [] }] });
      rig.role.invalidated({ zone_id: "zone-1", kind: "resource", id: "a" });
      await tick(rig);
      rig.sts.bound = () => Promise.reject(new Error("away"));
      const away = await rig.call("/");
      assert.equal(away.status, 503);
      assert.equal(((await away.json()) as { reason: string }).reason, "bindings_unavailable");
      const made = { id: "res-1", identifier: RESOURCE, upstream_url: rig.upstream_origin };
      rig.sts.bound = () => ({ zones: [{ zone_id: "zone-1", resources: [made] }] });
      assert.equal((await rig.call("/")).status, 200);
    } finally {
      await rig.close();
    }
  });

  it("of a zone that is too large are refused by themselves, and named so", async () => {
    const rig = await createRig();
    try {
      rig.sts.bound = () => ({ version: "2", zones: [{ zone_id: "zone-1", too_large: true, resources: [] }] });
      rig.role.invalidated({ zone_id: "zone-1", kind: "resource", id: "a" });
      await tick(rig);
      const refused = await rig.call("/");
      assert.equal(refused.status, 403);
      const body = (await refused.json()) as { reason: string; message: string };
      assert.equal(body.reason, "zone_too_large");
      assert.match(body.message, /4 MiB/);
    } finally {
      await rig.close();
    }
  });
});

describe("the table of bindings", () => {
  const zoneOf = (zone_id: string, ...ids: readonly string[]): BindingsPage["zones"][number] => ({
    zone_id,
    resources: ids.map((id) => ({ id, identifier: `resource://${id}`, upstream_url: `http://${id}.test/` })),
  });
  const make = () => {
    let now_ms = 1_000;
    const asked: BindingsQuery[] = [];
    const state = { answer: async (_query: BindingsQuery): Promise<BindingsPage | undefined> => undefined };
    const table = createBindings({
      sts: { bindings: (query) => (asked.push(query), state.answer(query)) },
      clock: { now_ms: () => now_ms, monotonic_ms: () => now_ms },
      log: createLog({ level: "silent" }),
    });
    return { table, asked, state, pass: (ms: number) => (now_ms += ms) };
  };
  const known = (table: BindingTable, ...ids: readonly string[]): boolean[] =>
    ids.map((id) => table.byId(`z-${id}`, id)?.upstream.href === `http://${id}.test/`);

  it("takes all pages, drops zones that none of them names, and asks for a version's change alone then", async () => {
    const { table, asked, state, pass } = make();
    const pages: Record<string, BindingsPage> = {
      first: { version: "1", zones: [zoneOf("z-a", "a"), zoneOf("z-b", "b")], cursor: "second" },
      second: { version: "1", zones: [zoneOf("z-c", "c")], cursor: "third" },
      third: { version: "1", zones: [zoneOf("z-d", "d")] },
    };
    state.answer = async (query) => pages["cursor" in query ? query.cursor : "first"];
    await table.worker.tick();
    assert.deepEqual(known(table, "a", "b", "c", "d"), [true, true, true, true]);
    assert.equal(table.size, 4);
    pass(30_001);
    state.answer = async () => ({ version: "2", zones: [zoneOf("z-b", "b"), zoneOf("z-e", "e")] });
    await table.worker.tick();
    assert.deepEqual(known(table, "a", "b", "c", "d", "e"), [false, true, false, false, true]);
    assert.equal(table.size, 2);
    assert.deepEqual(asked, [{ since: undefined }, { cursor: "second" }, { cursor: "third" }, { since: "1" }]);
  });

  it("keeps what it has where a later page is missing, takes what came, and begins again", async () => {
    const { table, state, pass } = make();
    state.answer = async () => ({ version: "1", zones: [zoneOf("z-a", "a"), zoneOf("z-c", "c")] });
    await table.worker.tick();
    pass(30_001);
    state.answer = async (query) => {
      if ("cursor" in query) throw new Error("away");
      return { version: "2", zones: [zoneOf("z-b", "b")], cursor: "second" };
    };
    await assert.rejects(table.worker.tick());
    assert.deepEqual(known(table, "a", "b", "c"), [true, true, true]);
    pass(1_001);
    state.answer = async (query) => {
      assert.deepEqual(query, { since: "1" }, "what was read in part is no version");
      return { version: "2", zones: [zoneOf("z-b", "b")] };
    };
    await table.worker.tick();
    assert.deepEqual(known(table, "a", "b", "c"), [false, true, false]);
  });

  it("reads a zone that changed alone, once a second at most, and another that fails holds it up once", async () => {
    const { table, asked, state, pass } = make();
    state.answer = async () => ({ version: "1", zones: [zoneOf("z-a", "old"), zoneOf("z-b", "b")] });
    await table.worker.tick();
    asked.length = 0;
    state.answer = async () => ({ zones: [zoneOf("z-a", "a")] });
    for (let change = 0; change < 5; change += 1) {
      table.refresh("z-a");
      await table.worker.tick();
    }
    assert.deepEqual(asked, [{ zone_id: "z-a" }]);
    assert.deepEqual(known(table, "a", "b"), [true, true]);
    pass(1_000);
    await table.worker.tick();
    assert.deepEqual(asked, [{ zone_id: "z-a" }, { zone_id: "z-a" }], "the last change was not lost");
    state.answer = async (query) => {
      if ("zone_id" in query && query.zone_id === "z-bad") throw new Error("unreadable");
      return { zones: [] };
    };
    table.refresh("z-bad");
    table.refresh("z-b");
    await assert.rejects(table.worker.tick());
    await assert.rejects(table.worker.tick());
    assert.deepEqual(known(table, "a", "b"), [true, false], "z-b is gone");
    assert.equal(table.knows("z-b"), false);
    pass(30_000);
    await table.worker.tick().catch(() => undefined);
    assert.deepEqual(
      asked.find((query) => "since" in query),
      { since: undefined },
      "the version from before is none of what is held now",
    );
  });

  it("asks anew for what a caller brings, after the question, once for all who asked before", async () => {
    const { table, asked, state } = make();
    state.answer = async () => ({ version: "1", zones: [zoneOf("z-a")] });
    await table.worker.tick();
    asked.length = 0;
    state.answer = async () => ({ zones: [zoneOf("z-a", "a")] });
    const [first, second] = await Promise.all([table.latest("z-a"), table.latest("z-a")]);
    assert.deepEqual([first, second, known(table, "a"), asked.length], [true, true, [true], 1]);
    state.answer = () => Promise.reject(new Error("away"));
    assert.equal(await table.latest("z-a"), false);
    assert.deepEqual(known(table, "a"), [true], "the last one stays");
  });

  it("asks about zones that it does not know at a rate that all of them share, and about those that it knows beside it", async () => {
    const { table, asked, state, pass } = make();
    state.answer = async () => ({ version: "1", zones: [zoneOf("z-a")] });
    await table.worker.tick();
    asked.length = 0;
    state.answer = async () => ({ zones: [] });
    const answers = await Promise.all(Array.from({ length: 150 }, (_, at) => table.latest(`z-${at}`)));
    assert.equal(answers.filter(Boolean).length, 100);
    assert.equal(asked.length, 100);
    state.answer = async () => ({ zones: [zoneOf("z-a", "a")] });
    assert.equal(await table.latest("z-a"), true);
    pass(1_000);
    state.answer = async () => ({ zones: [zoneOf("z-b", "b")] });
    assert.equal(await table.latest("z-b"), true);
    assert.deepEqual(known(table, "a", "b"), [true, true]);
  });

  it("never puts an answer in the place of one to a later question", async () => {
    const { table, state, pass } = make();
    state.answer = async () => ({ version: "1", zones: [zoneOf("z-a")] });
    await table.worker.tick();
    pass(30_001);
    let answerLate: (page: BindingsPage) => void = () => {};
    const late = new Promise<BindingsPage>((resolve) => (answerLate = resolve));
    state.answer = async (query) => ("zone_id" in query ? { zones: [zoneOf("z-a", "a")] } : late);
    const round = table.worker.tick();
    assert.equal(await table.latest("z-a"), true);
    answerLate({ version: "2", zones: [] });
    await round;
    assert.deepEqual([known(table, "a"), table.knows("z-a"), table.size], [[true], true, 1]);
  });

  it("reads all where more zones changed than it notes", async () => {
    const { table, asked, state } = make();
    state.answer = async () => ({ version: "1", zones: [] });
    await table.worker.tick();
    asked.length = 0;
    for (let at = 0; at < 5_000; at += 1) table.refresh(`z-${at}`);
    await table.worker.tick();
    assert.deepEqual(asked[0], { since: "1" });
    assert.equal(asked.length, 1_001);
  });
});
