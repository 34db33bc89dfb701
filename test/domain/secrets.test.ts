import assert from "node:assert/strict";
import { createHmac, randomBytes } from "node:crypto";
import { describe, it } from "node:test";
import {
  deriveGatewayKey,
  contentSha256,
  isGatewayCall,
  type SignedCall,
  signGatewayCall,
} from "../../src/domain/gateway-signature.ts";
import { keyring } from "../../src/domain/keyring.ts";
import { intersect, isScope, parseScope } from "../../src/domain/scopes.ts";
import { HashingBusy, hashSecret, verifySecret } from "../../src/domain/secret-hash.ts";

describe("a hashed secret", () => {
  it("is verified by that secret only", async () => {
    const stored = await hashSecret("correct horse", "z");
    assert.equal(await verifySecret("correct horse", stored, "z"), true);
    assert.equal(await verifySecret("correct horsf", stored, "z"), false);
    assert.equal(await verifySecret("", stored, "z"), false);
    await assert.rejects(verifySecret("correct horse", stored.slice(0, stored.lastIndexOf("$")), "z"), /malformed/);
    assert.notEqual(stored, await hashSecret("correct horse", "z"), "a salt of its own");
  });

  it("is refused when too many are being hashed, so that a flood of log-ins holds no memory", async () => {
    const tag = createHmac("sha256", Buffer.alloc(1)).update("x").digest().subarray(0, 4).toString("base64url");
    const cheap = `scrypt$1024$8$1$AA$AA$${tag}`;
    const all = await Promise.allSettled(Array.from({ length: 300 }, (_, i) => verifySecret("x", cheap, `z${i % 20}`)));
    const wrong = await Promise.all(Array.from({ length: 300 }, () => verifySecret("y", cheap, "z")));
    assert.ok(!wrong.includes(true), "what is wrong by its tag takes no turn");
    const busy = all.filter((one) => one.status === "rejected" && one.reason instanceof HashingBusy).length;
    assert.equal(busy, 300 - 2 - 256);
    assert.equal(
      await verifySecret("correct horse", await hashSecret("correct horse", "z"), "z"),
      true,
      "and works again after",
    );
  });
});

const CALL: SignedCall = {
  method: "POST",
  path: "/oauth/2/token",
  timestamp_ms: 1,
  nonce: "n",
  content_sha256: contentSha256(Buffer.from("a=b")),
};

describe("the Gateway's signature", () => {
  it("covers method, path, time, nonce and body", () => {
    const ring = keyring(randomBytes(32));
    const signature = signGatewayCall(ring, CALL);
    assert.equal(isGatewayCall(ring, CALL, signature), true);
    const changes: Partial<SignedCall>[] = [
      { method: "PUT" },
      { path: "/x" },
      { timestamp_ms: 2 },
      { nonce: "m" },
      { content_sha256: contentSha256(Buffer.from("a=c")) },
    ];
    for (const change of changes)
      assert.equal(isGatewayCall(ring, { ...CALL, ...change }, signature), false, JSON.stringify(Object.keys(change)));
  });

  it("is verified under a former key and under the derived one, not under another", () => {
    const former = randomBytes(32);
    const signature = signGatewayCall(keyring(former), CALL);
    assert.equal(isGatewayCall(keyring(randomBytes(32), [former]), CALL, signature), true);
    assert.equal(isGatewayCall(keyring(randomBytes(32)), CALL, signature), false);
    const streams = keyring(randomBytes(32));
    assert.equal(
      isGatewayCall(deriveGatewayKey(streams), CALL, signGatewayCall(deriveGatewayKey(streams), CALL)),
      true,
    );
    assert.equal(
      isGatewayCall(streams, CALL, signGatewayCall(deriveGatewayKey(streams), CALL)),
      false,
      "the streams' key itself is no Gateway",
    );
  });
});

describe("scopes", () => {
  it("are parsed each once, in order, and refused where RFC 6749 has no such character", () => {
    assert.deepEqual(parseScope("read  write read"), ["read", "write"]);
    assert.deepEqual(parseScope(""), []);
    assert.deepEqual(parseScope("read ".repeat(1_000)), ["read"]);
    assert.equal(parseScope("read ".repeat(32_000)), undefined, "more than anybody asks for is not taken apart");
    for (const bad of ['a"b', "a\\b", "a\tb", "ä", "a\u0000"])
      assert.equal(parseScope(bad), undefined, JSON.stringify(bad));
    assert.equal(isScope("coordinator.spawn_for:app"), true);
  });

  it("are cut to what every list has", () => {
    assert.deepEqual(intersect(["a", "b", "c"], ["c", "a"], ["a"]), ["a"]);
  });
});
