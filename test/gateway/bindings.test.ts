import assert from "node:assert/strict";
import { describe, it } from "node:test";
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
      rig.role.invalidated({ zone_id: "zone-1", kind: "resource", id: "a" });
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
});
