import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createServer, request } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { verifySecret } from "../../src/domain/secret-hash.ts";
import { killGroup, type Run } from "../support/program.ts";
import { type CliRig, startRig } from "./rig.ts";
import { writeZoneFile } from "./zone-file.ts";

describe("an apply", () => {
  let rig: CliRig;
  before(async () => {
    rig = await startRig();
    writeZoneFile(rig);
  });
  after(() => rig.close());

  it("that is killed after any of its changes is made whole by the same apply, and no client is left without its secret", async () => {
    // A hop that stands between: it lets the write through, and kills the program before it hears of it.
    let kill_at = 0;
    let writes = 0;
    let run: Run | undefined;
    const hop = createServer((incoming, outgoing) => {
      const target = new URL(incoming.url ?? "/", rig.api.url);
      const onward = request(target, { method: incoming.method, headers: incoming.headers }, (answer) => {
        if (incoming.method !== "GET") writes += 1;
        if (incoming.method !== "GET" && writes === kill_at) {
          answer.resume().on("end", () => killGroup(run?.pid ?? 0, "SIGKILL"));
          return;
        }
        outgoing.writeHead(answer.statusCode ?? 500, answer.headers);
        answer.pipe(outgoing);
      });
      onward.on("error", () => outgoing.destroy());
      incoming.pipe(onward);
    });
    await new Promise<void>((resolve) => hop.listen(0, "127.0.0.1", resolve));
    const url = `http://127.0.0.1:${(hop.address() as AddressInfo).port}`;
    try {
      let killed = 0;
      for (kill_at = 1; ; kill_at += 1) {
        writes = 0;
        const zone = await rig.zone();
        const out = join(rig.dir, `killed-${kill_at}.json`);
        const args = ["apply", "-f", join(rig.dir, "zone.yaml"), "--yes", "--secrets-out", out];
        run = zone.start(url, ...args);
        const end = await run.exited;
        if (end.signal !== "SIGKILL") break; // there are no more writes
        killed += 1;
        const whole = await zone.run(...args);
        assert.equal(whole.code, 0, `after write ${kill_at}: ${whole.stderr}`);
        assert.equal((await zone.run(...args)).stdout, "Nothing to do.\n", `after write ${kill_at}`);
        const secrets = JSON.parse(readFileSync(out, "utf8")) as Record<
          string,
          { client_id: string; client_secret: string }
        >;
        const rows = await rig.api.owner.sql<{ id: string; secret_hash: string }[]>`
          select id, secret_hash from applications where zone_id = ${zone.zone_id}`;
        assert.equal(rows.length, 2);
        for (const { client_id, client_secret } of Object.values(secrets)) {
          const stored = rows.find(({ id }) => id === client_id)?.secret_hash ?? "";
          assert.ok(await verifySecret(client_secret, stored, zone.zone_id), `after write ${kill_at}`);
        }
        assert.equal(Object.keys(secrets).length, 2);
      }
      // Six things, two policies with a version each, the set, its version and the activation.
      assert.equal(killed, 13);
    } finally {
      hop.close();
      hop.closeAllConnections();
    }
  });
});
