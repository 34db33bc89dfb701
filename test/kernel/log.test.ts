import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { createLog, scrub } from "../../src/kernel/log.ts";
import { Problem } from "../../src/kernel/problem.ts";

const JWT = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhZ2VudCJ9.c2lnbmF0dXJlLW9mLXRoZS10b2tlbg";

const logged = (facts: object, message = "something happened"): string => {
  const lines: string[] = [];
  createLog({ level: "debug", destination: { write: (line) => void lines.push(line) } }).info(facts, message);
  return lines.join("");
};

describe("the log", () => {
  it("never shows a value whose name says that it is a secret, at any depth", () => {
    for (const name of [
      "authorization",
      "client_secret",
      "access_token",
      "token",
      "password",
      "ZONE_KEK",
      "private_key",
      "cookie",
    ]) {
      const line = logged({ outer: { [name]: "hunter2hunter2" } });
      assert.ok(!line.includes("hunter2"), `${name} was logged`);
      assert.ok(line.includes("[secret]"));
    }
  });

  it("never shows a token or a URL's password, wherever it stands", () => {
    const error = new Error(`refused: Bearer ${JWT}`, {
      cause: new Problem(500, "x", `postgres://caracal:hunter2@db/x and ${JWT}`),
    });
    const line = logged({ note: `it was ${JWT}`, list: [`Basic dXNlcjpodW50ZXIy`], err: error });
    for (const secret of [JWT, "eyJzdWIiOiJhZ2VudCJ9", "hunter2", "dXNlcjpodW50ZXIy"])
      assert.ok(!line.includes(secret), `${secret} was logged`);
    assert.ok(line.includes("[token]"));
  });

  it("keeps what is no secret", () => {
    const line = JSON.parse(logged({ zone_id: "z1", status: 403, tokens_issued: 3 })) as Record<string, unknown>;
    assert.deepEqual(
      [line["zone_id"], line["status"], line["tokens_issued"], line["message"], line["level"]],
      ["z1", 403, 3, "something happened", "info"],
    );
  });

  it("is bounded in depth, width and length, and survives a loop", () => {
    const loop: Record<string, unknown> = {};
    loop["self"] = loop;
    assert.ok(JSON.stringify(scrub(loop)).length < 1_000);
    assert.ok(
      JSON.stringify(scrub({ text: "x".repeat(100_000), list: Array.from({ length: 10_000 }, () => "y") })).length <
        4_000,
    );
  });
});
