import assert from "node:assert/strict";
import { generateKeyPairSync, type KeyObject } from "node:crypto";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { type AddressInfo, connect, type Socket } from "node:net";
import { createEgress, createUpstreams } from "../../src/adapters/egress/index.ts";
import { createMarks } from "../../src/adapters/memory/marks.ts";
import type { ExchangeAnswer, GatewayExchange } from "../../src/contracts/exchange.ts";
import type { BindingsPage, JwksResponse } from "../../src/contracts/sts.ts";
import type { AuditDraft, AuditWriter } from "../../src/domain/audit-event.ts";
import type { AuthorityIds, RevocationEvent, Revocations } from "../../src/domain/revocation.ts";
import { type Claims, issuerOf, signToken } from "../../src/domain/token.ts";
import { createGateway, type GatewayDeps, type GatewayRole } from "../../src/gateway/index.ts";
import type { Cancellation } from "../../src/kernel/cancel.ts";
import { systemClock } from "../../src/kernel/clock.ts";
import { uuidv7 } from "../../src/kernel/ids.ts";
import { createLog } from "../../src/kernel/log.ts";
import { createMetrics } from "../../src/kernel/metrics.ts";
import type { Sts } from "../../src/ports/sts.ts";
import { eventually } from "../support/eventually.ts";

export const ISSUER = "https://issuer.test";
export const ZONE = "zone-1";
export const RESOURCE = "resource://demo";
export const RESOURCE_ID = "res-1";

/** A zone's key pair as the STS would have it. */
export const keyPair = (kid: string): { privateKey: KeyObject; jwk: JwksResponse["keys"][number] } => {
  const { privateKey, publicKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const { x, y } = publicKey.export({ format: "jwk" });
  return { privateKey, jwk: { kty: "EC", crv: "P-256", x: String(x), y: String(y), kid, alg: "ES256", use: "sig" } };
};

const listening = async (server: Server): Promise<number> => {
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return (server.address() as AddressInfo).port;
};

/** A revocation state that the test moves by hand: what the Gateway makes of it is the matter here. */
export const handRevocations = () => {
  const marks = new Set<string>();
  const events = new Set<(event: RevocationEvent) => void>();
  const snapshots = new Set<() => void>();
  let age_ms = 0;
  const revocations: Revocations = {
    revoked: (zone_id, kind, id) => marks.has(`${zone_id} ${kind} ${id}`),
    age_ms: () => age_ms,
    get size() {
      return marks.size;
    },
    onEvent(changed) {
      events.add(changed);
      return () => events.delete(changed);
    },
    onSnapshot(changed) {
      snapshots.add(changed);
      return () => snapshots.delete(changed);
    },
  };
  return {
    revocations,
    setAge: (to_ms: number) => {
      age_ms = to_ms;
    },
    revoke: (kind: RevocationEvent["kind"], id: string, zone_id = ZONE) => {
      marks.add(`${zone_id} ${kind} ${id}`);
      for (const changed of events) changed({ op: "revoke", kind, id, zone_id, expires_at: Infinity });
    },
    /** As a snapshot does: the marks change, and no event tells which. */
    snapshot: (kind: RevocationEvent["kind"], id: string) => {
      marks.add(`${ZONE} ${kind} ${id}`);
      for (const changed of snapshots) changed();
    },
    /** Quietly, as between two checks. */
    mark: (kind: RevocationEvent["kind"], id: string) => marks.add(`${ZONE} ${kind} ${id}`),
  };
};

export type FakeSts = Sts & {
  readonly exchanges: GatewayExchange[];
  readonly jwks_asked: string[];
  answer: (request: GatewayExchange, signal: Cancellation) => ExchangeAnswer | Promise<ExchangeAnswer>;
  keysOf: (zone_id: string) => JwksResponse | undefined | Promise<JwksResponse | undefined>;
  bound: () => BindingsPage | Promise<BindingsPage>;
};

export type UpstreamHandler = (request: IncomingMessage, response: ServerResponse) => void;
export type Rig = Awaited<ReturnType<typeof createRig>>;
export type RigOptions = Partial<Omit<GatewayDeps, "sts" | "revocations" | "metrics" | "audit">> & {
  /** Behind the upstream's origin. */
  readonly base?: string;
  readonly upstream_url?: string;
};

/** A Gateway on a port, with a real upstream behind it and an STS that the test speaks for. */
export const createRig = async (options: RigOptions = {}) => {
  let handler: UpstreamHandler = (_request, response) => response.end("hello");
  const seen: { method: string; url: string; headers: string[] }[] = [];
  const upstream = createServer((request, response) => {
    seen.push({ method: request.method ?? "", url: request.url ?? "", headers: request.rawHeaders });
    handler(request, response);
  });
  const upstream_port = await listening(upstream);
  const upstream_origin = `http://127.0.0.1:${upstream_port}`;
  const upstream_url = options.upstream_url ?? `${upstream_origin}${options.base ?? ""}`;

  const zone_key = keyPair("kid-1");
  const hand = handRevocations();
  const drafts: (AuditDraft & { id: string })[] = [];
  let ledger_fault: Error | undefined;
  const audit: AuditWriter = {
    async append(draft) {
      if (ledger_fault !== undefined) throw ledger_fault;
      return audit.record(draft);
    },
    record(draft) {
      const id = draft.id ?? uuidv7();
      drafts.push({ ...draft, id });
      return id;
    },
    flush: async () => undefined,
  };

  const claims = (over: Partial<Claims> = {}): Claims => {
    const now_s = Math.floor(Date.now() / 1000);
    return {
      iss: issuerOf(ISSUER, ZONE),
      sub: "app-1",
      aud: issuerOf(ISSUER, ZONE),
      exp: now_s + 600,
      iat: now_s - 5,
      jti: uuidv7(),
      zone_id: ZONE,
      client_id: "app-1",
      scope: "read",
      sid: "session-1",
      use: "ambient",
      sub_type: "application",
      target: [],
      ...over,
    };
  };
  const ambient = (over: Partial<Claims> = {}): string => signToken(zone_key.privateKey, "kid-1", claims(over));
  const mandate = (over: Partial<Claims> = {}): string =>
    ambient({ use: "per_call", aud: RESOURCE, target: [RESOURCE], ...over });

  const sts: FakeSts = {
    exchanges: [],
    jwks_asked: [],
    answer: (request) => allow(request),
    keysOf: (zone_id) => (zone_id === ZONE ? { keys: [zone_key.jwk] } : undefined),
    bound: () => ({
      version: "1",
      zones: [{ zone_id: ZONE, resources: [{ id: RESOURCE_ID, identifier: RESOURCE, upstream_url }] }],
    }),
    async exchange(request, signal) {
      sts.exchanges.push(request);
      return sts.answer(request, signal);
    },
    bindings: async (query) => {
      const bound = await sts.bound();
      if ("zone_id" in query) return { zones: bound.zones.filter(({ zone_id }) => zone_id === query.zone_id) };
      return "since" in query && bound.version === query.since ? undefined : bound;
    },
    revocations: async () => ({ position: "0-0", zones: [] }),
    async jwks(zone_id) {
      sts.jwks_asked.push(zone_id);
      return sts.keysOf(zone_id);
    },
  };
  /** As the STS does: a mandate stands for what its subject token stands for. */
  const standingOf = ({ subject_token }: GatewayExchange): Partial<AuthorityIds> => {
    const payload = subject_token?.split(".")[1];
    return payload === undefined ? {} : (JSON.parse(Buffer.from(payload, "base64url").toString()) as AuthorityIds);
  };
  const allow = (request: GatewayExchange, auth_exp = Math.floor(Date.now() / 1000) + 3600): ExchangeAnswer => ({
    ok: true,
    body: {
      access_token: `mandate-for-${request.resource}`,
      token_type: "Bearer",
      expires_in: 300,
      scope: "read",
      issued_token_type: "urn:ietf:params:oauth:token-type:access_token",
      target_resources: [request.resource],
      session_id: standingOf(request).sid ?? "session-1",
      agent_session_id: standingOf(request).agent_session_id,
      delegation_edge_id: standingOf(request).delegation_edge_id,
      grant_id: standingOf(request).grant_id,
      upstreams: { [request.resource]: { url: upstream_url, auth_mode: "caracal_jwt" } },
      decision_id: "decision-1",
      auth_exp,
    },
  });

  const metrics = createMetrics();
  const clock = options.clock ?? systemClock;
  const upstreams = options.upstreams ?? createUpstreams({ connect_timeout_ms: 2_000 });
  const marks = options.marks ?? createMarks(clock);
  const role: GatewayRole = createGateway({
    sts,
    revocations: hand.revocations,
    marks,
    audit,
    egress: createEgress({ allow_private: false, allow_loopback: true, allowlist: [], production: false, clock }),
    upstreams,
    clock,
    log: createLog({ level: "silent" }),
    metrics,
    issuer_url: ISSUER,
    max_calls: 1_000,
    zone_share: 0.75,
    client_share: 0.5,
    max_request_bytes: 1024 * 1024,
    sts_timeout_ms: 2_000,
    upstream_timeout_ms: 5_000,
    stream_idle_timeout_ms: 60_000,
    stream_max_s: 600,
    jti_fail_open: false,
    ...options,
  });
  for (const service of role.services) if ("tick" in service) await (service.tick as () => Promise<void>)();

  const server = createServer((request, response) => role.handle(request, response));
  server.on("checkContinue", (request: IncomingMessage, response: ServerResponse) => role.handle(request, response));
  const port = await listening(server);

  return {
    role,
    server,
    port,
    url: `http://127.0.0.1:${port}`,
    upstream_origin,
    upstream_port,
    sts,
    allow,
    seen,
    drafts,
    ...hand,
    ambient,
    mandate,
    claims,
    zone_key,
    /** From now on the ledger takes nothing durably, for this reason. */
    ledger: (fault: Error | undefined) => {
      ledger_fault = fault;
    },
    upstream: (next: UpstreamHandler) => {
      handler = next;
    },
    /** A call as an ordinary client makes it. */
    call: (path = "/", init: RequestInit & { token?: string } = {}) => {
      const { token, headers, ...rest } = init;
      return fetch(`http://127.0.0.1:${port}${path}`, {
        ...rest,
        headers: {
          authorization: `Bearer ${token ?? ambient()}`,
          "x-caracal-resource": RESOURCE,
          ...(headers as Record<string, string> | undefined),
        },
      });
    },
    connections: (counted: (count: number) => void) => server.getConnections((_error, count) => counted(count)),
    metric: async (name: string): Promise<number> => {
      const line = (await metrics.text()).split("\n").find((text) => text.startsWith(`${name} `));
      assert.ok(line !== undefined, `there is a metric ${name}`);
      return Number(line.split(" ")[1]);
    },
    outcomes: () =>
      drafts
        .filter((draft) => draft.event_type === "gateway.outcome")
        .map((draft) => JSON.parse(draft.metadata_json ?? "{}")),
    async close() {
      role.drain?.();
      for (const service of role.services) await service.stop(1_000);
      server.closeAllConnections();
      upstream.closeAllConnections();
      await Promise.all([new Promise((done) => server.close(done)), new Promise((done) => upstream.close(done))]);
      await upstreams.close();
    },
  };
};

/** A connection that hides nothing. */
export const openRaw = async (port: number) => {
  const socket: Socket = connect({ port, host: "127.0.0.1" });
  let text = "";
  let closed: "no" | "end" | "error" = "no";
  socket.setEncoding("latin1");
  socket.on("data", (chunk: string) => (text += chunk));
  socket.on("error", () => (closed = "error"));
  socket.on("close", () => (closed = closed === "no" ? "end" : closed));
  await new Promise<void>((resolve) => socket.once("connect", () => resolve()));
  return {
    socket,
    write: (what: string | Buffer) => socket.write(what),
    text: () => text,
    closed: () => closed,
    until: (pattern: RegExp, timeout_ms = 3_000) =>
      eventually(() => pattern.test(text), { timeout_ms }).then(() => text),
    untilClosed: (timeout_ms = 3_000) => eventually(() => closed !== "no", { timeout_ms }).then(() => text),
    destroy: () => socket.destroy(),
  };
};

/** A request's text: head and body. */
export const requestText = (line: string, headers: Readonly<Record<string, string>>, body = ""): string =>
  `${line} HTTP/1.1\r\nHost: gateway.test\r\n${Object.entries(headers)
    .map(([name, value]) => `${name}: ${value}\r\n`)
    .join("")}\r\n${body}`;
