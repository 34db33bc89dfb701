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
    policy_set_entries: "SI",
    policy_set_versions: "SI",
    policy_sets: "SIU",
    policy_versions: "SI",
    providers: "SIU",
    quotas: "SIUD",
    resources: "SIU",
    schema_migrations: "S",
    sessions: "SUD",
    stream_seqs: "SIU",
    zone_keys: "SIUD",
    zones: "SIU",
  },
  caracal_sts: { grants: "S", issuers: "S", providers: "S", idempotency_keys: "" },
  caracal_coordinator: { grants: "", issuers: "", providers: "", idempotency_keys: "", zone_keys: "" },
  caracal_audit: { grants: "", issuers: "", providers: "", idempotency_keys: "", zone_keys: "", applications: "" },
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

  it("let the STS keep a credential that it refreshed, and change nothing else of a grant", async () => {
    const columns = await api.db.sql<{ column_name: string }[]>`
      select column_name from information_schema.column_privileges
      where grantee = 'caracal_sts' and table_name = 'grants' and privilege_type = 'UPDATE' order by column_name`;
    assert.deepEqual(
      columns.map((row) => row.column_name),
      ["credential_expires_at", "sealed_access_token", "sealed_refresh_token"],
    );
  });
});
