import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { extname, join } from "node:path";
import { after, before, describe, it } from "node:test";
import { fileURLToPath } from "node:url";
import { createControlPlane } from "../support/control-plane.ts";
import { eventually } from "../support/eventually.ts";
import { cleanEnvironment, type Program, startProgram } from "../support/program.ts";

/** `npm run demo`, as its reader has it: lines and an exit code. */

const here = fileURLToPath(import.meta.url);
const DEMO = join(here, "..", "..", "..", "scripts", `demo${extname(here)}`);
const WITHIN_MS = 60_000;

type Run = { readonly code: number | null; readonly stdout: string; readonly stderr: string };

const startDemo = (
  args: readonly string[],
  cwd: string,
): { readonly stdout: () => string; readonly end: Promise<Run>; signal(signal: NodeJS.Signals): void } => {
  const env = cleanEnvironment({ TMPDIR: cwd });
  const child = spawn(process.execPath, [DEMO, ...args], { env, cwd, stdio: ["ignore", "pipe", "pipe"] });
  const said = { stdout: "", stderr: "" };
  for (const name of ["stdout", "stderr"] as const) {
    child[name].setEncoding("utf8").on("data", (text: string) => {
      said[name] += text;
    });
  }
  const late = setTimeout(() => child.kill("SIGTERM"), WITHIN_MS);
  const end = new Promise<Run>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code) => {
      clearTimeout(late);
      resolve({ code, ...said });
    });
  });
  return { stdout: () => said.stdout, end, signal: (signal) => void child.kill(signal) };
};

const STEPS = [
  "An agent proves once who it is",
  "It calls an MCP server that policy allows",
  "It calls one that policy denies",
  "A mandate is used twice",
  "The session is revoked in the middle of an answer",
  "It has every decision",
  "Somebody turns a deny into an allow",
];

const assertTold = ({ code, stdout, stderr }: Run): void => {
  assert.equal(code, 0, `${stdout}\n${stderr}`);
  assert.equal(stderr, "");
  STEPS.forEach((title, at) => assert.match(stdout, new RegExp(`^${at + 1}\\. ${title}$`, "m")));
  assert.equal(stdout.match(/^ {3}✓ /gm)?.length, STEPS.length);
  assert.match(stdout, /policy: “the demo agent may call resource:\/\/demo, not resource:\/\/denied”/);
  assert.match(stdout, /second use: 401 InvalidToken/);
  assert.match(stdout, /from the operator's word to the end of the stream: \d+ ms/);
  assert.match(stdout, /hmac_mismatch: row \d+:/);
  assert.match(stdout, /Everything went as told\.\n$/);
  // oxlint-disable-next-line no-control-regex -- a colour where no terminal is would be one of these
  assert.doesNotMatch(stdout, /[\u0000-\u0009\u000b-\u001f\u007f]/, "no controls where there is no terminal");
};

describe("the demo", () => {
  let dir = "";
  let program: Program;
  before(async () => {
    dir = mkdtempSync(join(tmpdir(), "caracal-"));
    program = await startProgram();
  });
  after(async () => {
    await program.close();
    rmSync(dir, { recursive: true, force: true });
  });

  const run = (...args: readonly string[]): Promise<Run> => startDemo(args, dir).end;

  it("plays its story against an instance of its own, of which nothing is left", async () => {
    assertTold(await run());
    assert.deepEqual(readdirSync(dir), []);
  });

  it("plays it against a running instance, again and again, and leaves its ledger and its sessions as they are", async () => {
    const q = program.quickstart;
    const api = createControlPlane(() => q.api_url, q.zone_id, q.admin_token);
    for (let time = 0; time < 2; time += 1) {
      const told = await run("--attach", program.data_dir);
      assertTold(told);
      assert.match(told.stdout, /the running ledger is left as it is/);
    }
    const denied = (await api.ledger({ event_type: "token.exchange" })).filter((row) => row.decision === "deny");
    assert.equal(denied.length, 2, "each denial is one still");
    assert.equal((await fetch(`${q.gateway_url}/ready`)).status, 200);
  });

  it("leaves the tampering out, and says why, where the ledger's key is not at hand", async () => {
    const folder = join(dir, "without-key");
    mkdirSync(folder);
    writeFileSync(join(folder, "quickstart.json"), readFileSync(join(program.data_dir, "quickstart.json")));
    const { code, stdout } = await run("--attach", folder);
    rmSync(folder, { recursive: true });
    assert.equal(code, 0, stdout);
    assert.match(stdout, /left out: the ledger's key is not in/);
  });

  it("ends with 1 and names the step that did not go as told", async () => {
    const folder = join(dir, "spoilt");
    mkdirSync(folder);
    const spoil = (change: object): void =>
      writeFileSync(join(folder, "quickstart.json"), JSON.stringify({ ...program.quickstart, ...change }));
    const { resource } = program.quickstart;
    const cases: readonly { readonly change: object; readonly says: RegExp }[] = [
      { change: { denied_resource: resource }, says: /step 3, .*\ndemo: expected: 403 for .*\ndemo: found: .*allowed/ },
      { change: { resource: "resource://nobody" }, says: /step 2, / },
      { change: { client_secret: "wrong\u001b[2J" }, says: /step 1, .*\ndemo: expected: a token\ndemo: found: 401/ },
    ];
    for (const { change, says } of cases) {
      spoil(change);
      const { code, stdout, stderr } = await run("--attach", folder);
      assert.equal(code, 1, `${stdout}\n${stderr}`);
      assert.match(stderr, says);
      assert.match(stdout, /✗ did not go as told/);
      assert.doesNotMatch(stderr, /^\s+at |node:internal/m);
    }
    rmSync(folder, { recursive: true });
  });

  it("says in one line that no instance is there, or that it was asked for something else", async () => {
    const none = await run("--attach", join(dir, "none"));
    assert.deepEqual([none.code, none.stdout], [1, ""]);
    assert.match(none.stderr, /^demo: no instance serves from .*npm start.*\n$/);
    for (const args of [["--fast"], ["folder"], ["--attach", "a", "b"]]) {
      const wrong = await run(...args);
      assert.deepEqual([wrong.code, wrong.stderr], [2, "usage: npm run demo [-- --attach [data folder]]\n"]);
    }
  });

  it("ends its own instance and removes it when it is interrupted", async () => {
    const demo = startDemo([], dir);
    await eventually(() => demo.stdout().includes("ready after"), { timeout_ms: 30_000 });
    demo.signal("SIGINT");
    const { code, stderr } = await demo.end;
    assert.deepEqual([code, stderr], [1, "demo: interrupted\n"]);
    assert.deepEqual(readdirSync(dir), []);
  });
});
