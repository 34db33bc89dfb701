import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, it } from "node:test";
import { FREE_PORTS, runToEnd } from "../support/program.ts";
import { freePort } from "../support/provision.ts";

/** A start that can't be: one line that names the thing and the way out, an exit code that is not 0, and no stack. */

type Fault = {
  readonly name: string;
  readonly args?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  /** What the line must name. */
  readonly says: RegExp;
};

const SECRET = "not-hex-and-never-to-be-printed";

const assertFault = (name: string, end: Awaited<ReturnType<typeof runToEnd>>, says: RegExp, lines = 1): void => {
  const shown = `${name}: ${end.code}\n${end.stdout}\n${end.stderr}`;
  assert.ok(end.code !== 0 && end.code !== null, shown);
  assert.doesNotMatch(end.stderr, /^\s+at |node:internal|Error:/m, shown);
  assert.match(end.stderr, says, shown);
  const found = end.stderr.trimEnd().split("\n");
  assert.equal(found.length, lines, shown);
  for (const line of found) assert.match(line, /^caracal: \S/, shown);
  assert.ok(!end.stderr.includes(SECRET), "a secret's value is not shown");
};

describe("a start that can't be", () => {
  let dir = "";
  before(() => {
    dir = mkdtempSync(join(tmpdir(), "caracal-"));
  });
  after(() => rmSync(dir, { recursive: true, force: true }));

  const start = (fault: Fault): ReturnType<typeof runToEnd> =>
    runToEnd(fault.args ?? ["--role=all"], {
      env: {
        CARACAL_ENV: "dev",
        CARACAL_DATA_DIR: join(dir, randomBytes(4).toString("hex")),
        ...FREE_PORTS,
        ...fault.env,
      },
      cwd: dir,
    });

  const FAULTS: readonly Fault[] = [
    { name: "an unknown flag", args: ["--role=all", "--fast"], says: /--fast/ },
    { name: "an unknown command", args: ["sevre"], says: /sevre/ },
    { name: "no role", args: [], says: /--role/ },
    { name: "an unknown role", args: ["--role=gatway"], says: /gatway.*gateway/ },
    { name: "an unknown environment", env: { CARACAL_ENV: "prod" }, says: /CARACAL_ENV.*production, dev/ },
    { name: "a port that is none", env: { STS_PORT: "65536" }, says: /STS_PORT.*65535/ },
    { name: "a duration that is none", env: { STS_TIMEOUT: "soon" }, says: /STS_TIMEOUT.*soon/ },
    { name: "a level that is none", env: { LOG_LEVEL: "loud" }, says: /LOG_LEVEL.*debug/ },
    {
      name: "a flag that is none",
      env: { ALLOW_PRIVATE_UPSTREAMS: "maybe" },
      says: /ALLOW_PRIVATE_UPSTREAMS.*true nor false/,
    },
    { name: "a key that is no hex", env: { ZONE_KEK: SECRET }, says: /ZONE_KEK.*hex/ },
    { name: "a key that is zero", env: { ZONE_KEK: "0".repeat(64) }, says: /ZONE_KEK/ },
    {
      name: "a bootstrap token that is short",
      env: { BOOTSTRAP_ADMIN_TOKEN: SECRET },
      says: /BOOTSTRAP_ADMIN_TOKEN.*32/,
    },
    {
      name: "a database URL of another kind",
      env: { DATABASE_URL: `mysql://a:${SECRET}@localhost/x` },
      says: /DATABASE_URL.*postgres/,
    },
    {
      name: "a secret's file that is not there",
      env: { ZONE_KEK_FILE: "/no/such/file" },
      says: /ZONE_KEK_FILE.*\/no\/such\/file/,
    },
    { name: "one role of an embedded start", args: ["--role=sts"], says: /--role=all/ },
    {
      name: "a folder that can't be made",
      env: { CARACAL_DATA_DIR: "/proc/caracal" },
      says: /CARACAL_DATA_DIR.*\/proc\/caracal/,
    },
  ];
  for (const fault of FAULTS) {
    it(`names ${fault.name}`, async () => assertFault(fault.name, await start(fault), fault.says));
  }

  it("names a taken port", async () => {
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const { port } = server.address() as AddressInfo;
    try {
      const end = await start({ name: "", env: { API_PORT: String(port) }, says: /./ });
      assertFault("taken port", end, new RegExp(`API_PORT.*${port}`));
    } finally {
      server.close();
    }
  });

  it("names a file in the data folder's place", async () => {
    const file = join(dir, "a-file");
    writeFileSync(file, "");
    assertFault(
      "file",
      await start({ name: "", env: { CARACAL_DATA_DIR: file }, says: /./ }),
      /CARACAL_DATA_DIR.*a-file/,
    );
  });

  it("names a data folder that others may read", async () => {
    const folder = join(dir, "open");
    mkdirSync(folder, { mode: 0o755 });
    assertFault(
      "open folder",
      await start({ name: "", env: { CARACAL_DATA_DIR: folder }, says: /./ }),
      /CARACAL_DATA_DIR.*chmod 700/,
    );
  });

  it("names a data folder of a newer version, and leaves it as it is", async () => {
    const folder = join(dir, "newer");
    mkdirSync(folder, { mode: 0o700 });
    writeFileSync(join(folder, "format"), "99\n");
    assertFault(
      "newer",
      await start({ name: "", env: { CARACAL_DATA_DIR: folder }, says: /./ }),
      /CARACAL_DATA_DIR.*newer.*99/,
    );
  });

  it("names a database that is down, and its URL's secret is not told", async () => {
    const url = `postgres://caracal:${SECRET}@127.0.0.1:${await freePort()}/caracal`;
    const redis = `redis://127.0.0.1:${await freePort()}`;
    assertFault("database", await start({ name: "", env: { DATABASE_URL: url }, says: /./ }), /DATABASE_URL.*reached/);
    assertFault("redis", await start({ name: "", env: { REDIS_URL: redis }, says: /./ }), /REDIS_URL.*reached/);
  });

  it("in production names everything that is missing at once, each in a line", async () => {
    const end = await runToEnd(["--role=all"], { env: { ...FREE_PORTS, CARACAL_DATA_DIR: dir }, cwd: dir });
    const names = [
      "TLS_CERT_FILE",
      "TLS_KEY_FILE",
      "DATABASE_URL",
      "REDIS_URL",
      "STREAMS_HMAC_KEY",
      "ZONE_KEK",
      "AUDIT_HMAC_KEY",
    ];
    for (const name of names) assert.match(end.stderr, new RegExp(`^caracal: ${name}`, "m"));
    assertFault("production", end, /./, end.stderr.trimEnd().split("\n").length);
  });
});
