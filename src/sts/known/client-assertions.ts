import { hash } from "node:crypto";
import { inZone } from "../../contracts/oauth.ts";
import { TOKEN_PATH } from "../../contracts/sts.ts";
import { readClientAssertion, workloadFault } from "../../domain/client-assertion.ts";
import { type Jws, verifyJws } from "../../domain/jws.ts";
import { lengthPrefixed } from "../../kernel/canonical.ts";
import type { Clock } from "../../kernel/clock.ts";
import { Problem } from "../../kernel/problem.ts";
import type { Marks } from "../../ports/marks.ts";
import type { CallNonce } from "../edge/gateway-calls.ts";
import type { ClientCredentials } from "./client-credentials.ts";
import { type ClientKeys, KeysUnavailable } from "./client-keys.ts";
import { createFailedLogins } from "./failed-logins.ts";
import type { Application, ZoneSnapshot } from "./snapshot.ts";
import type { Snapshots } from "./snapshots.ts";

const KIND = "client-assertion";

type Verified = {
  readonly status: "verified";
  readonly zone: ZoneSnapshot;
  readonly application: Application;
  readonly credential_type: "private_key_jwt" | "workload";
  /** Still to be asked about: a client's own assertion is good once. A workload shows its token as long as it lives. */
  readonly single_use: CallNonce | undefined;
};

/** `detail` is for the log. `unavailable`: its keys can't be had; `busy`: the zone is over its share of readings. */
export type AssertionResult =
  | Verified
  | { readonly status: "wrong" | "unavailable" | "busy"; readonly detail: string }
  | { readonly status: "throttled"; readonly retry_after_s: number };

export type AssertionQuestion = {
  readonly zone_id: string;
  readonly zone: ZoneSnapshot | undefined;
  readonly client_id: string;
  readonly address: string;
  readonly assertion: Jws;
  readonly now_ms: number;
};

export type ClientAssertions = {
  /** Rejects with `Unavailable` where the database can't be asked. */
  verify(question: AssertionQuestion): Promise<AssertionResult>;
};

const wrong = (detail: string): AssertionResult => ({ status: "wrong", detail });

/**
 * Clients by a signed assertion (RFC 7523): their own, by a key that they registered, or one that a registered issuer gave
 * their workload. Which of the two it is says `iss`. A signature is cheaper than a password hash and can't be guessed, so
 * each is verified first, whatever failed from its address before; a failure is charged before the zone is read anew for it,
 * and one that is over the count is refused without that. So strangers behind one's load balancer lock nobody out.
 */
export const createClientAssertions = (deps: {
  readonly snapshots: Pick<Snapshots, "latest">;
  readonly credentials: ClientCredentials;
  readonly keys: ClientKeys;
  readonly marks: Marks;
  /** `ISSUER_URL`, without a slash at its end. */
  readonly issuer_url: string;
  readonly clock: Clock;
}): ClientAssertions => {
  const { snapshots, marks, issuer_url } = deps;
  const failures = createFailedLogins(deps.clock);

  const audiencesOf = (zone_id: string): readonly string[] => [
    `${issuer_url}${inZone("", zone_id)}`,
    `${issuer_url}${inZone(TOKEN_PATH, zone_id)}`,
    `${issuer_url}${TOKEN_PATH}`,
  ];

  const once = (zone_id: string, client_id: string, use: { jti: string; issued_s: number; expires_s: number }) =>
    ({
      use: async () => {
        const name = hash("sha256", lengthPrefixed([zone_id, client_id, use.jti]), "base64url");
        const result = await marks.once(KIND, name, Math.floor(use.issued_s * 1_000), Math.ceil(use.expires_s * 1_000));
        return result === "marked" ? "new" : "replayed";
      },
    }) satisfies CallNonce;

  const judge = async (question: AssertionQuestion, zone: ZoneSnapshot): Promise<AssertionResult> => {
    const { client_id, assertion, now_ms } = question;
    const { zone_id } = zone;
    const application = zone.applications.get(client_id);
    const version = application?.assertion_version;
    if (application === undefined || version === undefined) return wrong("no client that authenticates so");
    const credentials = await deps.credentials.get(zone_id, client_id, version);
    const { own, workload } = credentials ?? {};
    const { claims } = assertion;
    const verdictBy = (source: NonNullable<typeof own>) =>
      deps.keys.judge(zone_id, source, (keys) => verifyJws(assertion, keys));

    if (claims["iss"] === client_id) {
      if (own === undefined) return wrong("no private_key_jwt");
      const read = readClientAssertion(assertion, { client_id, audiences: audiencesOf(zone_id), now_ms });
      if (typeof read === "string") return wrong(read);
      const verdict = await verdictBy(own);
      if (verdict !== "verified") return wrong(`signature: ${verdict}`);
      const single_use = once(zone_id, client_id, read);
      return { status: "verified", zone, application, credential_type: "private_key_jwt", single_use };
    }
    if (workload === undefined) return wrong("no workload");
    const fault = workloadFault(claims, workload.rule, now_ms);
    if (fault !== undefined) return wrong(fault);
    const verdict = await verdictBy(workload.keys);
    if (verdict !== "verified") return wrong(`signature: ${verdict}`);
    return { status: "verified", zone, application, credential_type: "workload", single_use: undefined };
  };

  const judgeOr = async (question: AssertionQuestion, zone: ZoneSnapshot | undefined): Promise<AssertionResult> => {
    if (zone === undefined) return wrong("no such zone");
    try {
      return await judge(question, zone);
    } catch (error) {
      if (error instanceof KeysUnavailable) return { status: "unavailable", detail: error.message };
      if (error instanceof Problem) return { status: "busy", detail: error.description };
      throw error;
    }
  };

  return {
    async verify(question) {
      const { zone_id, zone, client_id } = question;
      const result = await judgeOr(question, zone);
      if (result.status !== "wrong") return result;
      const attempt = { zone_id, zone_exists: zone !== undefined, client_id, address: question.address };
      const wait_ms = failures.wait_ms(attempt);
      if (wait_ms > 0) return { status: "throttled", retry_after_s: Math.ceil(wait_ms / 1_000) };
      const giveBack = failures.charge(attempt);
      try {
        const late = await snapshots.latest(zone_id);
        const versionIn = (one: ZoneSnapshot | undefined) => one?.applications.get(client_id)?.assertion_version;
        if (versionIn(late) === versionIn(zone)) return result;
        const again = await judgeOr(question, late);
        if (again.status !== "wrong") giveBack();
        return again;
      } catch (error) {
        giveBack();
        throw error;
      }
    },
  };
};
