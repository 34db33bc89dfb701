import assert from "node:assert/strict";
import { after, before, beforeEach, describe, it } from "node:test";
import { type Claims, signToken } from "../../src/domain/token.ts";
import { openZoneKey } from "../../src/domain/zone-key.ts";
import { Problem } from "../../src/kernel/problem.ts";
import type { DelegationPath } from "../../src/domain/delegation.ts";
import { countExchange } from "../../src/sts/store/delegations.ts";
import { createDelegations } from "../../src/sts/known/delegations.ts";
import { uuidv7 } from "../../src/kernel/ids.ts";
import { TOKEN_TYPE_ACCESS_TOKEN } from "../../src/contracts/sts.ts";
import type { GatewayExchange } from "../../src/contracts/exchange.ts";
import { documentsAmong, rebuiltInputs } from "../audit/rebuilt.ts";
import { eventually } from "../support/eventually.ts";
import {
  ALLOW_AGENTS,
  type Answer,
  claimsOf,
  type Fixture,
  startFixture,
  type TestApplication,
  type TestResource,
  tokenOf,
} from "./fixture.ts";
import { createGraph, type Graph, type TestAgent } from "./graph.ts";

const reasonOf = (answer: Pick<Answer, "status" | "body">) => [
  answer.status,
  answer.body["error"],
  answer.body["reason"],
];
const refused = (answer: Answer, reason: string, status = 403, error = "access_denied"): void =>
  assert.deepEqual(reasonOf(answer), [status, error, reason], JSON.stringify(answer.body));

describe("who runs, and by whose authority", () => {
  let f: Fixture;
  let zone: string;
  let graph: Graph;
  /** Has no scope of its own: all that it may do, somebody gave to it. */
  let helper: TestApplication;
  let owner: TestApplication;
  let target: TestResource;
  let second: TestResource;

  before(async () => {
    f = await startFixture();
    zone = await f.newZone();
    owner = await f.newApplication(zone, { scopes: ["read", "write", "coordinator.admin"] });
    helper = await f.newApplication(zone, { scopes: [] });
    target = await f.newResource(zone, { scopes: ["read", "write"] });
    second = await f.newResource(zone, { scopes: ["read", "write"] });
    await f.activate(zone, ALLOW_AGENTS);
    graph = createGraph(f, zone);
    await eventually(async () => (await f.ambient(zone, owner, { resource: target.identifier })).status === 200);
  });
  after(() => f.close());

  const ambientOf = (application: TestApplication, fields: Readonly<Record<string, string>> = {}) =>
    f.ambient(zone, application, fields);
  const exchangeOf = (
    application: TestApplication,
    token: string,
    fields: Readonly<Record<string, string>> = {},
    resource: TestResource = target,
  ) => f.exchange(zone, application, token, resource.identifier, fields);
  /** Signed by the zone's own key: whatever it says, only the checks behind the signature can refuse it. */
  const forged = async (of: string, some: Partial<Claims>): Promise<string> => {
    const [row] = await f.control.sql<{ kid: string; sealed_private: string }[]>`
      select kid, sealed_private from zone_keys where zone_id = ${zone}`;
    assert.ok(row !== undefined);
    return signToken(openZoneKey(f.kek, zone, row.kid, row.sealed_private), row.kid, { ...claimsOf(of), ...some });
  };
  const throughGateway = (subject_token: string, some: Partial<GatewayExchange> = {}) =>
    f.role.direct.exchange(
      {
        zone_id: zone,
        subject_token,
        resource: target.identifier,
        method: "GET",
        path: "/",
        request_id: uuidv7(),
        traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ...some,
      },
      new AbortController().signal,
    );

  describe("an agent session", () => {
    it("is named at the ambient token or at the exchange, and stands in the token, the ledger and policy's input", async () => {
      const agent = await graph.agent(owner);
      const at_issue = tokenOf(await ambientOf(owner, { agent_session_id: agent.id }));
      assert.equal(claimsOf(at_issue).agent_session_id, agent.id);
      const plain = tokenOf(await ambientOf(owner));
      assert.equal(claimsOf(plain).agent_session_id, undefined);
      for (const answer of [
        await exchangeOf(owner, at_issue),
        await exchangeOf(owner, at_issue, { agent_session_id: agent.id }),
        await exchangeOf(owner, plain, { agent_session_id: agent.id }),
      ]) {
        const claims = claimsOf(tokenOf(answer));
        assert.equal(claims.agent_session_id, agent.id);
        const events = await f.events();
        const event = events.find((one) => one.id === claims.jti);
        assert.ok(event !== undefined);
        assert.equal(event.agent_session_id, agent.id);
        const [input] = rebuiltInputs(event, documentsAmong(events));
        assert.equal(input?.principal.agent_session_id, agent.id);
        assert.equal(input?.context.agent_session_id, agent.id);
      }
    });

    it("ends every token that was made for it when it ends", async () => {
      const agent = await graph.agent(owner, { expires_in_s: 100 });
      const ambient = tokenOf(await ambientOf(owner, { agent_session_id: agent.id }));
      const left_s = claimsOf(ambient).exp - claimsOf(ambient).iat;
      assert.ok(left_s > 90 && left_s <= 100, `${left_s} s`);
      const plain = tokenOf(await ambientOf(owner));
      const mandate = claimsOf(tokenOf(await exchangeOf(owner, plain, { agent_session_id: agent.id })));
      assert.equal(mandate.exp, claimsOf(ambient).exp);
      assert.equal(mandate.auth_exp, mandate.exp);
    });

    it("of nobody, another zone or another application is refused", async () => {
      const ambient = tokenOf(await ambientOf(owner));
      const other_zone = await f.newZone();
      const stranger = await f.newApplication(other_zone);
      const elsewhere = await createGraph(f, other_zone).agent(stranger);
      const there = createGraph(f, other_zone);
      const edge_there = await there.edge(elsewhere, await there.agent(stranger));
      refused(await ambientOf(owner, { delegation_edge_id: edge_there }), "delegation_edge_unknown");
      for (const id of [uuidv7(), "no-id", elsewhere.id]) {
        refused(await ambientOf(owner, { agent_session_id: id }), "agent_session_unknown");
        refused(await exchangeOf(owner, ambient, { agent_session_id: id }), "agent_session_unknown");
      }
      const others = await graph.agent(helper);
      refused(await ambientOf(owner, { agent_session_id: others.id }), "agent_session_client");
      refused(await exchangeOf(owner, ambient, { agent_session_id: others.id }), "agent_session_client");
    });

    it("that was spawned under a session is for tokens of that session alone", async () => {
      const answer = await ambientOf(owner);
      const agent = await graph.agent(owner, { session_sid: String(answer.body["session_id"]) });
      assert.equal((await exchangeOf(owner, tokenOf(answer), { agent_session_id: agent.id })).status, 200);
      const another = tokenOf(await ambientOf(owner));
      refused(await exchangeOf(owner, another, { agent_session_id: agent.id }), "agent_session_session");
      refused(await ambientOf(owner, { agent_session_id: agent.id }), "agent_session_session");
    });

    it("that has expired is refused, and mints again in no way", async () => {
      const agent = await graph.agent(owner, { expires_in_s: -1 });
      refused(await ambientOf(owner, { agent_session_id: agent.id }), "agent_session_expired");
      refused(
        await exchangeOf(owner, tokenOf(await ambientOf(owner)), { agent_session_id: agent.id }),
        "agent_session_expired",
      );
    });

    it("that is suspended is refused until it is resumed, whether it was known before or not", async () => {
      const [known, unknown] = [await graph.agent(owner), await graph.agent(owner)];
      const ambient = tokenOf(await ambientOf(owner));
      assert.equal((await exchangeOf(owner, ambient, { agent_session_id: known.id })).status, 200);
      for (const agent of [known, unknown]) await graph.suspend(agent);
      for (const agent of [known, unknown]) {
        await eventually(async () => {
          const answer = await exchangeOf(owner, ambient, { agent_session_id: agent.id });
          return answer.body["reason"] === "agent_session_revoked";
        });
        await graph.resume(agent);
        await eventually(async () => (await exchangeOf(owner, ambient, { agent_session_id: agent.id })).status === 200);
      }
    });

    it("that the database says is suspended is refused before anybody announces it", async () => {
      const agent = await graph.agent(owner);
      await f.control.sql`update agent_sessions set status = 'terminated' where zone_id = ${zone} and id = ${agent.id}`;
      refused(await ambientOf(owner, { agent_session_id: agent.id }), "agent_session_revoked");
    });
  });

  describe("a delegation", () => {
    let agents: readonly TestAgent[];
    let edges: readonly string[];
    let used: { agent_session_id: string; delegation_edge_id: string };
    let ambient: string;

    /** From the owner over three more applications to the helper: a path of four edges. */
    beforeEach(async () => {
      const between = [];
      for (let i = 0; i < 3; i += 1) between.push(await f.newApplication(zone, { scopes: [] }));
      agents = await Promise.all([owner, ...between, helper].map((application) => graph.agent(application)));
      edges = await graph.path(agents, { scopes: ["read"], resource_id: target.id });
      used = { agent_session_id: agents.at(-1)?.id ?? "", delegation_edge_id: edges.at(-1) ?? "" };
      ambient = tokenOf(await eventuallyAmbient(helper, used));
    });
    /** The zone's snapshot hears of the applications in the middle first. */
    const eventuallyAmbient = (application: TestApplication, fields: Readonly<Record<string, string>>) =>
      eventually(async () => {
        const answer = await ambientOf(application, fields);
        return answer.status === 200 ? answer : null;
      });

    it("gives what the root's application has and every edge lets through, to an application that has nothing", async () => {
      const answer = await exchangeOf(helper, ambient);
      const claims = claimsOf(tokenOf(answer));
      assert.deepEqual(
        [claims.client_id, claims.scope, claims.agent_session_id, claims.delegation_edge_id],
        [helper.id, "read", agents[4]?.id, edges[3]],
      );
      assert.deepEqual([claims.source_session_id, claims.target_session_id], [agents[3]?.id, agents[4]?.id]);
      assert.equal(claims.hop_count, 4);
      assert.deepEqual(
        claims.delegation_chain,
        agents.map(({ id, application }, at) => ({
          application_id: application.id,
          agent_session_id: id,
          ...(at === 0 ? {} : { delegation_edge_id: edges[at - 1] }),
        })),
      );
      refused(
        await exchangeOf(helper, tokenOf(await f.ambient(zone, helper))),
        "scope_nothing_left",
        400,
        "invalid_scope",
      );
    });

    it("is in the ledger, and in policy's input with its path", async () => {
      const claims = claimsOf(tokenOf(await exchangeOf(helper, ambient)));
      const events = await f.events();
      const event = events.find((one) => one.id === claims.jti);
      assert.ok(event !== undefined);
      assert.deepEqual([event.agent_session_id, event.delegation_edge_id], [agents[4]?.id, edges[3]]);
      const [input] = rebuiltInputs(event, documentsAmong(events));
      assert.deepEqual(input?.delegation_edge, {
        id: edges[3],
        source_session_id: agents[3]?.id,
        target_session_id: agents[4]?.id,
        issuer_application_id: agents[3]?.application.id,
        receiver_application_id: helper.id,
        resource_id: target.id,
        scopes: ["read"],
        edge_version: 1,
        path: edges,
        graph_epoch: claims.delegation_graph_epoch,
        constraints_json: {},
      });
      assert.equal(input?.context.delegation_edge_id, edges[3]);
    });

    it("is told to the Gateway with all that it came through, and ends no later than any of it", async () => {
      const answer = await throughGateway(ambient);
      assert.ok(answer.ok);
      const claims = claimsOf(answer.body.access_token);
      assert.deepEqual(answer.body.delegation_chain, claims.delegation_chain);
      assert.equal(answer.body.auth_exp, claims.auth_exp);
      const [row] = await f.control.sql<{ ends_s: number }[]>`
        select floor(extract(epoch from min(expires_at)))::float8 as ends_s from delegation_edges
        where zone_id = ${zone} and target_session_id = ${agents[4]?.id ?? ""}`;
      assert.equal(claims.auth_exp, row?.ends_s);
    });

    it("costs no SQL and two round trips on a steady load", async () => {
      const [statements, round_trips] = [f.statements(), f.roundTrips()];
      for (let i = 0; i < 50; i += 1) assert.ok((await throughGateway(ambient)).ok);
      assert.equal(f.statements() - statements, 0);
      assert.ok(f.roundTrips() - round_trips <= 105, `${f.roundTrips() - round_trips} round trips for 50 calls`);
    });

    for (const at of [0, 1, 2, 3]) {
      it(`is over once edge ${at + 1} of four is revoked, at once after that was announced`, async () => {
        await graph.revoke(edges[at] ?? "");
        await eventually(async () => reasonOf(await exchangeOf(helper, ambient))[2] === "delegation_revoked");
        refused(await ambientOf(helper, used), "delegation_revoked");
      });

      it(`is over while the agent session before edge ${at + 1} is suspended`, async () => {
        await graph.suspend(agents[at] as TestAgent);
        await eventually(async () => (await exchangeOf(helper, ambient)).status === 403);
        await graph.resume(agents[at] as TestAgent);
        await eventually(async () => (await exchangeOf(helper, ambient)).status === 200);
      });

      it(`is over by the rows alone where edge ${at + 1} was revoked or has expired`, async () => {
        const fresh = await graph.path(agents, { scopes: ["read"] });
        const fields = { agent_session_id: agents[4]?.id ?? "", delegation_edge_id: fresh[3] ?? "" };
        const set = (column: "revoked_at" | "expires_at") =>
          f.control
            .sql`update delegation_edges set ${f.control.sql(column)} = now() where zone_id = ${zone} and id = ${fresh[at] ?? ""}`;
        await set("expires_at");
        refused(await ambientOf(helper, fields), "delegation_expired");
        await set("revoked_at");
        refused(await ambientOf(helper, fields), "delegation_revoked");
      });
    }

    it("that was first met while an agent session on its way was suspended is good once that one is resumed", async () => {
      const fresh = await graph.path(agents, { scopes: ["read"] });
      const fields = { agent_session_id: agents[4]?.id ?? "", delegation_edge_id: fresh[3] ?? "" };
      await graph.suspend(agents[1] as TestAgent);
      assert.equal((await ambientOf(helper, fields)).status, 403);
      await graph.resume(agents[1] as TestAgent);
      await eventually(async () => (await ambientOf(helper, fields)).status === 200);
    });

    it("is for the agent session that received it alone", async () => {
      const another = await graph.agent(helper);
      const edge = used.delegation_edge_id;
      refused(await ambientOf(helper, { delegation_edge_id: edge }), "delegation_not_target");
      refused(
        await ambientOf(helper, { delegation_edge_id: edge, agent_session_id: another.id }),
        "delegation_not_target",
      );
      refused(await ambientOf(helper, { ...used, delegation_edge_id: edges[2] ?? "" }), "delegation_not_target");
      refused(await ambientOf(helper, { ...used, delegation_edge_id: uuidv7() }), "delegation_edge_unknown");
      refused(await ambientOf(helper, { ...used, delegation_edge_id: "x" }), "delegation_edge_unknown");
    });

    it("reaches no other resource, no other scope, and none of the platform's", async () => {
      refused(await exchangeOf(helper, ambient, {}, second), "resource_not_delegated", 400, "invalid_target");
      refused(
        await ambientOf(helper, { ...used, resource: second.identifier }),
        "resource_not_delegated",
        400,
        "invalid_target",
      );
      refused(await exchangeOf(helper, ambient, { scope: "write" }), "scope_not_allowed", 400, "invalid_scope");
      const [edge] = await graph.path([agents[0] as TestAgent, agents[4] as TestAgent], {
        scopes: ["read", "coordinator.admin"],
      });
      const fields = { agent_session_id: used.agent_session_id, delegation_edge_id: edge ?? "" };
      assert.equal(claimsOf(tokenOf(await ambientOf(helper, fields))).scope, "read");
      refused(
        await ambientOf(helper, { ...fields, scope: "coordinator.admin" }),
        "scope_not_allowed",
        400,
        "invalid_scope",
      );
    });

    it("whose hop gives more than it received, or is passed on once too often, is refused", async () => {
      const [a, b, c] = [agents[0], agents[1], agents[4]] as readonly TestAgent[] as [TestAgent, TestAgent, TestAgent];
      const wide = async (root: object, child: object) => {
        const parent = await graph.edge(a, b, { scopes: ["read"], resource_id: target.id, max_hops: 2, ...root });
        const edge = await graph.edge(b, c, {
          parent,
          scopes: ["read"],
          resource_id: target.id,
          max_hops: 1,
          ...child,
        });
        return ambientOf(helper, { agent_session_id: c.id, delegation_edge_id: edge });
      };
      refused(await wide({}, { scopes: ["read", "write"] }), "delegation_widened");
      refused(await wide({}, { resource_id: second.id }), "delegation_widened");
      refused(await wide({}, { resource_id: undefined }), "delegation_widened");
      refused(await wide({}, { expires_in_s: 3_000 }), "delegation_widened");
      refused(await wide({ max_hops: 1 }, {}), "delegation_too_deep");
      assert.equal((await wide({ expires_in_s: 1_900 }, {})).status, 200);
    });

    it("leads over ten edges at most", async () => {
      const many = await Promise.all(Array.from({ length: 12 }, () => graph.agent(helper)));
      const [first, ...rest] = [agents[0] as TestAgent, ...many];
      const ten = await graph.path([first as TestAgent, ...rest.slice(0, 10)], { scopes: ["read"] });
      const last = (at: number) => ({ agent_session_id: rest[at]?.id ?? "", delegation_edge_id: ten[at] ?? "" });
      const token = tokenOf(await ambientOf(helper, last(9)));
      assert.equal(claimsOf(tokenOf(await exchangeOf(helper, token))).hop_count, 10);
      const eleventh = await graph.edge(rest[9] as TestAgent, rest[10] as TestAgent, {
        parent: ten[9] ?? "",
        scopes: ["read"],
        max_hops: 1,
        expires_in_s: 10,
      });
      const beyond = { agent_session_id: rest[10]?.id ?? "", delegation_edge_id: eleventh };
      refused(await ambientOf(helper, beyond), "delegation_too_deep");
    });

    it("limits how long a mandate lives", async () => {
      const edge = await graph.edge(agents[0] as TestAgent, agents[4] as TestAgent, {
        scopes: ["read"],
        ttl_seconds: 30,
      });
      const fields = { agent_session_id: used.agent_session_id, delegation_edge_id: edge };
      const mandate = claimsOf(
        tokenOf(await exchangeOf(helper, tokenOf(await ambientOf(helper, fields)), { ttl_seconds: "600" })),
      );
      assert.equal(mandate.exp - mandate.iat, 30);
    });

    it("is over with any application that it came through", async () => {
      assert.equal((await exchangeOf(helper, ambient)).status, 200);
      await f.change(
        zone,
        "application",
        (tx) =>
          tx`update applications set archived_at = now() where zone_id = ${zone} and id = ${agents[2]?.application.id ?? ""}`,
      );
      await eventually(async () => reasonOf(await exchangeOf(helper, ambient))[2] === "delegation_source_gone");
    });

    it("is read anew for a token that knows of a later state of the graph", async () => {
      assert.equal((await exchangeOf(helper, ambient)).status, 200);
      await f.control.sql`insert into delegation_epochs (zone_id, epoch) values (${zone}, 1000)
        on conflict (zone_id) do update set epoch = 1000`;
      assert.notEqual(claimsOf(tokenOf(await exchangeOf(helper, ambient))).delegation_graph_epoch, 1_000);
      const later = await forged(ambient, { delegation_graph_epoch: 1_000 });
      assert.equal(claimsOf(tokenOf(await exchangeOf(helper, later))).delegation_graph_epoch, 1_000);
      const too_late = await forged(ambient, { delegation_graph_epoch: 1_001 });
      refused(await exchangeOf(helper, too_late), "delegation_graph_behind", 503, "temporarily_unavailable");
      await f.control.sql`delete from delegation_epochs where zone_id = ${zone}`;
    });

    describe("that a token carries", () => {
      let bystander: TestAgent;
      let own_edge: string;
      beforeEach(async () => {
        bystander = await graph.agent(helper);
        own_edge = await graph.edge(agents[0] as TestAgent, agents[4] as TestAgent, { scopes: ["read", "write"] });
      });

      const tries: readonly (readonly [
        what: string,
        fields: () => Readonly<Record<string, string>>,
        reason: string,
        error?: string,
      ])[] = [
        ["another agent session", () => ({ agent_session_id: bystander.id }), "agent_session_changed"],
        [
          "another delegation of the same agent session",
          () => ({ delegation_edge_id: own_edge }),
          "delegation_edge_changed",
        ],
        [
          "an edge before it on its own path",
          () => ({ delegation_edge_id: edges[0] ?? "" }),
          "delegation_edge_changed",
        ],
        ["a wider scope", () => ({ scope: "read write" }), "scope_not_allowed", "invalid_scope"],
        ["another session", () => ({ session_id: uuidv7() }), "session_id_mismatch"],
        [
          "itself as its actor",
          () => ({ actor_token: ambient, actor_token_type: TOKEN_TYPE_ACCESS_TOKEN }),
          "actor_is_subject",
          "invalid_request",
        ],
      ];
      for (const [what, fields, reason, error = "access_denied"] of tries) {
        it(`can't be exchanged for ${what}`, async () => {
          const answer = await exchangeOf(helper, ambient, fields());
          assert.deepEqual(reasonOf(answer).slice(1), [error, reason]);
        });
      }

      it("stays where the fields are left out, by the Gateway too", async () => {
        for (const claims of [
          claimsOf(tokenOf(await exchangeOf(helper, ambient))),
          claimsOf(tokenOf(await exchangeOf(helper, ambient, { agent_session_id: "", delegation_edge_id: "" }))),
        ]) {
          assert.deepEqual([claims.agent_session_id, claims.delegation_edge_id], [agents[4]?.id, edges[3]]);
        }
        const answer = await throughGateway(ambient);
        assert.ok(answer.ok);
        assert.deepEqual([answer.body.agent_session_id, answer.body.delegation_edge_id], [agents[4]?.id, edges[3]]);
      });

      it("is taken by no other application, and into no other resource", async () => {
        refused(await exchangeOf(owner, ambient), "subject_token_client");
        refused(await exchangeOf(owner, ambient, { agent_session_id: agents[0]?.id ?? "" }), "subject_token_client");
        refused(await exchangeOf(helper, ambient, {}, second), "resource_not_delegated", 400, "invalid_target");
        const limited = tokenOf(await ambientOf(helper, { ...used, resource: target.identifier }));
        refused(await exchangeOf(helper, limited, {}, second), "resource_not_in_target", 400, "invalid_target");
      });

      it("is not got rid of by a token that is forged without its agent session, but for its edge", async () => {
        const { agent_session_id: _, ...without } = claimsOf(ambient);
        const [row] = await f.control.sql<{ kid: string; sealed_private: string }[]>`
          select kid, sealed_private from zone_keys where zone_id = ${zone}`;
        const key = openZoneKey(f.kek, zone, row?.kid ?? "", row?.sealed_private ?? "");
        refused(await exchangeOf(helper, signToken(key, row?.kid ?? "", without)), "delegation_not_target");
      });

      it("narrows a token that carries none, and never widens it", async () => {
        const plain = tokenOf(await ambientOf(helper));
        refused(await exchangeOf(helper, plain, used), "scope_nothing_left", 400, "invalid_scope");
        const own = tokenOf(await ambientOf(owner));
        const agent = agents[0] as TestAgent;
        const [giver] = [await graph.agent(owner)];
        const edge = await graph.edge(giver, agent, { scopes: ["read"] });
        const fields = { agent_session_id: agent.id, delegation_edge_id: edge };
        assert.equal(claimsOf(tokenOf(await exchangeOf(owner, own, fields))).scope, "read");
      });

      it("is the same through the Gateway's headers", async () => {
        const told = async (some: Partial<GatewayExchange>) => {
          const answer = await throughGateway(ambient, some);
          return answer.ok ? answer.body.delegation_edge_id : answer.body.reason;
        };
        assert.equal(await told(used), edges[3]);
        assert.equal(await told({ agent_session_id: bystander.id }), "agent_session_changed");
        assert.equal(await told({ delegation_edge_id: own_edge }), "delegation_edge_changed");
      });
    });
  });

  describe("a budget", () => {
    let giver: TestAgent;
    let agent: TestAgent;
    beforeEach(async () => {
      [giver, agent] = [await graph.agent(owner), await graph.agent(helper)];
    });
    const ambientThrough = async (edge: string): Promise<string> =>
      tokenOf(await ambientOf(helper, { agent_session_id: agent.id, delegation_edge_id: edge }));

    it("of three exchanges ends with the third, with one statement each", async () => {
      const edge = await graph.edge(giver, agent, { scopes: ["read"], exchanges_max: 3 });
      const ambient = await ambientThrough(edge);
      const statements = f.statements();
      for (let i = 0; i < 3; i += 1) assert.ok((await throughGateway(ambient)).ok);
      assert.equal(f.statements() - statements, 3);
      for (let i = 0; i < 2; i += 1) refused(await exchangeOf(helper, ambient), "delegation_budget_spent");
      assert.deepEqual(await graph.used(edge), { exchanges_used: 3, cost_used: 0 });
    });

    it("is exact under concurrency, over every edge of the path: against all of them or none", async () => {
      const middle = await graph.agent(helper);
      const root = await graph.edge(giver, middle, {
        scopes: ["read"],
        max_hops: 4,
        exchanges_max: 20,
        expires_in_s: 1_900,
      });
      const [left, right] = [
        await graph.edge(middle, agent, { parent: root, scopes: ["read"], max_hops: 1, exchanges_max: 15 }),
        await graph.edge(middle, agent, { parent: root, scopes: ["read"], max_hops: 1, exchanges_max: 15 }),
      ];
      const tokens = [await ambientThrough(left ?? ""), await ambientThrough(right ?? "")];
      const answers = await Promise.all(Array.from({ length: 60 }, (_, i) => throughGateway(tokens[i % 2] ?? "")));
      assert.equal(answers.filter(({ ok }) => ok).length, 20);
      const [of_root, of_left, of_right] = [
        await graph.used(root),
        await graph.used(left ?? ""),
        await graph.used(right ?? ""),
      ];
      assert.equal(of_root?.exchanges_used, 20);
      assert.equal((of_left?.exchanges_used ?? 0) + (of_right?.exchanges_used ?? 0), 20);
      for (const answer of answers) if (!answer.ok) assert.equal(answer.body.reason, "delegation_budget_spent");
    });

    it("is exact between replicas, in whatever order each names the edges, and nobody waits for ever", async () => {
      const ids: string[] = [];
      for (const exchanges_max of [30, 20, 25])
        ids.push(await graph.edge(giver, agent, { exchanges_max, cost_max: 60 }));
      const results = await Promise.allSettled(
        Array.from({ length: 90 }, (_, i) =>
          countExchange(i % 3 === 0 ? f.control.sql : f.db.sql, zone, i % 2 === 0 ? ids : ids.toReversed(), 2),
        ),
      );
      const counted = results.filter((one) => one.status === "fulfilled" && one.value).length;
      const refusals = results.filter((one) => one.status === "fulfilled" && !one.value).length;
      assert.deepEqual([counted, refusals], [20, 70], JSON.stringify(results.find((one) => one.status === "rejected")));
      for (const id of ids) assert.deepEqual(await graph.used(id), { exchanges_used: 20, cost_used: 40 });
    });

    it("is judged as it stands once it is locked: of eight who wait for one another, three pass and none fails", async () => {
      const edge = await graph.edge(giver, agent, { exchanges_max: 3 });
      const counts = await f.control.sql.begin(async (tx) => {
        await tx`select from delegation_budgets where zone_id = ${zone} and edge_id = ${edge} for update`;
        const waiting = Promise.allSettled(
          Array.from({ length: 8 }, async () => countExchange(f.db.sql, zone, [edge], 0)),
        );
        await eventually(async () => {
          const [row] = await f.control.sql<{ waiting: number }[]>`select count(*)::int as waiting from pg_stat_activity
            where datname = current_database() and wait_event_type = 'Lock'`;
          return row?.waiting === 8;
        });
        return { waiting };
      });
      const results = (await counts.waiting).map((one) => (one.status === "fulfilled" ? one.value : one.reason));
      assert.deepEqual(results.toSorted(), [false, false, false, false, false, true, true, true]);
      assert.deepEqual(await graph.used(edge), { exchanges_used: 3, cost_used: 0 });
    });

    it("of cost takes what the resource costs, to the unit, and lets through what costs nothing", async () => {
      const dear = await f.newResource(zone, { scopes: ["read"] });
      await f.change(
        zone,
        "resource",
        (tx) => tx`update resources set cost_units = 30 where zone_id = ${zone} and id = ${dear.id}`,
      );
      const edge = await graph.edge(giver, agent, { scopes: ["read"], cost_max: 100 });
      const ambient = await ambientThrough(edge);
      const at = (one: TestResource) => exchangeOf(helper, ambient, {}, one);
      await eventually(async () => (await at(dear), ((await graph.used(edge))?.cost_used ?? 0) >= 90));
      refused(await at(dear), "delegation_budget_spent");
      assert.equal((await graph.used(edge))?.cost_used, 90);
      assert.equal((await at(target)).status, 200); // reads the path again, after the refusal
      const statements = f.statements();
      assert.equal((await at(target)).status, 200);
      assert.equal(f.statements() - statements, 0);
    });

    it("is not touched by what is refused", async () => {
      const edge = await graph.edge(giver, agent, { scopes: ["read"], exchanges_max: 3 });
      const ambient = await ambientThrough(edge);
      refused(await exchangeOf(helper, ambient, { scope: "write" }), "scope_not_allowed", 400, "invalid_scope");
      assert.deepEqual(await graph.used(edge), { exchanges_used: 0, cost_used: 0 });
    });

    it("that many use at once makes its own zone wait, by a bounded number, and no other", async () => {
      const edge = await graph.edge(giver, agent, { exchanges_max: 10_000 });
      const other_zone = await f.newZone();
      const [there, app] = [createGraph(f, other_zone), await f.newApplication(other_zone)];
      const other_edge = await there.edge(await there.agent(app), await there.agent(app), { exchanges_max: 1 });
      const delegations = createDelegations({ db: f.control, revocations: f.role.revocations, clock: f.clock });
      const [mine, theirs] = [await delegations.path(zone, edge, 0), await delegations.path(other_zone, other_edge, 0)];
      assert.ok(mine !== undefined && theirs !== undefined);
      const counted = (zone_id: string, path: DelegationPath): Promise<boolean> =>
        delegations.inTurn(zone_id, () => countExchange(f.control.sql, zone_id, delegations.budgets(path, 0), 0));
      let waiting = 300;
      const flood = Array.from({ length: waiting }, async () => {
        try {
          return await counted(zone, mine.path);
        } catch (error) {
          return error;
        } finally {
          waiting -= 1;
        }
      });
      assert.equal(await counted(other_zone, theirs.path), true);
      assert.ok(waiting > 0, "it waited for the other zone");
      const results = await Promise.all(flood);
      const refusals = results.filter((one) => one instanceof Problem && one.status === 429);
      assert.equal(refusals.length, 300 - 257, "one runs, and 256 wait");
      assert.deepEqual(await graph.used(edge), { exchanges_used: 257, cost_used: 0 });
    });

    it("can't be overdrawn, whoever writes it", async () => {
      const edge = await graph.edge(giver, agent, { exchanges_max: 3 });
      await assert.rejects(
        async () =>
          f.control.sql`update delegation_budgets set exchanges_used = 4 where zone_id = ${zone} and edge_id = ${edge}`,
        /check constraint/,
      );
    });
  });
});
