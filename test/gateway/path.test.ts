import assert from "node:assert/strict";
import { describe, it } from "node:test";
import fc from "fast-check";
import { isQuery, pathFault, pathFormOf, rewriteLocation, upstreamPath } from "../../src/gateway/edge/path.ts";

/** What an upstream could make of a path: every decoding, every separator, parameters cut off. */
const reachable = (path: string): boolean => {
  let text = path;
  for (let round = 0; round < 12; round += 1) {
    const segments = text.split(/[/\\]/).map((segment) => segment.split(/[;?#]/, 1)[0]?.trim());
    if (segments.some((segment) => segment === "." || segment === "..")) return true;
    const next = text.replace(/%([0-9a-f]{2})/gi, (_all, hex: string) => String.fromCharCode(Number.parseInt(hex, 16)));
    if (next === text) return false;
    text = next;
  }
  return true;
};

/** `text` percent-encoded `times` times, in whole or in part. */
const encode = (text: string, picks: readonly boolean[], times: number): string => {
  let out = text
    .split("")
    .map((char, at) => (picks[at % picks.length] ? `%${char.charCodeAt(0).toString(16)}` : char))
    .join("");
  for (let at = 1; at < times; at += 1) out = out.replaceAll("%", "%25");
  return out;
};

describe("a path", () => {
  const CLEAN = [
    "/",
    "/a/b",
    "/a//b",
    "/.well-known/x",
    "/...",
    "/a..b/..c",
    "/a%20b",
    "/100%25",
    "/projects/group%2Fname",
    "/a;v=1/b",
    "/%C3%A9",
    "/~x/(y)",
  ];
  for (const path of CLEAN) it(`${path} passes`, () => assert.equal(pathFault(path), undefined));

  const BAD = [
    "",
    "a",
    "*",
    "http://evil.test/",
    "//evil.test",
    "/\\evil.test",
    "/a\\b",
    "/a/..",
    "/a/../b",
    "/./a",
    "/a/.",
    "/%2e/",
    "/%2E%2e/x",
    "/.%2e/x",
    "/a/%252e%252e/",
    "/%25252e%25252e/",
    "/a%2f..%2fb",
    "/a%2f%2e%2e",
    "/a/..%5cb",
    "/a/..;/b",
    "/a/..;x=1/b",
    "/a/..%3bx/b",
    "/a/..%20/b",
    "/a/..%09",
    "/a/%00",
    "/a%0d%0ax",
    "/%c0%ae%c0%ae/",
    "/%e0%80%ae/",
    "/%f0%80%80%ae/",
    "/%uff0e%uff0e/",
    "/%u002e%u002e/",
    "/%ef%bc%8e%ef%bc%8e/",
    "/..%ef%bc%8fx",
    "/%zz",
    "/a%2",
    "/%2f%2fevil.test",
    "/%2fevil.test",
    "/%5cevil.test",
    "/a#b",
    "/a b",
    "/é",
    `/${"%25".repeat(3)}2525252e`,
    "/%25zz/%252e%252e/x",
    "/..%3fx",
    "/..%23",
  ];
  for (const path of BAD) it(`${JSON.stringify(path)} is refused`, () => assert.notEqual(pathFault(path), undefined));

  it("with a dot segment is refused however it is encoded", () => {
    fc.assert(
      fc.property(
        fc.constantFrom("..", "."),
        fc.constantFrom("/", "\\"),
        fc.constantFrom("/", "\\", ""),
        fc.array(fc.boolean(), { minLength: 1, maxLength: 6 }),
        fc.integer({ min: 1, max: 6 }),
        fc.stringMatching(/^[a-z]{0,4}$/),
        (dots, before, after, picks, times, tail) => {
          const path = `/a${encode(`${before}${dots}${after}`, picks, times)}${after === "" ? "" : tail}`;
          assert.notEqual(pathFault(path), undefined, path);
        },
      ),
      { numRuns: 5_000 },
    );
  });

  it("that passes leads to no dot segment for any decoder", () => {
    const piece = fc.constantFrom(
      "/",
      "\\",
      ".",
      "..",
      "%",
      "%2e",
      "%2f",
      "%5c",
      "%25",
      "25",
      "2e",
      ";",
      "a",
      "%3b",
      "%20",
      "?",
      "%c0%ae",
      "%u002e",
    );
    fc.assert(
      fc.property(fc.array(piece, { maxLength: 12 }), (pieces) => {
        const path = `/${pieces.join("")}`;
        if (pathFault(path) === undefined) assert.equal(reachable(path), false, path);
      }),
      { numRuns: 20_000 },
    );
  });

  it("is judged in linear time", () => {
    const began = performance.now();
    for (const unit of ["%25", "..;", "/.", "%2e", " ", "%20", ".%20"]) pathFault(`/${unit.repeat(10_000)}`);
    assert.ok(performance.now() - began < 500);
  });
});

describe("a query", () => {
  it("passes as it is, but for what no URL holds", () => {
    for (const query of ["", "?", "?a=../b&c=%00", "?a=[1]"]) assert.equal(isQuery(query), true);
    for (const query of ["?a b", "?a#b", "?é", "?a\\b"]) assert.equal(isQuery(query), false);
  });
});

describe("the path form", () => {
  it("names zone and resource, and leaves the rest", () => {
    assert.deepEqual(pathFormOf("/r/z-1/res_2/a/b"), {
      zone_id: "z-1",
      resource_id: "res_2",
      prefix: "/r/z-1/res_2",
      rest: "/a/b",
    });
    assert.equal(pathFormOf("/r/z/res")?.rest, "/");
    for (const path of ["/r/z", "/r/z/", "/r//res/x", "/R/z/res", "/x/r/z/res", "/r/z/../x", "/r/z%2fx/y"])
      assert.equal(pathFormOf(path), undefined);
  });
});

describe("the way to the upstream", () => {
  it("is its base, then the call's path", () => {
    const at = (base: string, path: string, query = ""): string => upstreamPath(new URL(base), path, query);
    assert.equal(at("http://u", "/"), "/");
    assert.equal(at("http://u/mcp", "/"), "/mcp");
    assert.equal(at("http://u/mcp/", "/"), "/mcp/");
    assert.equal(at("http://u/mcp/", "/x"), "/mcp/x");
    assert.equal(at("http://u/mcp", "/x", "?a=1"), "/mcp/x?a=1");
    assert.equal(at("http://u/mcp?k=1", "/x", "?%6B=2&b=3"), "/mcp/x?k=1&b=3");
  });

  it("back leads to the Gateway for what is inside the base, and to no other host by two slashes", () => {
    const base = new URL("https://u.test/base");
    assert.equal(rewriteLocation("https://u.test/base/x", base, "/base/a", "/r/z/1"), "/r/z/1/x");
    assert.equal(rewriteLocation("https://u.test/based/x", base, "/base/a", ""), "https://u.test/based/x");
    assert.equal(rewriteLocation("//u.test/base/x", base, "/base/a", ""), "/x");
    assert.equal(rewriteLocation("//evil.test/base/x", base, "/base/a", ""), "//evil.test/base/x");
    assert.equal(rewriteLocation("http://u.test/base/x", base, "/base/a", ""), "http://u.test/base/x");
    fc.assert(
      fc.property(fc.webPath(), (path) => {
        const location = rewriteLocation(`https://u.test/base/${path}`, base, "/base/a", "");
        if (location.startsWith("/")) assert.ok(!location.startsWith("//"), location);
      }),
    );
  });
});
