import assert from "node:assert/strict";
import { TOKEN_PATH } from "../../src/contracts/sts.ts";
import { STREAMS } from "../../src/contracts/streams.ts";
import { enqueueInvalidation } from "../../src/broadcast/outbox-store.ts";
import { eventually } from "../support/eventually.ts";
import { type Answer, type Fixture, startFixture, type TestApplication, type TestResource } from "./fixture.ts";

/**
 * Reading is free; what changes something is approved first. `/closed` is denied whatever was approved, `/again` asks for ever,
 * and a call that is traced is denied: what may change between an approval and its use.
 */
export const ASKS = `package caracal.authz

default result := {"decision": "allow", "evaluation_status": "complete", "determining_policies": ["asks"], "diagnostics": []}

result := {"decision": "deny", "evaluation_status": "complete", "determining_policies": ["asks"], "diagnostics": [{"step_up_required": "human_approval"}]} if {
	asks
}

result := {"decision": "deny", "evaluation_status": "complete", "determining_policies": ["asks"], "diagnostics": ["closed"]} if {
	closed
	not asks
}

asks if {
	input.action.method != "GET"
	not input.context.challenge_resolved
}

asks if input.action.path == "/again"

closed if {
	input.action.method != "GET"
	input.action.path == "/closed"
}

closed if {
	input.action.method != "GET"
	input.context.trace_id != null
}
`;

export type Call = Readonly<Record<string, string>>;
export const WRITE: Call = { call_method: "POST", call_path: "/orders" };

export type Asked = { readonly id: string; readonly secret: string };

/** One zone whose policy asks for step-ups, an application, two resources, an ambient token. */
export const startStepUp = async () => {
  const f: Fixture = await startFixture();
  const zone = await f.newZone();
  const app = await f.newApplication(zone);
  const target = await f.newResource(zone);
  const other = await f.newResource(zone);
  await f.activate(zone, ASKS);
  const ambientOf = async (application: TestApplication): Promise<string> => {
    const answer = await eventually(async () => {
      const found = await f.ambient(zone, application);
      return found.status === 200 ? found : null;
    });
    return String(answer.body["access_token"]);
  };
  const ambient = await ambientOf(app);
  await eventually(async () => assert.equal((await f.exchange(zone, app, ambient, target.identifier)).status, 200));

  const call = (
    fields: Call = WRITE,
    by: { token?: string; application?: TestApplication; resource?: TestResource } = {},
  ) => f.exchange(zone, by.application ?? app, by.token ?? ambient, (by.resource ?? target).identifier, fields);

  return {
    f,
    zone,
    app,
    target,
    other,
    ambient,
    ambientOf,
    call,
    /** A path that no other test has asked for. */
    fresh: (): Call => ({ ...WRITE, call_path: `/orders/${crypto.randomUUID()}` }),
    ask: async (fields: Call): Promise<Asked> => {
      const { status, body } = await call(fields);
      assert.deepEqual([status, body["error"]], [401, "interaction_required"], JSON.stringify(body));
      return { id: String(body["challenge_id"]), secret: String(body["challenge_secret"]) };
    },
    /** As the control plane does. */
    decide: (id: string, decision: "satisfied" | "rejected") =>
      f.control.sql.begin(async (tx) => {
        await tx`update step_up_challenges set decision = ${decision}, decided_by = 'admin_token:x', decided_at = now()
          where zone_id = ${zone} and id = ${id} and decision is null`;
        await enqueueInvalidation(tx, STREAMS.config, { zone_id: zone, kind: "challenge", id });
      }),
    answering: (asked: Asked): Call => ({ challenge_id: asked.id, challenge_response: asked.secret }),
    /** Its time is over. */
    expire: (id: string) =>
      f.control
        .sql`update step_up_challenges set expires_at = now() - interval '1 second' where zone_id = ${zone} and id = ${id}`,
    row: async (id: string) => {
      const [row] = await f.control.sql<
        { failures: number; consumed_at: Date | null; secret_sha256: string; policy_set_version_id: string }[]
      >`select failures, consumed_at, secret_sha256, policy_set_version_id from step_up_challenges where zone_id = ${zone} and id = ${id}`;
      return row;
    },
    /** The same policy as another version of the set. */
    activate: () => f.activate(zone, ASKS),
    count: async (): Promise<number> => {
      const [row] = await f.control.sql<{ count: number }[]>`
        select count(*)::int as count from step_up_challenges where zone_id = ${zone}`;
      return row?.count ?? 0;
    },
    /** Within twenty seconds: a wait of a minute that nobody ended is a failure. */
    state: (id: string, query = "", token = ambient) =>
      fetch(`${f.url}/step-up/${id}${query}`, {
        headers: { authorization: `Bearer ${token}` },
        signal: AbortSignal.timeout(20_000),
      }),
    /** With a trace, which the policy of the test denies. */
    traced: async (fields: Call): Promise<number> => {
      const form = new URLSearchParams({
        grant_type: "urn:ietf:params:oauth:grant-type:token-exchange",
        zone_id: zone,
        client_id: app.id,
        client_secret: app.secret,
        subject_token: ambient,
        subject_token_type: "urn:ietf:params:oauth:token-type:access_token",
        resource: target.identifier,
        ...fields,
      });
      const traceparent = `00-${"1".repeat(32)}-${"2".repeat(16)}-01`;
      return (await fetch(`${f.url}${TOKEN_PATH}`, { method: "POST", body: form, headers: { traceparent } })).status;
    },
  };
};

export type StepUp = Awaited<ReturnType<typeof startStepUp>>;

export const refused = (answer: Answer, status: number, error: string, reason: string): void =>
  assert.deepEqual(
    [answer.status, answer.body["error"], answer.body["reason"]],
    [status, error, reason],
    JSON.stringify(answer.body),
  );
