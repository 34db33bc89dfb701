import type { WorkloadRule } from "../../domain/client-assertion.ts";
import { readJwks } from "../../domain/jws.ts";
import type { Clock } from "../../kernel/clock.ts";
import { createKeptShares } from "../../kernel/kept-shares.ts";
import { createTurns } from "../../kernel/turns.ts";
import type { Database } from "../../ports/database.ts";
import { Unavailable } from "../../ports/streams.ts";
import { type CredentialsRow, type KeyPlaceRow, readCredentials } from "../store/credentials.ts";
import type { KeySource } from "./client-keys.ts";

/** Clients of all zones; above it the zone with most of them gives one up. */
const MAX_CLIENTS = 2_048;
/** Readings: of a zone one at a time, and a tenth of the time in all. */
const READINGS = { running_max: 4, zone_waiting_max: 64, zones_max: 10_000, zone_ms_per_minute: 6_000 } as const;

/** How an application authenticates by an assertion, as of one version of its registration. */
export type Credentials = {
  readonly version: string;
  /** Its own (`private_key_jwt`): by these keys. */
  readonly own: KeySource | undefined;
  /** Its workload's: by the issuer's keys, where the token says what the rule wants. */
  readonly workload: { readonly rule: WorkloadRule; readonly keys: KeySource } | undefined;
};

export type ClientCredentials = {
  /**
   * Those of an application of that version: at once where they are held, else by one reading for all who ask. A later
   * version where the database has one already. Rejects with a `Problem` where the zone is over its share of
   * readings, and with `Unavailable`.
   */
  get(zone_id: string, application_id: string, version: string): Promise<Credentials | undefined>;
};

const sourceOf = ({ jwks, jwks_uri }: KeyPlaceRow, issuer_url: string | undefined): KeySource | undefined => {
  if (jwks !== null) return { from: "registration", keys: readJwks(jwks) };
  if (jwks_uri !== null) return { from: "jwks_uri", url: jwks_uri };
  return issuer_url === undefined ? undefined : { from: "issuer", url: issuer_url };
};

const credentialsOf = ({ version, own, workload }: CredentialsRow): Credentials => {
  const keys = workload === null ? undefined : sourceOf(workload, workload.issuer_url);
  return {
    version,
    own: own === null ? undefined : sourceOf(own, undefined),
    workload:
      workload === null || keys === undefined
        ? undefined
        : {
            rule: { issuer_url: workload.issuer_url, audience: workload.audience, claims: workload.claims },
            keys,
          },
  };
};

/**
 * Keys and claims are not in the snapshot of a zone: 10 000 applications would fill it with what few of them use. The
 * snapshot has their version, so that what is held here is as fresh as it is.
 */
export const createClientCredentials = (deps: { readonly db: Database; readonly clock: Clock }): ClientCredentials => {
  const kept = createKeptShares<string, Credentials>(MAX_CLIENTS);
  const turns = createTurns({
    ...READINGS,
    clock: deps.clock,
    names: { waiting: "credential_readings", seconds: "credential_reading_seconds", busy: "credential_readings_busy" },
  });
  const readings = new Map<string, Promise<Credentials | undefined>>();

  const read = async (zone_id: string, application_id: string): Promise<Credentials | undefined> => {
    const row = await readCredentials(deps.db.sql, zone_id, application_id).catch((error: unknown) => {
      throw new Unavailable("database", error);
    });
    if (row === undefined) return undefined;
    const credentials = credentialsOf(row);
    kept.put(zone_id, application_id, credentials);
    return credentials;
  };

  return {
    async get(zone_id, application_id, version) {
      const known = kept.take(zone_id, application_id);
      if (known?.version === version) {
        kept.put(zone_id, application_id, known); // used last
        return known;
      }
      const place = `${zone_id}/${application_id}/${version}`;
      const running = readings.get(place);
      if (running !== undefined) return running;
      const reading = turns
        .take(zone_id, {}, () => read(zone_id, application_id))
        .finally(() => readings.delete(place));
      readings.set(place, reading);
      return reading;
    },
  };
};
