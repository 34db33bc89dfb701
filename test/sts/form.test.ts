import assert from "node:assert/strict";
import { describe, it } from "node:test";
import * as fc from "fast-check";
import { type Form, type FormFault, parseForm } from "../../src/sts/edge/form.ts";

const read = (text: string | Uint8Array): Form | FormFault =>
  parseForm(typeof text === "string" ? Buffer.from(text) : text);
const form = (text: string): Form => {
  const parsed = read(text);
  assert.ok("one" in parsed, JSON.stringify(parsed));
  return parsed;
};
const fault = (text: string | Uint8Array): FormFault => {
  const parsed = read(text);
  assert.ok("field" in parsed, "the form was read");
  return parsed;
};

describe("a form", () => {
  it("gives back every field that URLSearchParams wrote, whatever is in it", () => {
    const name = fc.string({ unit: "grapheme", minLength: 1 }).filter((text) => text !== "resource");
    fc.assert(
      fc.property(fc.dictionary(name, fc.string({ unit: "grapheme", minLength: 1 })), (fields) => {
        const parsed = form(new URLSearchParams(fields).toString());
        for (const [field, value] of Object.entries(fields)) assert.equal(parsed.one(field), value);
      }),
    );
  });

  it("never throws, whatever bytes come", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 256 }), (bytes) => {
        const parsed = parseForm(bytes);
        assert.ok("one" in parsed || typeof parsed.message === "string");
      }),
    );
  });

  it("takes an empty field for one that was not sent", () => {
    assert.equal(form("scope=&zone_id=z").one("scope"), undefined);
    assert.deepEqual(form("resource=&resource=a").all("resource"), ["a"]);
  });

  it("lets resource alone come more than once, and names what else does", () => {
    assert.deepEqual(form("resource=a&resource=b").all("resource"), ["a", "b"]);
    assert.deepEqual(fault("scope=a&scope=b"), { field: "scope", message: "may be sent once only" });
    assert.equal(fault("scope=&scope=b").field, "scope");
    assert.equal(fault("sc%6Fpe=a&scope=b").field, "scope");
    assert.equal(fault("__proto__=a&__proto__=b").field, "__proto__");
  });

  it("refuses broken escapes and bytes that are no UTF-8, and names the field", () => {
    for (const text of [
      "zone_id=%",
      "zone_id=%4",
      "zone_id=%zz",
      "zone_id=%ff",
      "zone_id=%c0%af",
      "zone_id=%ed%a0%80",
    ]) {
      assert.equal(fault(text).field, "zone_id", text);
    }
    assert.match(fault("%ff=a").field, /name/);
    assert.match(fault(Buffer.from([0x61, 0x3d, 0xff])).message, /UTF-8/);
  });

  it("refuses more fields than any request has", () => {
    assert.match(fault(Array.from({ length: 129 }, (_, i) => `f${i}=1`).join("&")).message, /more than 128/);
  });

  it("has no fields but those that were sent", () => {
    for (const name of ["constructor", "__proto__", "toString"]) assert.equal(form("a=1").one(name), undefined);
  });
});
