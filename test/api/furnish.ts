import { uuidv7 } from "../../src/kernel/ids.ts";
import type { Route } from "./routes.ts";
import { expectOk, makeZone, type ServedApi } from "./serve.ts";

/** A zone that has one of everything, by the word of the path that leads to it. */
export type World = {
  readonly zone_id: string;
  /** A full one of the zone. */
  readonly token: string;
  readonly ids: Readonly<Record<string, string>>;
  /** A policy's source that needs no compiler. */
  readonly source: string;
};

export const furnish = async (api: ServedApi): Promise<World> => {
  const { zone_id, token } = await makeZone(api);
  const make = async (
    name: Parameters<typeof expectOk>[2],
    body: unknown,
    id = "",
  ): Promise<Readonly<Record<"id", string>>> =>
    (await expectOk(api.url, token, name, { params: { zone_id, id }, body })) as unknown as { id: string };
  const application = await make("createApplication", { name: "a" });
  const provider = await make("createProvider", { name: "p", kind: "apikey", allowed_hosts: ["r.example.com"] });
  const at = { name: "R", upstream_url: "https://r.example.com", scopes: ["s"] };
  const refers = { application_id: application.id, provider_id: provider.id };
  const resource = await make("createResource", { ...at, ...refers, identifier: "resource://r" });
  const [template] = (await expectOk(api.url, token, "listPolicyTemplates")).items;
  const source = template?.source ?? "";
  const policy = await make("createPolicy", { name: "p" });
  const version = await make("createPolicyVersion", { source }, policy.id);
  const set = await make("createPolicySet", { name: "s" });
  const entries = [{ policy_version_id: version.id }];
  const set_version = await make("createPolicySetVersion", { entries }, set.id);
  const session = uuidv7();
  await api.owner.sql`
    insert into sessions (zone_id, id, client_id, subject, sub_type, expires_at)
    values (${zone_id}, ${session}, ${application.id}, 'ann', 'user', now() + interval '1 hour')`;
  const challenges = [uuidv7(), uuidv7()] as const;
  for (const id of challenges) {
    await api.owner.sql`
      insert into step_up_challenges (zone_id, id, kind, secret_sha256, application_id, subject, scopes, expires_at)
      values (${zone_id}, ${id}, 'mfa', 'h', ${application.id}, 'ann', '{}', now() + interval '5 minutes')`;
  }
  const ids = {
    applications: application.id,
    providers: provider.id,
    resources: resource.id,
    issuers: (await make("createIssuer", { name: "i", issuer_url: "https://i.example.com", audience: "a" })).id,
    grants: (
      await make("createGrant", {
        application_id: application.id,
        resource_id: resource.id,
        subject: "i|ann",
        scopes: ["s"],
      })
    ).id,
    "registration-tokens": (await make("createRegistrationToken", { name: "t", expires_in_s: 60 })).id,
    "admin-tokens": (await make("createAdminToken", { label: "other" })).id,
    policies: policy.id,
    "policies/versions": version.id,
    "policy-sets": set.id,
    "policy-sets/versions": set_version.id,
    sessions: session,
    "step-up-challenges": challenges[0],
    // What is decided is decided: the other one is for the other answer. And what others depend on can't be archived.
    rejectChallenge: challenges[1],
    archiveApplication: (await make("createApplication", { name: "spare", kind: "public" })).id,
    archiveProvider: (await make("createProvider", { name: "spare", kind: "apikey", allowed_hosts: ["r.example.com"] }))
      .id,
    archiveResource: (await make("createResource", { ...at, identifier: "resource://spare" })).id,
    archiveIssuer: (await make("createIssuer", { name: "spare", issuer_url: "https://j.example.com", audience: "a" }))
      .id,
    archivePolicy: (await make("createPolicy", { name: "spare" })).id,
    archivePolicySet: (await make("createPolicySet", { name: "spare" })).id,
  };
  return { zone_id, token, ids, source };
};

/** What a parameter of the route's path is in that world. */
export const idOf = ({ name, path }: Route, parameter: string, { ids }: World): string => {
  const noun = /([a-z-]+)\/\{id\}/.exec(path)?.[1] ?? "";
  if (parameter === "version_id") return ids[`${noun}/versions`] ?? "";
  return ids[name] ?? ids[noun] ?? "";
};

/** The route's path in a world, with other ids where `others` has them. */
export const pathOf = (route: Route, world: World, others: Readonly<Record<string, string>> = {}): string =>
  route.path.replace(
    /\{([a-z_]+)\}/g,
    (_, name: string) =>
      others[name] ?? { zone_id: world.zone_id, name: "policies", request_id: "r" }[name] ?? idOf(route, name, world),
  );

/** A body of the operation that passes in a world. An operation that takes one must have one here. */
export const bodyOf = (name: string, { ids, zone_id, source }: World): unknown => {
  const at = { upstream_url: "https://r.example.com" };
  const tests = "package caracal.authz_test\ntest_nothing if true";
  const version_id = ids["policy-sets/versions"];
  const bodies: Readonly<Record<string, unknown>> = {
    createZone: { slug: `s-${uuidv7()}`, name: "S" },
    updateZone: { name: "n" },
    createAdminToken: { label: "l", zone_id },
    createApplication: {
      name: "n",
      credential_types: ["client_secret", "workload"],
      workload_issuer_id: ids["issuers"],
      workload_claims: { sub: "s" },
    },
    updateApplication: { workload_issuer_id: ids["issuers"] },
    createResource: {
      ...at,
      identifier: `resource://${uuidv7()}`,
      name: "N",
      application_id: ids["applications"],
      provider_id: ids["providers"],
    },
    updateResource: { application_id: ids["applications"], provider_id: ids["providers"] },
    createProvider: { name: uuidv7(), kind: "apikey", allowed_hosts: ["r.example.com"] },
    updateProvider: { name: uuidv7() },
    createIssuer: { name: "n", issuer_url: "https://i.example.com", audience: uuidv7() },
    updateIssuer: { name: "n" },
    createGrant: { application_id: ids["applications"], resource_id: ids["resources"], subject: uuidv7(), scopes: [] },
    updateGrant: { scopes: [] },
    putGrantCredential: { access_token: "t" },
    createRegistrationToken: { name: "n", expires_in_s: 60 },
    updateRegistrationToken: { name: "n" },
    setQuota: { limit: 400 },
    rotateKeys: { force: true },
    createPolicy: { name: uuidv7() },
    updatePolicy: { name: uuidv7() },
    createPolicySet: { name: uuidv7() },
    updatePolicySet: { name: uuidv7() },
    createPolicyVersion: { source },
    createPolicySetVersion: { entries: [{ policy_version_id: ids["policies/versions"] }] },
    testPolicy: { source, tests },
    activatePolicySet: { version_id },
    simulatePolicySet: { version_id, input: { principal: { id: "a" } } },
    revokeSubject: { subject: "nobody" },
  };
  return bodies[name];
};
