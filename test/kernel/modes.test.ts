import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { createModes } from "../../src/kernel/modes.ts";

describe("modes", () => {
  it("go where the table says, and nowhere else", () => {
    const door = createModes("the door", { open: ["shut"], shut: ["open", "locked"], locked: [] }, "open");
    assert.throws(() => door.go("locked"), /^Error: the door can't go from open to locked$/);
    assert.equal(door.now, "open");
    door.go("shut");
    door.go("locked");
    assert.equal(door.now, "locked");
    assert.throws(() => door.go("locked"), /from locked to locked/);
  });
});
