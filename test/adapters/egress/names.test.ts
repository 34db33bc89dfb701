import assert from "node:assert/strict";
import { appendFileSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { lookup } from "node:dns/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, describe, it } from "node:test";
import { createEgress, type EgressOptions } from "../../../src/adapters/egress/index.ts";
import { NAME_BOUNDS } from "../../../src/adapters/egress/names.ts";
import { createResolver, type ResolverOptions } from "../../../src/adapters/egress/resolver.ts";
import { systemClock } from "../../../src/kernel/clock.ts";
import type { EgressRefusal } from "../../../src/ports/egress.ts";
import { type DnsAnswer, startDnsServer } from "../../support/dns-server.ts";

const closers: (() => unknown)[] = [];
afterEach(async () => {
  for (const close of closers.splice(0)) await close();
});

type Names = Record<string, DnsAnswer>;
const nameServer = async (names: Names) => {
  const server = await startDnsServer(({ name }) => names[name] ?? "nxdomain");
  closers.push(() => server.close());
  return server;
};

const folder = (): string => {
  const dir = mkdtempSync(join(tmpdir(), "caracal-names-"));
  closers.push(() => rmSync(dir, { recursive: true }));
  return dir;
};

/** A clock that stands still until it is moved. */
const handClock = () => {
  let now_ms = 1_000;
  return { clock: { now_ms: () => now_ms, monotonic_ms: () => now_ms }, pass: (ms: number) => (now_ms += ms) };
};

describe("the resolver", () => {
  const resolver = async (names: Names, more: Partial<ResolverOptions> = {}) => {
    const server = await nameServer(names);
    const dir = folder();
    const options = { hosts_file: join(dir, "hosts"), resolv_file: join(dir, "resolv.conf"), timeout_ms: 2_000 };
    const made = createResolver({ clock: systemClock, servers: [server.address], ...options, ...more });
    return { resolve: made, asked: server.asked, ...options };
  };

  it("gives all addresses of both families, in turn, and in one order whatever order they came in", async () => {
    const rotating = [
      ["8.8.8.8", "1.1.1.1", "2606:4700::1111"],
      ["1.1.1.1", "2606:4700::1111", "8.8.8.8"],
    ];
    const names: Names = {};
    const { resolve } = await resolver(names);
    for (const order of rotating) {
      names["many.test"] = order;
      assert.deepEqual(await resolve("many.test"), ["1.1.1.1", "2606:4700::1111", "8.8.8.8"]);
    }
    names["six.test"] = ["2606:4700::1111"];
    assert.deepEqual(await resolve("six.test"), ["2606:4700::1111"]);
  });

  it("takes no more of a long answer than it could use, and so spends no time on the rest", async () => {
    const many = Array.from({ length: 60 }, (_, at) => `8.8.${at}.8`);
    const { resolve } = await resolver({ "many.test": [...many, "2001:4860:4860::8888"] });
    const found = await resolve("many.test");
    assert.equal(found.length, 33);
    assert.equal(found[1], "2001:4860:4860::8888", "one family does not push out the other");
    assert.ok(found.every((address) => many.includes(address) || address === "2001:4860:4860::8888"));
  });

  it("tells a name that has no address from one of which nobody could say", async () => {
    const { resolve } = await resolver({ "bare.test": "none", "broken.test": "servfail" });
    assert.deepEqual(await resolve("bare.test"), []);
    assert.deepEqual(await resolve("unknown.test"), []);
    await assert.rejects(resolve("broken.test"));
  });

  it("gives a server that is silent up in time, also where it says only one of the families", async () => {
    const { resolve } = await resolver({ "hanging.test": "hang" }, { timeout_ms: 200 });
    await assert.rejects(resolve("hanging.test"));
    const half = await startDnsServer(({ family }) => (family === 4 ? ["8.8.8.8"] : "hang"));
    closers.push(() => half.close());
    const patient = createResolver({ clock: systemClock, servers: [half.address], timeout_ms: 60_000 });
    assert.deepEqual(await patient("half.test"), ["8.8.8.8"]);
    assert.equal(
      half.asked.filter(({ family }) => family === 6).length,
      1,
      "it was not waited for until it is asked again",
    );
  });

  it("reads the hosts file, again where it changed, and asks no server for what stands there", async () => {
    const { clock, pass } = handClock();
    const { resolve, hosts_file, asked } = await resolver({ "listed.test": ["9.9.9.9"] }, { clock });
    writeFileSync(hosts_file, "# 1.2.3.4 not.test\n10.1.2.3\tlisted.test  Alias.TEST # why\nfe80::1%lo0 listed.test\n");
    assert.deepEqual(await resolve("listed.test"), ["10.1.2.3"]);
    assert.deepEqual(await resolve("alias.test"), ["10.1.2.3"]);
    assert.equal(asked.length, 0);
    appendFileSync(hosts_file, "fd00::7 listed.test\n");
    pass(1_001);
    assert.deepEqual(await resolve("listed.test"), ["10.1.2.3", "fd00::7"]);
    rmSync(hosts_file);
    pass(1_001);
    assert.deepEqual(await resolve("listed.test"), ["9.9.9.9"]);
    writeFileSync(hosts_file, `${"# filler\n".repeat(120_000)}10.0.0.9 far.test\n`);
    pass(1_001);
    assert.deepEqual(await resolve("far.test"), [], "behind a MiB nothing is read");
  });

  it("finds localhost where the system does, and asks no server for any such name", async () => {
    const { resolve, asked } = await resolver({ localhost: ["9.9.9.9"], "x.localhost": ["9.9.9.9"] });
    assert.deepEqual(await resolve("localhost"), ["127.0.0.1", "::1"]);
    assert.deepEqual(await resolve("x.localhost"), ["127.0.0.1", "::1"]);
    assert.equal(asked.length, 0);
    const system = createResolver({ clock: systemClock, servers: [] });
    const found = await lookup("localhost", { all: true });
    const ours = await system("localhost");
    for (const { address } of found) assert.ok(ours.includes(address), address);
  });

  it("tries the search domains as getaddrinfo does, but goes past no name that nobody could say", async () => {
    const names: Names = { "pay.team.svc.test": ["10.0.0.1"], "api.public.test": ["8.8.8.8"], "a.b": ["8.8.4.4"] };
    const { resolve, resolv_file, asked } = await resolver(names);
    writeFileSync(resolv_file, "search first.test\nsearch svc.test. test\noptions edns0 ndots:2\n");
    assert.deepEqual(await resolve("pay.team"), ["10.0.0.1"]);
    assert.deepEqual(await resolve("api.public.test"), ["8.8.8.8"]);
    assert.deepEqual([...new Set(asked.map(({ name }) => name))], ["pay.team.svc.test", "api.public.test"]);
    names["a.b.svc.test"] = "servfail";
    await assert.rejects(resolve("a.b"));
    delete names["a.b.svc.test"];
    assert.deepEqual(await resolve("a.b"), ["8.8.4.4"]);
  });
});

describe("the guard's names", () => {
  const guard = async (names: Names, over: Partial<EgressOptions> = {}) => {
    const server = await nameServer(names);
    const { clock, pass } = handClock();
    const egress = createEgress({
      allow_private: false,
      allow_loopback: false,
      allowlist: [],
      production: false,
      clock,
      resolver: createResolver({ clock: systemClock, servers: [server.address], timeout_ms: 400 }),
      ...over,
    });
    const judge = async (host: string, zone_id = "zone"): Promise<EgressRefusal | "allowed"> => {
      const result = await egress.check(new URL(`https://${host}/`), zone_id);
      return "refused" in result ? result.refused : "allowed";
    };
    const count = (name: string): number => server.asked.filter((one) => one.name === name && one.family === 4).length;
    return { egress, judge, pass, count, asked: server.asked };
  };
  const hanging = (many: number): Names =>
    Object.fromEntries(Array.from({ length: many }, (_, at) => [`hang-${at}.test`, "hang" as const]));

  it("that hang fill their own zone's look-ups and nobody else's, nor any thread", async () => {
    const { judge, egress } = await guard({ ...hanging(20), "good.test": ["8.8.8.8"], "own.test": ["8.8.4.4"] });
    assert.equal(await judge("own.test", "bad"), "allowed");
    const started = Array.from({ length: 8 }, (_, at) => egress.check(new URL(`https://hang-${at}.test/`), "bad"));
    assert.ok(started.every((one) => one instanceof Promise));
    for (let at = 8; at < 20; at += 1) assert.equal(await judge(`hang-${at}.test`, "bad"), "zone_lookups_full");
    assert.equal(await judge("own.test", "bad"), "allowed", "what is known is not looked up");
    assert.equal(await judge("good.test", "innocent"), "allowed", "at once, though the other eight hang still");
    await lookup("localhost"); // libuv's threads are free
    const found = await Promise.all(started);
    assert.ok(found.every((one) => "refused" in one && one.refused === "name_not_resolved"));
    assert.notEqual(await judge("good.test", "bad"), "zone_lookups_full", "they were given up");
  });

  it("are bounded for the process, too, and a zone that is over either bound goes on with what it knew", async () => {
    const names: Names = { ...hanging(6), "known.test": ["8.8.8.8"] };
    const bounds = { ...NAME_BOUNDS, zone_lookups: 2, lookups: 3 };
    const { judge, egress, pass } = await guard(names, { bounds });
    assert.equal(await judge("known.test", "a"), "allowed");
    pass(5_001);
    const started = [0, 1].map(async (at) => egress.check(new URL(`https://hang-${at}.test/`), "a"));
    assert.equal(await judge("known.test", "a"), "allowed", "as it was, for a minute");
    assert.equal(await judge("hang-2.test", "a"), "zone_lookups_full");
    started.push(Promise.resolve(egress.check(new URL("https://hang-3.test/"), "b")));
    assert.equal(await judge("hang-4.test", "b"), "lookups_full");
    assert.equal(await judge("known.test", "c"), "lookups_full", "another zone knows nothing of it");
    await Promise.all(started);
  });

  it("are asked for at the servers that it is told", async () => {
    const server = await nameServer({ "good.test": ["8.8.8.8"] });
    const options = { allow_private: false, allow_loopback: false, allowlist: [], production: false };
    const egress = createEgress({ ...options, clock: systemClock, dns_servers: [server.address] });
    assert.ok(!("refused" in (await egress.check(new URL("https://good.test/"), "zone"))));
    assert.equal(server.asked.length, 2);
  });

  it("are asked for less and less where they have no address", async () => {
    const names: Names = {};
    const { judge, pass, count } = await guard(names);
    for (const [round, pause_ms] of [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000].entries()) {
      assert.equal(await judge("late.test"), "name_not_resolved");
      assert.equal(count("late.test"), round + 1);
      pass(pause_ms - 1);
      assert.equal(await judge("late.test"), "name_not_resolved");
      assert.equal(count("late.test"), round + 1);
      pass(1);
    }
    names["late.test"] = ["8.8.8.8"];
    assert.equal(await judge("late.test"), "allowed");
  });

  it("stand for a minute where nobody answers any more, and not at all where the answer is that there is none", async () => {
    const names: Names = { "moved.test": ["8.8.8.8"], "gone.test": ["8.8.8.8"] };
    const { judge, pass } = await guard(names);
    assert.equal(await judge("moved.test"), "allowed");
    assert.equal(await judge("gone.test"), "allowed");
    names["moved.test"] = "servfail";
    delete names["gone.test"];
    pass(5_001);
    assert.equal(await judge("gone.test"), "name_not_resolved");
    for (let waited_ms = 5_001; waited_ms < 59_000; waited_ms += 6_000, pass(6_000))
      assert.equal(await judge("moved.test"), "allowed", `${waited_ms} ms`);
    pass(31_000);
    assert.equal(await judge("moved.test"), "name_not_resolved");
  });

  it("that move to a private address are refused once they are looked up again, one bad address among good ones too", async () => {
    const names: Names = { "flip.test": ["8.8.8.8", "2606:4700::1111"] };
    const { judge, pass } = await guard(names);
    assert.equal(await judge("flip.test"), "allowed");
    for (const address of ["127.0.0.1", "::1", "10.0.0.1", "64:ff9b:1::7f00:1"]) {
      names["flip.test"] = ["8.8.8.8", address, "2606:4700::1111"];
      pass(5_001);
      assert.equal(await judge("flip.test"), "address_refused", address);
    }
    names["flip.test"] = ["2606:4700::1111", "169.254.169.254"];
    pass(5_001);
    assert.equal(await judge("flip.test"), "metadata_address");
  });

  it("of a zone with many push out its own, then those of whoever has the most", async () => {
    const all = (zone: string, many: number): string[] => Array.from({ length: many }, (_, at) => `${zone}-${at}.test`);
    const names: Names = Object.fromEntries(
      ["a", "b", "c"].flatMap((zone) => all(zone, 6).map((name) => [name, ["8.8.8.8"]])),
    );
    const bounds = { ...NAME_BOUNDS, zone_names: 4, names: 6 };
    const { egress, count } = await guard(names, { bounds });
    const ask = async (zone: string, name: string, path: string): Promise<void> =>
      void (await egress.check(new URL(`https://${name}/${path}`), zone)); // another URL is judged anew
    for (const name of all("a", 6)) await ask("a", name, "1"); // the last four stay
    for (const name of all("b", 2)) await ask("b", name, "1");
    await ask("c", "c-0.test", "1"); // a's oldest goes
    for (const name of ["b-0.test", "b-1.test"]) await ask("b", name, "2");
    for (const name of ["a-3.test", "a-4.test", "a-5.test"]) await ask("a", name, "2");
    assert.deepEqual(
      ["b-0.test", "b-1.test", "c-0.test", "a-3.test", "a-4.test", "a-5.test"].map(count),
      [1, 1, 1, 1, 1, 1],
    );
    await ask("a", "a-2.test", "2");
    assert.equal(count("a-2.test"), 2);
  });
});
