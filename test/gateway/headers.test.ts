import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { createLog } from "../../src/kernel/log.ts";
import { createRig, openRaw, requestText, RESOURCE, RESOURCE_ID, type Rig, ZONE } from "./rig.ts";

describe("an upstream's answer", () => {
  let rig: Rig;
  before(async () => {
    rig = await createRig();
  });
  after(() => rig.close());

  it("says nothing for the origin, which all upstreams have in common, nor of the credential", async () => {
    const ours = [
      "Strict-Transport-Security",
      "Clear-Site-Data",
      "Service-Worker-Allowed",
      "Public-Key-Pins",
      "Public-Key-Pins-Report-Only",
      "Expect-CT",
      "NEL",
      "Report-To",
      "Reporting-Endpoints",
      "Accept-CH",
      "Critical-CH",
      "Origin-Agent-Cluster",
      "Set-Login",
      "WWW-Authenticate", // with whatever status
      "Authentication-Info",
    ];
    rig.upstream((_request, response) => {
      for (const name of ours) response.setHeader(name, "1");
      response.setHeader("X-Kept", "1");
      response.end("ok");
    });
    const answer = await rig.call();
    assert.equal(await answer.text(), "ok");
    assert.deepEqual(
      ours.filter((name) => answer.headers.has(name)),
      [],
    );
    assert.equal(answer.headers.get("x-kept"), "1");
  });

  it("of 401 is no word to the caller, whose credential it did not get: 502, and its challenge stays here", async () => {
    rig.upstream((_request, response) => {
      response.writeHead(401, { "www-authenticate": 'Bearer resource_metadata="https://evil.test/"' });
      response.end("log in at evil.test");
    });
    const before_errors = await rig.metric("upstream_errors");
    const answer = await rig.call();
    assert.equal(answer.status, 502);
    assert.equal(answer.headers.get("www-authenticate"), null);
    const body = (await answer.json()) as { readonly error: string; readonly reason: string };
    assert.deepEqual([body.error, body.reason], ["BadGateway", "upstream_unauthorized"]);
    assert.equal(await rig.metric("upstream_errors"), before_errors + 1);
    assert.deepEqual([rig.outcomes().at(-1)?.status, rig.outcomes().at(-1)?.cut], [502, "upstream"]);
  });

  it("has 200 headers at most, and as many trailers", async () => {
    const headersOf = (count: number): string[][] => Array.from({ length: count }, (_, at) => [`X-${at}`, "1"]);
    let count = 0;
    rig.upstream((_request, response) => {
      response.sendDate = false;
      response.writeHead(200, headersOf(count) as never);
      response.write("body");
      response.addTrailers(headersOf(count) as never);
      response.end();
    });
    const head = { Authorization: `Bearer ${rig.ambient()}`, "X-Caracal-Resource": RESOURCE, TE: "trailers" };
    const raw = await openRaw(rig.port);

    count = 190; // with what node:http adds
    raw.write(requestText("GET /", head));
    assert.match(await raw.until(/X-189: 1\r\n\r\n$/), /^HTTP\/1\.1 200 [^]*X-189: 1\r\n[^]*\r\n0\r\n/);
    raw.destroy();

    count = 201;
    const refused = await rig.call();
    assert.equal(refused.status, 502);
    assert.equal(((await refused.json()) as { readonly reason: string }).reason, "upstream_headers_excess");
  });
});

describe("an upstream that fails", () => {
  it("does not write the log as fast as it is called: one line a second of a zone", async () => {
    const lines: string[] = [];
    const log = createLog({ level: "warn", destination: { write: (line) => void lines.push(line) } });
    let now_ms = 0;
    const clock = { now_ms: () => Date.now(), monotonic_ms: () => now_ms };
    const rig = await createRig({ log, clock });
    try {
      rig.upstream((request) => request.socket.destroy());
      for (let call = 0; call < 20; call += 1) assert.equal((await rig.call()).status, 502);
      now_ms += 1_000;
      assert.equal((await rig.call()).status, 502);
      const told = lines.map((line) => JSON.parse(line) as Record<string, unknown>);
      assert.deepEqual(
        told.map(({ message, resource_id, zone_id, not_logged }) => [message, resource_id, zone_id, not_logged]),
        [
          ["an upstream call failed", RESOURCE_ID, ZONE, 0],
          ["an upstream call failed", RESOURCE_ID, ZONE, 19],
        ],
      );
    } finally {
      await rig.close();
    }
  });
});

describe("what a caller says of where it calls from", () => {
  it("does not reach the upstream, which believes these of its proxy", async () => {
    const rig = await createRig();
    try {
      const forged = [
        "X-Client-IP",
        "X-Cluster-Client-IP",
        "Client-IP",
        "True-Client-IP",
        "CF-Connecting-IP",
        "Fastly-Client-IP",
        "X-Remote-IP",
        "X-Remote-Addr",
        "X-Originating-IP",
        "Client-Cert",
        "Client_Cert_Chain",
      ];
      const answer = await rig.call("/", { headers: Object.fromEntries(forged.map((name) => [name, "6.6.6.6"])) });
      assert.equal(answer.status, 200);
      assert.ok(!rig.seen.at(-1)?.headers.includes("6.6.6.6"));
    } finally {
      await rig.close();
    }
  });
});
