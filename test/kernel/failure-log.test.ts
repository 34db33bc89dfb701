import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { createFailureLog } from "../../src/kernel/failure-log.ts";
import { createLog } from "../../src/kernel/log.ts";

describe("failures that callers bring about", () => {
  it("are one line a second and key, which says how many were left out", () => {
    let now_ms = 0;
    const lines: { readonly level: string; readonly n: number; readonly not_logged: number }[] = [];
    const log = createLog({ level: "warn", destination: { write: (line) => void lines.push(JSON.parse(line)) } });
    const failures = createFailureLog(log, { now_ms: () => now_ms, monotonic_ms: () => now_ms });
    for (let n = 0; n < 50; n += 1) failures("warn", "one", { n }, "it failed");
    failures("error", "other", { n: 0 }, "it failed");
    now_ms = 999;
    failures("warn", "one", { n: 50 }, "it failed");
    now_ms = 1_000;
    failures("warn", "one", { n: 51 }, "it failed");
    assert.deepEqual(
      lines.map(({ level, n, not_logged }) => [level, n, not_logged]),
      [
        ["warn", 0, 0],
        ["error", 0, 0],
        ["warn", 51, 50],
      ],
    );
  });
});
