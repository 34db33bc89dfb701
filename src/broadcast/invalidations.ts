import type { Invalidation, OutboxStream, STREAMS } from "../contracts/streams.ts";
import type { Keyring } from "../domain/keyring.ts";
import type { Clock } from "../kernel/clock.ts";
import type { Log } from "../kernel/log.ts";
import type { Service } from "../kernel/service.ts";
import type { Streams } from "../ports/streams.ts";
import { type AnomalyKind, createFeed } from "./feed.ts";

export type InvalidationTopic = Exclude<OutboxStream, typeof STREAMS.revoke>;

export type InvalidationsOptions = {
  readonly streams: Streams;
  readonly ring: Keyring;
  /** Unique per process and purpose: `sts-caches:{instance_id}`. */
  readonly owner: string;
  readonly topics: readonly InvalidationTopic[];
  /** This object changed: forget what was derived from it. */
  readonly onInvalidate: (topic: InvalidationTopic, message: Invalidation) => void;
  /** Messages were missed, or may have been: forget everything. Called once at the start of reading, too. */
  readonly onLost: () => void;
  readonly clock: Clock;
  readonly log: Log;
  readonly onAnomaly?: (kind: AnomalyKind, stream: string, detail: string) => void;
};

/** `age_ms`: since the oldest of the topics' last matching heads; Infinity before the first. */
export type Invalidations = Service & { age_ms(): number; fault(): string | undefined };

/** Kinds that this build knows. A newer build may write others. */
const KINDS: Readonly<Record<Invalidation["kind"], true>> = {
  zone: true,
  application: true,
  resource: true,
  provider: true,
  issuer: true,
  grant: true,
  challenge: true,
  activation: true,
  key: true,
};

const isKind = (text: string | undefined): text is Invalidation["kind"] =>
  text !== undefined && Object.hasOwn(KINDS, text);

/** Makes caches read again what changed. It needs no snapshot: a cache that missed a message forgets everything. */
export const createInvalidations = (options: InvalidationsOptions): Invalidations => {
  const feed = createFeed({
    streams: options.streams,
    ring: options.ring,
    owner: options.owner,
    topics: options.topics,
    clock: options.clock,
    log: options.log,
    onLost: options.onLost,
    onMessage: ({ stream, zone_id, fields }) => {
      const { kind, id } = fields;
      if (isKind(kind) && id !== undefined) options.onInvalidate(stream as InvalidationTopic, { zone_id, kind, id });
      else options.onLost(); // this build does not know the kind, so anything may have changed
    },
    ...(options.onAnomaly === undefined ? {} : { onAnomaly: options.onAnomaly }),
  });
  return { ...feed, name: `invalidations ${options.owner}` };
};
