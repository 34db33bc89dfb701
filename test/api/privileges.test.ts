import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { serveApi, type ServedApi } from "./serve.ts";

/** What each role's user needs of the control plane's tables, and nothing more: one letter for each privilege. */
const NEEDED: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  caracal_api: {
    active_policy_sets: "SIUD",
    admin_audit: "SI",
    admin_tokens: "SIU",
    applications: "SIU",
    audit_event_ids: "S",
    audit_events: "S",
    audit_findings: "S",
    audit_heads: "S",
    bootstrap_use: "SI",
    grants: "SIU",
    idempotency_keys: "SIUD",
    issuers: "SIU",
    leases: "SIU",
    outbox: "SIUD",
    policies: "SIU",
    policy_activations: "S",
    policy_set_entries: "SI",
    policy_set_versions: "SI",
    policy_sets: "SIU",
    policy_versions: "SI",
    providers: "SIU",
    quotas: "SIUD",
    registration_tokens: "SIU",
    resources: "SIU",
    schema_migrations: "S",
    sessions: "SUD",
    step_up_challenges: "SD",
    stream_seqs: "SIU",
    sts_replicas: "S",
    zone_keys: "SIUD",
    zones: "SIU",
  },
  caracal_sts: {
    admin_audit: "I",
    sessions: "SI",
    grants: "S",
    issuers: "S",
    providers: "S",
    step_up_challenges: "SI",
    policy_activations: "SIUD",
    sts_replicas: "SIUD",
    idempotency_keys: "",
    quotas: "",
    agent_sessions: "S",
    delegation_budgets: "S",
    delegation_edges: "S",
    delegation_epochs: "S",
  },
  caracal_coordinator: {
    agent_sessions: "SIUD",
    delegation_budgets: "SID",
    delegation_edges: "SIUD",
    delegation_epochs: "SIU",
    policy_activations: "",
    sts_replicas: "",
    grants: "",
    issuers: "",
    providers: "",
    idempotency_keys: "",
    zone_keys: "",
  },
  caracal_audit: {
    policy_activations: "",
    sts_replicas: "",
    grants: "",
    issuers: "",
    providers: "",
    idempotency_keys: "",
    zone_keys: "",
    applications: "",
  },
};

const LETTERS: Readonly<Record<string, string>> = { SELECT: "S", INSERT: "I", UPDATE: "U", DELETE: "D" };

describe("the privileges that the control plane's tables give", () => {
  let api: ServedApi;
  before(async () => {
    api = await serveApi();
  });
  after(() => api.close());

  it("are those that each role needs, and no others", async () => {
    const rows = await api.db.sql<{ grantee: string; table_name: string; privilege_type: string }[]>`
      select grantee, table_name, privilege_type from information_schema.role_table_grants
      where table_schema = current_schema() and grantee like 'caracal\\_%'`;
    const of = (group: string, table: string): string =>
      Object.entries(LETTERS)
        .filter(([privilege]) =>
          rows.some((row) => row.grantee === group && row.table_name === table && row.privilege_type === privilege),
        )
        .map(([, letter]) => letter)
        .join("");
    for (const [group, tables] of Object.entries(NEEDED)) {
      const actual = Object.fromEntries(Object.keys(tables).map((table) => [table, of(group, table)]));
      assert.deepEqual(actual, tables, group);
    }
    assert.ok(rows.every((row) => Object.hasOwn(LETTERS, row.privilege_type)));
    const of_api = new Set(rows.filter((row) => row.grantee === "caracal_api").map((row) => row.table_name));
    assert.deepEqual([...of_api].toSorted(), Object.keys(NEEDED["caracal_api"] ?? {}));
  });

  it("let the STS keep a credential, end a session, consume a challenge and count a budget, and the control plane decide one: by column", async () => {
    const columns = async (grantee: string, table: string): Promise<readonly string[]> =>
      (
        await api.db.sql<{ column_name: string }[]>`
          select column_name from information_schema.column_privileges
          where grantee = ${grantee} and table_name = ${table} and privilege_type = 'UPDATE' order by column_name`
      ).map((row) => row.column_name);
    assert.deepEqual(await columns("caracal_sts", "grants"), [
      "credential_expires_at",
      "sealed_access_token",
      "sealed_refresh_token",
    ]);
    assert.deepEqual(await columns("caracal_sts", "sessions"), ["revoked_at"]);
    assert.deepEqual(await columns("caracal_sts", "step_up_challenges"), ["consumed_at", "failures"]);
    assert.deepEqual(await columns("caracal_sts", "delegation_budgets"), ["cost_used", "exchanges_used"]);
    assert.deepEqual(await columns("caracal_api", "step_up_challenges"), ["decided_at", "decided_by", "decision"]);
  });
});
