import type { CliRig } from "./rig.ts";

/** A policy that allows, and says a word of its own. */
export const policy = (word: string): string => `package caracal.authz

# ${word}
result := {"decision": "allow", "evaluation_status": "complete", "determining_policies": ["${word}"], "diagnostics": []}
`;

/** A zone with one of everything, and two of what may be. */
export const FILE = `issuers:
  - name: people
    issuer_url: https://login.example.com
    audience: caracal
providers:
  - name: upstream
    kind: apikey
    allowed_hosts: [api.example.com]
    api_key: { file: key.txt }
applications:
  - name: agent
    scopes: [call]
    traits: [team:payments]
  - name: worker
    credential_types: [client_secret, workload]
    workload_issuer: people
    workload_claims: { sub: system-worker, env: prod }
resources:
  - identifier: resource://payments
    name: Payments
    upstream_url: https://api.example.com
    scopes: [call, read]
    provider: upstream
    application: agent
grants:
  - application: agent
    subject: people|ada
    resource: resource://payments
    scopes: [read]
policies:
  - name: first
    file: first.rego
  - name: second
    file: second.rego
policy_set:
  name: main
  policies: [first, second]
`;
export const KEY = "up-s3cr3t-key";

/** The file and what it names, in the rig's folder. */
export const writeZoneFile = (rig: CliRig): void => {
  rig.file("key.txt", `${KEY}\n`);
  rig.file("first.rego", policy("first"));
  rig.file("second.rego", policy("second"));
  rig.file("zone.yaml", FILE);
};
