import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { after, afterEach, before, describe, it } from "node:test";
import type { RevocationPage } from "../../src/contracts/sts.ts";
import { deadLetterOf, STREAMS } from "../../src/contracts/streams.ts";
import { keyring } from "../../src/domain/keyring.ts";
import type { RevocationEvent } from "../../src/domain/revocation.ts";
import type { Clock } from "../../src/kernel/clock.ts";
import { START, type Streams } from "../../src/ports/streams.ts";
import { type Fields, signEntry } from "../../src/broadcast/envelope.ts";
import { createRevocations, type RevocationService } from "../../src/broadcast/revocations.ts";
import { headFields, messageFields } from "../../src/broadcast/sequence.ts";
import { createMemory } from "../../src/adapters/memory/index.ts";
import { type Backend, BACKENDS } from "../contract/backends.ts";
import { eventually } from "../support/eventually.ts";
import { quietLog } from "../support/quiet-log.ts";

const ring = keyring(randomBytes(32));
const NEVER_S = 4_000_000_000;

/** What the database would hold, and the dispatcher's way to the stream. */
const createTruth = (streams: Streams) => {
  const seqs = new Map<string, number>();
  const marks = new Map<string, Map<string, number>>();
  let snapshots = 0;
  let gate: Promise<void> = Promise.resolve();
  return {
    snapshots: () => snapshots,
    hold: (until: Promise<void>) => {
      gate = until;
    },
    /** Commits a change; resolves to the entry that the dispatcher would append. */
    commit(op: "revoke" | "resume", zone_id: string, id: string, expires_at = NEVER_S): Fields {
      const seq = (seqs.get(zone_id) ?? 0) + 1;
      seqs.set(zone_id, seq);
      const zone = marks.get(zone_id) ?? new Map<string, number>();
      marks.set(zone_id, zone);
      if (op === "revoke") zone.set(id, expires_at);
      else zone.delete(id);
      const fields = { op, kind: "session", id, expires_at: String(expires_at) };
      return signEntry(
        ring,
        STREAMS.revoke,
        messageFields(fields, { zone_id, seq, outbox_id: seq, at_ms: Date.now() }),
      );
    },
    send: (...entries: Fields[]) => streams.append(STREAMS.revoke, entries),
    /** The head that the dispatcher would send now. */
    headFields: (at_ms = Date.now()): Fields => {
      const total = [...seqs.values()].reduce((a, b) => a + b, 0);
      return signEntry(ring, STREAMS.revoke, headFields({ total, zones: seqs.size, at_ms }));
    },
    head(at_ms = Date.now()) {
      return streams.append(STREAMS.revoke, [this.headFields(at_ms)]);
    },
    async load(): Promise<RevocationPage> {
      snapshots += 1;
      const page = {
        at_ms: Date.now(),
        position: await streams.position(STREAMS.revoke),
        zones: [...seqs].map(([zone_id, seq]) => ({
          zone_id,
          seq,
          marks: [...(marks.get(zone_id) ?? [])].map(([id, expires_at]) => ({
            kind: "session" as const,
            id,
            expires_at,
          })),
        })),
      };
      await gate; // a slow answer: what happens from here on is in the stream only
      return page;
    },
  };
};

for (const [name, start] of Object.entries(BACKENDS)) {
  describe(`revocations on ${name}`, () => {
    let backend: Backend;
    let streams: Streams;
    let unique = 0;
    const services: RevocationService[] = [];
    before(async () => {
      backend = await start();
      streams = backend.streams;
    });
    afterEach(async () => {
      await Promise.all(services.splice(0).map((one) => one.stop(1000)));
      for (const stream of [STREAMS.revoke, deadLetterOf(STREAMS.revoke)]) {
        await streams.remove(
          stream,
          (await streams.range(stream, START, 1000)).map((entry) => entry.id),
        );
      }
    });
    after(() => backend.close());

    const follow = async (truth: ReturnType<typeof createTruth>, clock?: Clock) => {
      const anomalies: string[] = [];
      const log = quietLog();
      const service = createRevocations({
        streams: backend.another().streams,
        ring,
        owner: `reader-${++unique}`,
        loadSnapshot: truth.load,
        clock: clock ?? { now_ms: () => Date.now(), monotonic_ms: () => performance.now() },
        log,
        onAnomaly: (kind) => anomalies.push(kind),
      });
      services.push(service);
      await service.start((error) => assert.fail(String(error)));
      return { service, anomalies, log };
    };
    const revoked = (service: RevocationService, id: string, zone = "z1"): boolean =>
      service.revoked(zone, "session", id);

    it("knows at the start what was revoked before, and is not ready until then", async () => {
      const truth = createTruth(streams);
      truth.commit("revoke", "z1", "s1");
      let open = (): void => undefined;
      truth.hold(
        new Promise((resolve) => {
          open = resolve;
        }),
      );
      const { service } = await follow(truth);
      await eventually(() => truth.snapshots() > 0);
      assert.equal(service.age_ms(), Infinity);
      assert.notEqual(service.fault(), undefined);
      open();
      await eventually(() => assert.equal(service.fault(), undefined));
      assert.ok(revoked(service, "s1"));
      assert.ok(!revoked(service, "s1", "z2"));
      assert.ok(!service.revoked("z1", "grant", "s1"));
      assert.equal(service.size, 1);
      assert.ok(service.age_ms() < 5000);
    });

    it("shows every replica each revocation and each resumption, at once", async () => {
      const truth = createTruth(streams);
      const replicas = [await follow(truth), await follow(truth)];
      await eventually(() => assert.ok(replicas.every(({ service }) => service.fault() === undefined)));
      const events: RevocationEvent[] = [];
      replicas[0]?.service.onEvent((event) => events.push(event));
      await truth.send(truth.commit("revoke", "z1", "s1"), truth.commit("revoke", "z2", "s2"));
      for (const { service } of replicas) {
        await eventually(() => assert.ok(revoked(service, "s1") && revoked(service, "s2", "z2")), { timeout_ms: 1000 });
      }
      await truth.send(truth.commit("resume", "z1", "s1"));
      for (const { service } of replicas) await eventually(() => assert.ok(!revoked(service, "s1")));
      assert.deepEqual(
        events.map((event) => `${event.op} ${event.zone_id} ${event.id}`),
        ["revoke z1 s1", "revoke z2 s2", "resume z1 s1"],
      );
      assert.ok(replicas.every(({ anomalies }) => anomalies.length === 0));
      assert.equal(truth.snapshots(), 2);
    });

    it("ignores an old entry that is played again", async () => {
      const truth = createTruth(streams);
      const { service } = await follow(truth);
      await eventually(() => assert.equal(service.fault(), undefined));
      const revoke = truth.commit("revoke", "z1", "s1");
      await truth.send(revoke, truth.commit("resume", "z1", "s1"), revoke);
      await truth.send(truth.commit("revoke", "z1", "s2"));
      await eventually(() => assert.ok(revoked(service, "s2")));
      assert.ok(!revoked(service, "s1"));
    });

    it("acts on no forged entry, and puts it into the dead letters once", async () => {
      const truth = createTruth(streams);
      const replicas = [await follow(truth), await follow(truth)];
      await eventually(() => assert.ok(replicas.every(({ service }) => service.fault() === undefined)));
      const forger = keyring(randomBytes(32));
      const fields = { op: "revoke", kind: "session", id: "victim", expires_at: String(NEVER_S) };
      const forged = signEntry(
        forger,
        STREAMS.revoke,
        messageFields(fields, { zone_id: "z1", seq: 1, outbox_id: 1, at_ms: 1 }),
      );
      await truth.send(forged, { ...truth.commit("revoke", "z1", "s1"), id: "changed" }, { nonsense: "1" });
      await eventually(async () => assert.equal(await streams.length(deadLetterOf(STREAMS.revoke)), 3));
      await truth.send(truth.commit("revoke", "z2", "s2"));
      for (const { service, anomalies } of replicas) {
        await eventually(() => assert.ok(revoked(service, "s2", "z2")));
        assert.ok(!revoked(service, "victim") && !revoked(service, "changed"));
        assert.deepEqual(anomalies.filter((kind) => kind === "bad_signature").length, 3);
      }
      assert.equal(await streams.length(deadLetterOf(STREAMS.revoke)), 3);
    });

    it("notices a missing entry by the next number, and takes it from the snapshot", async () => {
      const truth = createTruth(streams);
      const { service, anomalies } = await follow(truth);
      await eventually(() => assert.equal(service.fault(), undefined));
      truth.commit("revoke", "z1", "stolen");
      await truth.send(truth.commit("revoke", "z1", "s2"));
      await eventually(() => assert.ok(revoked(service, "stolen") && revoked(service, "s2")));
      assert.deepEqual(anomalies, ["hole"]);
      assert.equal(truth.snapshots(), 2);
    });

    it("notices by the head that the last entry is missing, and takes it from the snapshot", async () => {
      const truth = createTruth(streams);
      const { service, anomalies } = await follow(truth);
      await eventually(() => assert.equal(service.fault(), undefined));
      truth.commit("revoke", "z1", "stolen");
      await truth.head();
      await eventually(() => assert.ok(revoked(service, "stolen")));
      await eventually(() => assert.equal(service.fault(), undefined));
      assert.deepEqual(anomalies, ["hole"]);
      await truth.head();
      await truth.send(truth.commit("revoke", "z1", "next"));
      await eventually(() => assert.ok(revoked(service, "next")));
      assert.equal(truth.snapshots(), 2);
    });

    it("enforces all that it knew while the snapshot behind a hole is loading, and what comes meanwhile", async () => {
      const truth = createTruth(streams);
      const { service } = await follow(truth);
      await eventually(() => assert.equal(service.fault(), undefined));
      await truth.send(truth.commit("revoke", "z1", "known"));
      await eventually(() => assert.ok(revoked(service, "known")));
      let open = (): void => undefined;
      truth.hold(
        new Promise((resolve) => {
          open = resolve;
        }),
      );
      truth.commit("revoke", "z1", "stolen");
      await truth.send(truth.commit("revoke", "z1", "meanwhile"));
      await eventually(() => assert.ok(revoked(service, "meanwhile")));
      assert.notEqual(service.fault(), undefined);
      await eventually(() => truth.snapshots() === 2);
      await truth.send(truth.commit("revoke", "z1", "later"));
      await eventually(() => assert.ok(revoked(service, "later")));
      const enforced: boolean[] = [];
      service.onSnapshot(() =>
        enforced.push(["known", "stolen", "meanwhile", "later"].every((id) => revoked(service, id))),
      );
      open();
      await eventually(() => assert.deepEqual(enforced, [true]));
      await truth.head();
      await eventually(() => assert.equal(service.fault(), undefined));
      for (const id of ["known", "stolen", "meanwhile", "later"]) assert.ok(revoked(service, id), id);
    });

    it("lets go of what was resumed during a hole once a head matched", async () => {
      const truth = createTruth(streams);
      const { service } = await follow(truth);
      await eventually(() => assert.equal(service.fault(), undefined));
      await truth.send(truth.commit("revoke", "z1", "s1"));
      await eventually(() => assert.ok(revoked(service, "s1")));
      truth.commit("resume", "z1", "s1");
      await truth.send(truth.commit("revoke", "z1", "s2"));
      await eventually(() => assert.equal(truth.snapshots(), 2));
      await eventually(async () => {
        await truth.head();
        assert.ok(!revoked(service, "s1"));
      });
      assert.ok(revoked(service, "s2"));
    });

    it("grows old without heads and is young again with one that matches", async () => {
      const truth = createTruth(streams);
      let offset_ms = 0;
      const { service } = await follow(truth, {
        now_ms: () => Date.now(),
        monotonic_ms: () => performance.now() + offset_ms,
      });
      await eventually(() => assert.equal(service.fault(), undefined));
      offset_ms += 30_000;
      assert.ok(service.age_ms() >= 30_000);
      await truth.head(Date.now() + offset_ms);
      await eventually(() => assert.ok(service.age_ms() < 5000));
    });

    it("is made no younger by a head that is played again, or held back: its signed time counts, not its place", async () => {
      const truth = createTruth(streams);
      let offset_ms = 0;
      const { service } = await follow(truth, {
        now_ms: () => Date.now(),
        monotonic_ms: () => performance.now() + offset_ms,
      });
      await eventually(() => assert.equal(service.fault(), undefined));
      const old = truth.headFields();
      await truth.send(old);
      offset_ms += 20_000;
      await truth.send(old);
      await truth.send(truth.commit("revoke", "z1", "marker")); // behind the head: once it is in force, the head was read
      await eventually(() => assert.ok(revoked(service, "marker")));
      assert.ok(service.age_ms() >= 20_000);
    });

    it("takes the snapshot when heads keep coming late, and is right again after the database's clock was set back", async () => {
      const truth = createTruth(streams);
      let offset_ms = 0;
      const { service } = await follow(truth, {
        now_ms: () => Date.now(),
        monotonic_ms: () => performance.now() + offset_ms,
      });
      await eventually(() => assert.equal(service.fault(), undefined));
      await truth.head();
      const before = truth.snapshots();
      offset_ms += 60_000;
      await truth.send(truth.headFields(), truth.headFields(), truth.headFields());
      await eventually(() => assert.ok(truth.snapshots() > before));
      await eventually(() => assert.equal(service.fault(), undefined));
      await truth.head();
      await eventually(() => assert.ok(service.age_ms() < 5_000));
    });

    it("forgets marks that no living token can have, and shows it in its size", async () => {
      const truth = createTruth(streams);
      const soon_s = Date.now() / 1000 + 0.3;
      truth.commit("revoke", "z1", "short", soon_s);
      truth.commit("revoke", "z1", "long");
      const { service } = await follow(truth);
      await eventually(() => assert.equal(service.size, 2));
      await eventually(() => assert.equal(service.size, 1), { timeout_ms: 5000 });
      assert.ok(revoked(service, "long"));
    });

    it("forgets no mark before its time when the wall clock is set an hour forward, or back", async () => {
      for (const [first_ms, then_ms] of [
        [0, 3_600_000],
        [3_600_000, 0],
      ] as const) {
        let offset_ms = first_ms;
        const truth = createTruth(streams);
        truth.commit("revoke", "z1", "minutes", Date.now() / 1000 + 600);
        truth.commit("revoke", "z1", "long");
        const { service } = await follow(truth, {
          now_ms: () => Date.now() + offset_ms,
          monotonic_ms: () => performance.now(),
        });
        offset_ms = then_ms;
        await eventually(() => assert.equal(service.size, 2));
        await truth.send(truth.commit("revoke", "z1", "past", Date.now() / 1000 - 1));
        await eventually(() => assert.ok(revoked(service, "past")));
        await eventually(() => assert.ok(!revoked(service, "past")), { timeout_ms: 5000 }); // a sweep looked at all of them
        assert.ok(revoked(service, "minutes"), `from ${first_ms} to ${then_ms}`);
      }
    });

    it("tries a snapshot again that can't be had", async () => {
      const truth = createTruth(streams);
      truth.commit("revoke", "z1", "s1");
      let failures = 2;
      const load = truth.load;
      truth.load = async () => {
        if (failures-- > 0) throw new Error("the STS is away");
        return load();
      };
      const { service } = await follow(truth);
      await eventually(() => assert.ok(revoked(service, "s1")));
    });

    it("puts a snapshot of many pages together, and replays what happened between them", async () => {
      const truth = createTruth(streams);
      const position = await streams.position(STREAMS.revoke);
      const pages: RevocationPage[] = [
        {
          position,
          zones: [{ zone_id: "z1", seq: 1, marks: [{ kind: "session", id: "a", expires_at: NEVER_S }] }],
          cursor: "2",
        },
        {
          position: "ignored",
          zones: [
            { zone_id: "z1", seq: 2, marks: [{ kind: "session", id: "b", expires_at: NEVER_S }] },
            { zone_id: "z2", seq: 0, marks: [] },
          ],
        },
      ];
      truth.commit("revoke", "z1", "a");
      const second = truth.commit("revoke", "z1", "c");
      truth.load = async () => {
        const page = pages.shift() as RevocationPage;
        return page;
      };
      await truth.send(second);
      const { service } = await follow(truth);
      await eventually(() => assert.ok(revoked(service, "a") && revoked(service, "b") && revoked(service, "c")));
      await truth.head();
      await eventually(() => assert.equal(service.fault(), undefined));
    });
  });
}

describe("a head that is read late", () => {
  it("makes nothing younger than it is itself", async () => {
    let offset_ms = 0;
    const clock: Clock = { now_ms: () => Date.now(), monotonic_ms: () => performance.now() + offset_ms };
    const { streams, close } = await createMemory({ clock });
    const truth = createTruth(streams);
    await truth.head();
    offset_ms += 60_000;
    let open = (): void => undefined;
    const held = new Promise<void>((resolve) => {
      open = resolve;
    });
    let matched = 0;
    const service = createRevocations({
      streams,
      ring,
      owner: "late",
      // The snapshot is as old as its asking; the place is before the head of a minute ago.
      loadSnapshot: async () => {
        await held;
        matched += 1;
        return { position: START, zones: [] };
      },
      clock,
      log: quietLog(),
    });
    await service.start(() => undefined);
    await eventually(() => assert.equal(service.age_ms(), Infinity));
    offset_ms += 20_000;
    open();
    await eventually(() => assert.equal(matched, 1));
    await eventually(() => assert.ok(service.age_ms() >= 20_000 && service.age_ms() < 40_000));
    await streams.append(STREAMS.revoke, [
      signEntry(ring, STREAMS.revoke, headFields({ total: 0, zones: 0, at_ms: Date.now() + 80_000 })),
    ]);
    await eventually(() => assert.ok(service.age_ms() < 5_000));
    await service.stop(1000);
    await close();
  });
});
