import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { after, before, describe, it } from "node:test";
import { createPolicyEngine } from "../../src/adapters/opa/engine.ts";
import { uuidv7 } from "../../src/kernel/ids.ts";
import { createLog } from "../../src/kernel/log.ts";
import { Unavailable } from "../../src/ports/streams.ts";
import type { ZoneSnapshot } from "../../src/sts/known/snapshot.ts";
import { createSnapshots, type Snapshots } from "../../src/sts/known/snapshots.ts";
import { createSessions } from "../../src/sts/known/sessions.ts";
import { eventually } from "../support/eventually.ts";
import { ALLOW_AGENTS, type Fixture, startFixture } from "./fixture.ts";

describe("what the STS keeps in memory", () => {
  let f: Fixture;
  let zone: string;
  let at_ms = 1_000_000;
  let stream_age_ms = 0;
  const clock = { now_ms: () => at_ms, monotonic_ms: () => at_ms };

  before(async () => {
    f = await startFixture({ dispatcher: false });
    zone = await f.newZone();
    await f.activate(zone, ALLOW_AGENTS);
  });
  after(() => f.close());

  const create = (engine_gate: () => Promise<void> = async () => {}) => {
    let loads = 0;
    const real = createPolicyEngine({ budget_units: 50_000 });
    const snapshots = createSnapshots({
      db: f.db,
      engine: {
        load: async (wasm, zone_id) => {
          await engine_gate();
          return real.load(wasm, zone_id);
        },
      },
      clock,
      log: createLog({ level: "silent" }),
      streamAge_ms: () => stream_age_ms,
      onLoad: () => (loads += 1),
    });
    return { snapshots, loads: () => loads };
  };
  const applicationsIn = async (snapshots: Snapshots): Promise<number> =>
    ((await snapshots.get(zone)) as ZoneSnapshot).applications.size;

  describe("of a zone", () => {
    it("is read once for all who ask at the same time, and then not again while it is young and whole", async () => {
      const { snapshots, loads } = create();
      const all = await Promise.all(Array.from({ length: 50 }, async () => snapshots.get(zone)));
      assert.ok(all.every((one) => one === all[0]));
      assert.equal(loads(), 1);
      at_ms += 15_000;
      const warm = snapshots.get(zone);
      assert.ok(!(warm instanceof Promise), "at once, and not a tick later");
      assert.equal(loads(), 1);
    });

    it("is read again in the background before it is thirty seconds old, and waited for after", async () => {
      const { snapshots, loads } = create();
      await snapshots.get(zone);
      at_ms += 25_000;
      assert.ok(!(snapshots.get(zone) instanceof Promise));
      assert.equal(loads(), 2);
      await snapshots.get(zone);
      at_ms += 60_000;
      const waited = snapshots.get(zone);
      assert.ok(waited instanceof Promise);
      await waited;
    });

    it("is no older than a second while the stream is silent", async () => {
      const { snapshots, loads } = create();
      await snapshots.get(zone);
      stream_age_ms = Number.POSITIVE_INFINITY;
      at_ms += 1_001;
      assert.ok(snapshots.get(zone) instanceof Promise);
      await snapshots.get(zone);
      stream_age_ms = 0;
      assert.equal(loads(), 2);
    });

    it("is read anew for somebody who brings what it does not know, by one reading for all who ask at once", async () => {
      const { snapshots, loads } = create();
      await snapshots.get(zone);
      for (let made = 1; made <= 3; made += 1) {
        const { id } = await f.newApplication(zone); // nobody has announced it yet
        const found = await Promise.all(Array.from({ length: 50 }, () => snapshots.latest(zone)));
        assert.ok(found.every((one) => one?.applications.has(id)));
        assert.equal(loads(), 1 + made);
      }
    });

    it("is read anew after a reading that began before somebody asked", async () => {
      let open = (): void => {};
      const gate = new Promise<void>((resolve) => {
        open = resolve;
      });
      let wait = Promise.resolve();
      const { snapshots, loads } = create(() => wait);
      await snapshots.get(zone);
      wait = gate;
      snapshots.invalidate(zone, true);
      const { id } = await f.newApplication(zone);
      const asked = [snapshots.latest(zone), snapshots.latest(zone)];
      open();
      for (const one of asked) assert.ok((await one)?.applications.has(id));
      assert.equal(loads(), 3);
    });

    it("has a bounded time to be read anew, and who asks past it waits for the next reading", async () => {
      const { snapshots, loads } = create();
      await snapshots.get(zone);
      for (let i = 0; i < 50; i += 1) await snapshots.latest(zone); // the clock stands still: 10 ms each
      const { id } = await f.newApplication(zone);
      const began_ms = performance.now();
      for (let i = 0; i < 3; i += 1) assert.ok((await snapshots.latest(zone))?.applications.has(id));
      assert.ok(performance.now() - began_ms >= 50 + 100 - 5, "10 ms of reading are paid back in 50");
      assert.equal(loads(), 54);
    });

    it("is not kept where its reading began before an invalidation", async () => {
      let open = (): void => {};
      const gate = new Promise<void>((resolve) => {
        open = resolve;
      });
      let entered = (): void => {};
      const waiting = new Promise<void>((resolve) => {
        entered = resolve;
      });
      const { snapshots, loads } = create(() => {
        entered();
        return gate;
      });
      const before_change = await applicationsIn(create().snapshots);
      const reading = snapshots.get(zone);
      await waiting; // the zone's row has been read, its policy has not been loaded yet
      await f.newApplication(zone);
      snapshots.invalidate(zone, false);
      open();
      assert.equal(
        ((await reading) as ZoneSnapshot).applications.size,
        before_change + 1,
        "who waited gets what is true now",
      );
      assert.equal(await applicationsIn(snapshots), before_change + 1);
      assert.equal(loads(), 2);
    });

    it("is read again after an invalidation, of it or of everything", async () => {
      const { snapshots, loads } = create();
      await snapshots.get(zone);
      snapshots.invalidate(uuidv7(), false);
      assert.ok(!(snapshots.get(zone) instanceof Promise));
      snapshots.invalidate(zone, false);
      await snapshots.get(zone);
      snapshots.invalidateAll();
      await snapshots.get(zone);
      assert.equal(loads(), 3);
    });

    it("that does not exist is asked for once a second, and found as soon as it is made and announced", async () => {
      const { snapshots, loads } = create();
      const id = uuidv7();
      for (let i = 0; i < 10; i += 1) assert.equal(await snapshots.get(id), undefined);
      assert.equal(loads(), 1);
      await f.db.sql`insert into zones (id, slug, name) values (${id}, ${id}, 'late')`;
      assert.equal(await snapshots.get(id), undefined);
      snapshots.invalidate(id, false);
      assert.equal((await snapshots.get(id))?.zone_id, id);
    });

    it("keeps the number of its keys while they stay the same, so that verified tokens stay known", async () => {
      const { snapshots } = create();
      await snapshots.get(zone);
      const version = snapshots.keysVersion(zone);
      snapshots.invalidate(zone, false);
      await snapshots.get(zone);
      assert.equal(snapshots.keysVersion(zone), version);
      assert.equal(snapshots.keysVersion(uuidv7()), -1);
    });

    it("keeps the modules that it has, and loads again one that could not be had only after half a minute", async () => {
      let engine_loads = 0;
      let broken = true;
      const { snapshots } = create(async () => {
        engine_loads += 1;
        if (broken) throw new Error("no memory");
      });
      const isComplete = async (): Promise<boolean> => {
        snapshots.invalidate(zone, false);
        const { policy } = (await snapshots.get(zone)) as ZoneSnapshot;
        return policy.state === "active" && policy.members.every((member) => member.evaluator !== undefined);
      };
      assert.deepEqual([await isComplete(), await isComplete(), engine_loads], [false, false, 1]);
      broken = false;
      at_ms += 30_000;
      assert.deepEqual([await isComplete(), await isComplete(), engine_loads], [true, true, 2]);
    });

    it("that was invalidated during every reading answers those who wait, and is read again by the next", async () => {
      let loads = 0;
      let noisy = true;
      const snapshots = createSnapshots({
        db: f.db,
        engine: createPolicyEngine({ budget_units: 50_000 }),
        clock,
        log: createLog({ level: "silent" }),
        streamAge_ms: () => 0,
        onLoad: () => {
          loads += 1;
          if (noisy) snapshots.invalidate(zone, false);
        },
      });
      assert.equal((await snapshots.get(zone))?.zone_id, zone);
      assert.equal(loads, 3);
      noisy = false;
      const next = snapshots.get(zone);
      assert.ok(next instanceof Promise, "what was held is stale");
      await next;
      assert.ok(!(snapshots.get(zone) instanceof Promise));
      assert.equal(loads, 4);
    });

    it("with few modules stays when others come with many, and the one with most goes", async () => {
      const [heavy, heavier, third] = [await f.newZone(), await f.newZone(), await f.newZone()];
      const mib = async (zone_id: string, megabytes: number): Promise<void> => {
        const wasm = Buffer.alloc(megabytes * 1024 * 1024, 1);
        await f.activate(zone_id, { wasm, wasm_sha256: createHash("sha256").update(wasm).digest("hex") });
      };
      await mib(heavy, 4);
      await mib(heavier, 5);
      await mib(third, 3);
      const snapshots = createSnapshots({
        db: f.db,
        engine: { load: async () => ({ evaluate: () => ({ status: "failed", error: "", units: 0 }) }) },
        clock,
        log: createLog({ level: "silent" }),
        streamAge_ms: () => 0,
        module_bytes_max: 10 * 1024 * 1024,
      });
      for (const one of [zone, heavy, heavier, third]) await snapshots.get(one);
      const isHeld = (zone_id: string): boolean => snapshots.keysVersion(zone_id) !== -1;
      assert.deepEqual([zone, heavy, heavier, third].map(isHeld), [true, true, false, true]);
      assert.equal(((await snapshots.get(heavier)) as ZoneSnapshot).policy.state, "active");
    });

    it("is not asked for at the rate of requests while the database is away", async () => {
      const { snapshots, loads } = create();
      f.database.refuse();
      f.database.cutAll();
      try {
        for (let i = 0; i < 20; i += 1) await assert.rejects(async () => snapshots.get(zone), Unavailable);
        assert.equal(loads(), 1);
        at_ms += 251;
        await assert.rejects(async () => snapshots.get(zone), Unavailable);
        assert.equal(loads(), 2);
      } finally {
        f.database.heal();
        await eventually(() => f.db.ping());
      }
    });
  });

  describe("of a session", () => {
    const insert = async (): Promise<string> => {
      const id = uuidv7();
      const application = await f.newApplication(zone);
      await f.db.sql`insert into sessions (zone_id, id, client_id, subject, sub_type, expires_at)
        values (${zone}, ${id}, ${application.id}, ${application.id}, 'application', now() + interval '1 hour')`;
      return id;
    };
    const create_sessions = () => {
      let reads = 0;
      const state = { age_ms: 0, marks: new Set<string>() };
      const sessions = createSessions({
        db: f.db,
        revocations: {
          revoked: (_zone_id, kind, id) => state.marks.has(`${kind} ${id}`),
          age_ms: () => state.age_ms,
          size: 0,
          onEvent: () => () => {},
          onSnapshot: () => () => {},
        },
        clock,
        onRead: () => (reads += 1),
      });
      return { sessions, state, reads: () => reads };
    };

    it("is read once while the stream is whole, and the mark is asked for each time", async () => {
      const { sessions, state, reads } = create_sessions();
      const id = await insert();
      await Promise.all(Array.from({ length: 20 }, async () => sessions.get(zone, id)));
      at_ms += 600_000;
      const found = sessions.get(zone, id);
      assert.ok(found !== undefined && !(found instanceof Promise) && !found.marked);
      state.marks.add(`session ${id}`);
      const marked = sessions.get(zone, id);
      assert.ok(marked !== undefined && !(marked instanceof Promise) && marked.marked);
      assert.equal(reads(), 1);
    });

    it("sees a mark that comes while the row is being read", async () => {
      const { sessions, state } = create_sessions();
      const id = await insert();
      const reading = sessions.get(zone, id);
      state.marks.add(`session ${id}`);
      assert.equal((await reading)?.marked, true);
    });

    it("is read again once it is a second old while the stream is silent, and is revoked by its row then", async () => {
      const { sessions, state, reads } = create_sessions();
      const id = await insert();
      await sessions.get(zone, id);
      state.age_ms = 3_001;
      await f.db.sql`update sessions set revoked_at = now() where zone_id = ${zone} and id = ${id}`;
      at_ms += 1_000;
      assert.equal((await sessions.get(zone, id))?.session.revoked, true);
      assert.equal(reads(), 2);
    });

    it("of another zone can't be named", async () => {
      const { sessions } = create_sessions();
      const id = await insert();
      assert.equal(await sessions.get(uuidv7(), id), undefined);
    });
  });
});
