import type { Quickstart } from "../../src/demo/quickstart.ts";
import {
  type Agent,
  type Ambient,
  ambientToken,
  askApi,
  callOnce,
  claimsOf,
  connectAgent,
  ownMandate,
  parsed,
  type Refusal,
  toolText,
} from "./agent.ts";
import type { Instance } from "./instance.ts";
import { sessionRows, tamper } from "./ledger.ts";
import { NotAsTold, type Stage, told } from "./stage.ts";

/** A revocation reaches every Gateway within a second. */
const REVOKED_WITHIN_MS = 1_000;
const TICKS_WITHIN_MS = 5_000;
/** An hour, if nobody cuts it. */
const TICKS = 3_600;

const shown = ({ status, body }: Refusal): string => `${status} ${String(body["error"])}: ${String(body["message"])}`;

/** Resolves with the promise, or fails the step when it takes too long. */
const within = async <T>(limit_ms: number, what: string, promise: Promise<T>): Promise<T> => {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(
      () => reject(new NotAsTold(`expected: ${what} within ${limit_ms} ms`, "found: nothing")),
      limit_ms,
    );
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
};

const allowed = async (stage: Stage, q: Quickstart, ambient: Ambient): Promise<string> => {
  const agent = await connectAgent(q, ambient.token, q.resource);
  try {
    const { tools } = await agent.client.listTools();
    stage.says(`the MCP client is connected through the Gateway; tools: ${tools.map((tool) => tool.name).join(", ")}`);
    const seen = [];
    for (let call = 0; call < 2; call += 1) {
      seen.push(parsed(toolText(await agent.client.callTool({ name: "whoami", arguments: {} }))));
    }
    const [first, second] = seen;
    told(first?.["aud"] === q.resource && first["sid"] === ambient.session_id, `a mandate for ${q.resource}`, first);
    const lives_s = Number(first["exp"]) - Date.now() / 1000;
    told(lives_s > 0 && lives_s <= 900, "a mandate of 900 s at most", first);
    stage.says(`the server was shown a mandate: aud ${q.resource}, ${Math.round(lives_s)} s to live`);
    told(first["jti"] !== second?.["jti"], "another mandate for the next call", second);
    stage.says(
      `its next call had another one: jti …${String(first["jti"]).slice(-8)}, then …${String(second?.["jti"]).slice(-8)}`,
    );
    return "policy said yes; the server got a mandate for this one call, and never the agent's token";
  } finally {
    await agent.close();
  }
};

const denied = async (stage: Stage, q: Quickstart, ambient: Ambient): Promise<string> => {
  let refusal: Refusal | undefined;
  const agent = await connectAgent(q, ambient.token, q.denied_resource, (found) => {
    refusal = found;
  }).catch(() => undefined);
  await agent?.close();
  told(
    refusal !== undefined && refusal.status === 403,
    `403 for ${q.denied_resource}`,
    refusal ?? "the call was allowed",
  );
  stage.says(shown(refusal));
  const words = Array.isArray(refusal.body["diagnostics"]) ? (refusal.body["diagnostics"] as unknown[]) : [];
  told(words.length > 0, "the policy's own words", refusal.body);
  for (const word of words) stage.says(`policy: “${typeof word === "string" ? word : JSON.stringify(word)}”`);
  return "policy said no, in its author's words; nothing reached the server";
};

const replayed = async (stage: Stage, q: Quickstart, ambient: Ambient): Promise<string> => {
  const mandate = await ownMandate(q, ambient, q.resource);
  const { jti, exp, iat } = claimsOf(mandate);
  stage.says(`the agent asked the STS itself: mandate …${String(jti).slice(-8)} for ${Number(exp) - Number(iat)} s`);
  const first = await callOnce(q, mandate, "echo", { text: "once" });
  told("text" in first && first.text === "once", "the first call to be answered", first);
  stage.says("first use: answered");
  const second = await callOnce(q, mandate, "echo", { text: "twice" });
  told("refusal" in second && second.refusal.status === 401, "401 for the second use", second);
  stage.says(`second use: ${shown(second.refusal)}`);
  return "a stolen mandate is worth nothing once it was used";
};

/** A tool that counts four times a second; resolves when it has begun to. */
const startTicks = async (agent: Agent): Promise<{ readonly count: () => number; readonly cut: Promise<string> }> => {
  let ticks = 0;
  let began: () => void = () => undefined;
  const ticking = new Promise<void>((resolve) => {
    began = resolve;
  });
  agent.client.fallbackNotificationHandler = async (note) => {
    if (note.method !== "notifications/message") return;
    ticks += 1;
    if (ticks === 2) began();
  };
  // `callTool` would wait for ever for an answer that was cut: the cut is seen here.
  const cut = new Promise<string>((resolve) => {
    agent.client.onerror = (error) => resolve(error.message);
  });
  agent.client.callTool({ name: "ticks", arguments: { count: TICKS } }).catch(() => undefined);
  await within(TICKS_WITHIN_MS, "two ticks", ticking);
  return { count: () => ticks, cut };
};

const revoked = async (stage: Stage, q: Quickstart, ambient: Ambient): Promise<string> => {
  const agent = await connectAgent(q, ambient.token, q.resource);
  try {
    const stream = await startTicks(agent);
    stage.says(`a tool streams its answer, for an hour if it may: ${stream.count()} ticks so far`);
    const sent_ms = performance.now();
    const answer = await askApi(q, "POST", `/sessions/${ambient.session_id}/revoke`);
    const revoked_ms = performance.now();
    told(answer["revoked"] === 1, "one revoked session", answer);
    await within(REVOKED_WITHIN_MS, "the stream's end", stream.cut);
    const cut_ms = performance.now();
    stage.says(`session revoked by the operator in ${Math.round(revoked_ms - sent_ms)} ms`);
    stage.says(`stream cut ${Math.max(0, Math.round(cut_ms - revoked_ms))} ms later, after ${stream.count()} ticks`);
    const next = await callOnce(q, ambient.token, "echo", { text: "still there?" });
    told("refusal" in next && next.refusal.status === 401, "401 for the next call", next);
    stage.says(`next call: ${shown(next.refusal)}`);
    return `from the operator's word to the end of the stream: ${Math.round(cut_ms - sent_ms)} ms`;
  } finally {
    await agent.close();
  }
};

/** Plays the story; rejects at the first step that does not go as told. */
export const play = async (stage: Stage, instance: Instance): Promise<void> => {
  const { quickstart: q } = instance;
  let ambient: Ambient | undefined;
  const own = (): Ambient => {
    told(ambient !== undefined, "an ambient token", "none");
    return ambient;
  };

  stage.heading("The agent");
  await stage.step("An agent proves once who it is", async () => {
    ambient = await ambientToken(q);
    const { use, aud, exp, iat } = claimsOf(ambient.token);
    told(use === "ambient", "an ambient token", use);
    stage.says(`ambient token for ${Number(exp) - Number(iat)} s, for nobody but the issuer (${String(aud)})`);
    return "it holds authority now, and no credential of any server";
  });
  await stage.step("It calls an MCP server that policy allows", () => allowed(stage, q, own()));
  await stage.step("It calls one that policy denies", () => denied(stage, q, own()));
  await stage.step("A mandate is used twice", () => replayed(stage, q, own()));
  stage.heading("The operator");
  await stage.step("The session is revoked in the middle of an answer", () => revoked(stage, q, own()));
  let denial: Awaited<ReturnType<typeof sessionRows>>[number] | undefined;
  stage.heading("The ledger");
  await stage.step("It has every decision", async () => {
    const rows = await sessionRows(stage, q, own().session_id, [
      { what: "the agent's ambient token", event_type: "token.issue", decision: "allow" },
      { what: "a mandate, signed after this row was kept", event_type: "token.exchange", decision: "allow" },
      { what: "refused by policy", event_type: "token.exchange", decision: "deny", says: { reason: "policy_denied" } },
      {
        what: "the mandate's second use",
        event_type: "gateway.call",
        decision: "deny",
        says: { reason: "mandate_used" },
      },
      {
        what: "the stream, cut by the revocation",
        event_type: "gateway.outcome",
        decision: "none",
        says: { cut: "revoked" },
      },
      { what: "the call after it", event_type: "gateway.call", decision: "deny", says: { reason: "token_revoked" } },
    ]);
    denial = rows.find((row) => row.event_type === "token.exchange" && row.decision === "deny");
    return `${rows.length} rows of this one session`;
  });
  await stage.step("Somebody turns a deny into an allow", async () => {
    told(denial !== undefined, "a deny in the ledger", "none");
    return tamper(stage, instance, denial);
  });
  stage.heading("Everything went as told.");
};
