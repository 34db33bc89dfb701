import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { describe, it } from "node:test";
import fc from "fast-check";
import { keyring } from "../../src/domain/keyring.ts";
import { signEntry, verifyEntry } from "../../src/broadcast/envelope.ts";

const old_key = randomBytes(32);
const ring = keyring(randomBytes(32));
const name = fc.string({ maxLength: 8 }).filter((text) => text !== "_sig" && text !== "_kid" && text !== "__proto__");
const fields = fc.dictionary(name, fc.string({ maxLength: 12 }), { maxKeys: 6 });

describe("the envelope", () => {
  it("verifies what it signed, whatever the order of the fields", () => {
    fc.assert(
      fc.property(fields, fc.string(), (plain, stream) => {
        const signed = signEntry(ring, stream, plain);
        assert.ok(verifyEntry(ring, stream, signed));
        assert.ok(verifyEntry(ring, stream, Object.fromEntries(Object.entries(signed).reverse())));
      }),
    );
  });

  it("refuses any change of a name, a value, a boundary, the stream, the key's id or the signature", () => {
    fc.assert(
      fc.property(fields, fields, fc.string(), (plain, other, stream) => {
        const signed = signEntry(ring, stream, plain);
        const { _sig, _kid } = signed as Record<string, string>;
        const changed = { ...other, _sig: _sig as string, _kid: _kid as string };
        const same = JSON.stringify(Object.entries(other).sort()) === JSON.stringify(Object.entries(plain).sort());
        assert.equal(verifyEntry(ring, stream, changed), same);
        assert.ok(!verifyEntry(ring, `${stream}x`, signed));
        assert.ok(!verifyEntry(ring, stream, { ...signed, added: "" }));
        assert.ok(!verifyEntry(ring, stream, { ...signed, _kid: "00000000" }));
        assert.ok(
          !verifyEntry(ring, stream, { ...signed, _sig: (_sig as string).toUpperCase().replace(/^(\d+)$/, "A$1") }) ||
            /^\d+$/.test(_sig as string),
        );
        for (const one of Object.keys(plain)) {
          const { [one]: value, ...rest } = signed as Record<string, string>;
          assert.ok(!verifyEntry(ring, stream, rest));
          assert.ok(!verifyEntry(ring, stream, { ...signed, [one]: `${value}x` }));
        }
      }),
    );
  });

  it("refuses a boundary that moved between a name and its value", () => {
    const signed = signEntry(ring, "s", { ab: "c", d: "ef" }) as Record<string, string>;
    const { _sig, _kid } = signed as { _sig: string; _kid: string };
    assert.ok(!verifyEntry(ring, "s", { a: "bc", d: "ef", _sig, _kid }));
    assert.ok(!verifyEntry(ring, "s", { ab: "cd", "": "ef", _sig, _kid }));
  });

  it("verifies what a previous key signed, and nothing that no key of the ring did", () => {
    const signed = signEntry(keyring(old_key), "s", { a: "1" });
    assert.ok(verifyEntry(keyring(randomBytes(32), [old_key]), "s", signed));
    assert.ok(!verifyEntry(ring, "s", signed));
    assert.ok(!verifyEntry(ring, "s", { a: "1" }));
    assert.ok(!verifyEntry(ring, "s", { a: "1", _kid: ring.current.id, _sig: "" }));
  });
});
