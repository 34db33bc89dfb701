import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { createMemory, type Memory } from "../../src/adapters/memory/index.ts";
import { createPglite, type PgliteServer } from "../../src/adapters/pglite/index.ts";
import { createLease } from "../../src/adapters/postgres/lease.ts";
import { migrate } from "../../src/adapters/postgres/migrate.ts";
import { STREAMS } from "../../src/contracts/streams.ts";
import { keyring } from "../../src/domain/keyring.ts";
import { systemClock } from "../../src/kernel/clock.ts";
import type { Database } from "../../src/ports/database.ts";
import { START } from "../../src/ports/streams.ts";
import { createDispatcher } from "../../src/broadcast/dispatcher.ts";
import { enqueueInvalidation, enqueueRevocation } from "../../src/broadcast/outbox-store.ts";
import { quietLog } from "../support/quiet-log.ts";
import { eventually } from "../support/eventually.ts";

describe("the dispatcher without PostgreSQL and Redis", () => {
  let dir = "";
  let server: PgliteServer;
  let db: Database;
  let memory: Memory;
  before(async () => {
    dir = await mkdtemp(join(tmpdir(), "caracal-embedded-"));
    server = await createPglite({ dir: join(dir, "database") });
    db = server.database("outbox");
    await migrate(db);
    memory = await createMemory({ clock: systemClock });
  });
  after(async () => {
    await memory?.close();
    await server?.close();
    await rm(dir, { recursive: true, force: true });
  });

  it("numbers, sends, marks and gives up rows on the embedded database as on the real one", async () => {
    const log = quietLog();
    const dispatcher = createDispatcher({
      db,
      lease: createLease(db, "only"),
      streams: memory.streams,
      ring: keyring(randomBytes(32)),
      clock: systemClock,
      log,
    });
    await db.sql.begin(async (tx) => {
      await enqueueRevocation(tx, { op: "revoke", kind: "session", id: "s1", zone_id: "z1", expires_at: 1 });
      await enqueueRevocation(tx, { op: "revoke", kind: "session", id: "s2", zone_id: "z1", expires_at: 1 });
      await enqueueInvalidation(tx, STREAMS.config, { zone_id: "z1", kind: "resource", id: "r1" });
    });
    await db.sql`update outbox set fields_json = '[]', attempts = 9 where stream = ${STREAMS.config}`;
    await dispatcher.start(() => undefined);
    await eventually(async () => {
      const entries = await memory.streams.range(STREAMS.revoke, START, 100);
      assert.deepEqual(
        entries.flatMap((entry) => entry.fields["id"] ?? []),
        ["s1", "s2"],
      );
      assert.equal(entries.at(-1)?.fields["total"], "2");
    });
    await eventually(async () => {
      const rows = await db.sql<{ left: number; dead: number }[]>`
        select count(*) filter (where sent_at is null and dead_at is null)::int as left, count(dead_at)::int as dead from outbox`;
      assert.deepEqual({ ...rows[0] }, { left: 0, dead: 1 });
    });
    await dispatcher.stop(2000);
    assert.ok(!dispatcher.leads());
  });
});
