import { createEgress, createUpstreams } from "../../adapters/egress/index.ts";
import { createStsHttp } from "../../adapters/sts-http/index.ts";
import { createInvalidations } from "../../broadcast/invalidations.ts";
import { createRevocations } from "../../broadcast/revocations.ts";
import { deadLetterOf, STREAMS } from "../../contracts/streams.ts";
import { createGateway } from "../../gateway/index.ts";
import { createMetrics } from "../../kernel/metrics.ts";
import { type Service, within } from "../../kernel/service.ts";
import { required } from "../parts.ts";
import type { MakeRole } from "../make-role.ts";

/** To have a connection to an upstream; the rest of UPSTREAM_TIMEOUT is for its answer. */
const CONNECT_TIMEOUT_MS = 10_000;

/** The Gateway. It calls an STS of its own thread directly and shares its revocation state; else it has its own, and HTTPS. */
export const makeGateway: MakeRole<"gateway"> = (parts, { sts }) => {
  const { config, clock } = parts;
  const log = parts.log.child({ role: "gateway" });
  const audit_writer = required(parts.audit_writer, "AUDIT_REPLAY_DIR");
  const owner = `gateway:${parts.instance_id}`;
  const feed = { streams: parts.streams, ring: parts.streams_ring, owner, clock, log };
  const over_http =
    sts === undefined
      ? createStsHttp({
          url: required(config.STS_URL, "STS_URL"),
          ring: parts.gateway_ring,
          timeout_ms: config.STS_TIMEOUT,
          clock,
        })
      : undefined;
  const direct = sts?.direct ?? required(over_http, "STS_URL");
  const own =
    sts === undefined
      ? createRevocations({ ...feed, loadSnapshot: (cursor) => direct.revocations(cursor) })
      : undefined;
  const upstreams = createUpstreams({
    connect_timeout_ms: Math.min(config.UPSTREAM_TIMEOUT, CONNECT_TIMEOUT_MS),
    shares: {
      limit: config.UPSTREAM_CALLS,
      zone_share: config.UPSTREAM_ZONE_PERCENT / 100,
      client_share: config.UPSTREAM_CLIENT_PERCENT / 100,
    },
  });
  const dead_letters = [STREAMS.revoke, STREAMS.audit].map(deadLetterOf);
  const role = createGateway({
    sts: direct,
    revocations: sts?.revocations ?? required(own, "STS_URL"),
    marks: parts.marks,
    audit: audit_writer,
    egress: createEgress({
      allow_private: config.ALLOW_PRIVATE_UPSTREAMS,
      allow_loopback: !config.production,
      allowlist: config.UPSTREAM_HOST_ALLOWLIST,
      production: config.production,
      dns_servers: config.DNS_SERVERS,
      clock,
    }),
    upstreams,
    clock,
    log,
    metrics: createMetrics(parts.process_metrics),
    issuer_url: parts.issuer_url,
    max_calls: config.GATEWAY_CALLS,
    zone_share: config.GATEWAY_ZONE_PERCENT / 100,
    client_share: config.GATEWAY_CLIENT_PERCENT / 100,
    max_request_bytes: config.MAX_REQUEST_BYTES,
    sts_timeout_ms: config.STS_TIMEOUT,
    upstream_timeout_ms: config.UPSTREAM_TIMEOUT,
    stream_idle_timeout_ms: config.STREAM_IDLE_TIMEOUT,
    stream_max_s: config.STREAM_MAX_SECONDS,
    jti_fail_open: config.JTI_FAIL_OPEN,
    deadLetters: async () =>
      new Map(await Promise.all(dead_letters.map(async (name) => [name, await parts.streams.length(name)] as const))),
  });
  const invalidations = createInvalidations({
    ...feed,
    topics: [STREAMS.keys, STREAMS.config],
    onInvalidate: (_topic, message) => role.invalidated(message),
    onLost: () => role.invalidationsLost(),
  });
  const connections: Service = {
    name: "gateway-connections",
    start: async () => {},
    stop: async (deadline_ms) => {
      await within(deadline_ms, Promise.all([upstreams.close(), over_http?.close()]));
    },
  };
  return { role, services: [connections, ...(own === undefined ? [] : [own]), invalidations] };
};
