/** A noun of the command line. `paths`: what lies below them in the API is the noun's; the longest that fits has it. */
export type Noun = {
  readonly about: string;
  readonly paths: readonly string[];
  /** The filter by which one may be named instead of by its id. */
  readonly named_by?: string;
  /** What a table shows. */
  readonly columns: readonly string[];
};

/**
 * The nouns. Their verbs are the endpoints below their paths, and the verbs' options are the contracts' fields: an
 * endpoint that is added to the API is a command without a word here.
 */
export const NOUNS: Readonly<Record<string, Noun>> = {
  zone: {
    about: "Zones, what they may have, and what was changed and decided in them.",
    paths: ["/v1/zones", "/v1/bootstrap", "/v1/admin-audit"],
    named_by: "slug",
    columns: ["id", "slug", "name", "updated_at"],
  },
  app: {
    about: "Applications: agents and what else calls.",
    paths: ["/v1/zones/{zone_id}/applications"],
    named_by: "name",
    columns: ["id", "name", "kind", "scopes", "traits"],
  },
  resource: {
    about: "Resources: the upstreams that are protected.",
    paths: ["/v1/zones/{zone_id}/resources"],
    named_by: "identifier",
    columns: ["id", "identifier", "name", "upstream_url", "scopes"],
  },
  provider: {
    about: "Providers of the upstreams' own credentials.",
    paths: ["/v1/zones/{zone_id}/providers"],
    named_by: "name",
    columns: ["id", "name", "kind", "allowed_hosts", "secret_config_keys"],
  },
  issuer: {
    about: "Issuers that are trusted to name users and workloads.",
    paths: ["/v1/zones/{zone_id}/issuers"],
    named_by: "name",
    columns: ["id", "name", "issuer_url", "audience"],
  },
  policy: {
    about: "Policies and their versions.",
    paths: ["/v1/zones/{zone_id}/policies", "/v1/policy-templates"],
    named_by: "name",
    columns: ["id", "name", "version", "updated_at", "created_at"],
  },
  "policy-set": {
    about: "Policy sets, their versions, and which is active.",
    paths: ["/v1/zones/{zone_id}/policy-sets"],
    named_by: "name",
    columns: ["id", "name", "version", "updated_at", "created_at"],
  },
  grant: {
    about: "Grants: which application may use a resource for which user.",
    paths: ["/v1/zones/{zone_id}/grants"],
    columns: ["id", "application_id", "subject", "resource_id", "scopes"],
  },
  session: {
    about: "Sessions, and their end.",
    paths: ["/v1/zones/{zone_id}/sessions"],
    columns: ["id", "client_id", "subject", "status", "expires_at"],
  },
  key: {
    about: "A zone's signing keys.",
    paths: ["/v1/zones/{zone_id}/keys"],
    columns: ["kid", "created_at", "signs_from"],
  },
  token: {
    about: "Admin tokens of the control plane.",
    paths: ["/v1/admin-tokens"],
    columns: ["id", "zone_id", "label", "access", "expires_at", "last_used_at"],
  },
  "registration-token": {
    about: "Initial access tokens, with which clients register themselves.",
    paths: ["/v1/zones/{zone_id}/registration-tokens"],
    columns: ["id", "name", "scopes", "expires_at"],
  },
  challenge: {
    about: "Step-up challenges that wait for a decision, or had one.",
    paths: ["/v1/zones/{zone_id}/step-up-challenges"],
    columns: ["id", "kind", "status", "subject", "method", "path", "expires_at"],
  },
};

/** Verbs that the path does not tell well, by endpoint. */
export const VERBS: Readonly<Record<string, string>> = {
  bootstrap: "bootstrap",
  listAdminAudit: "changes-everywhere",
  listZoneAdminAudit: "changes",
  listAudit: "ledger",
  listAuditByRequest: "ledger-of-request",
  setQuota: "set-quota",
  replaceSecret: "rotate-secret",
  registerClient: "register",
  putGrantCredential: "set-credential",
  listPolicyTemplates: "templates",
  createPolicyVersion: "add-version",
  getPolicyVersion: "show-version",
  createPolicySetVersion: "add-version",
  getPolicySetVersion: "show-version",
  revokeSubject: "revoke-subject",
  revokeAdminToken: "revoke",
};
