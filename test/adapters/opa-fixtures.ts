import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { findOpa } from "../../src/adapters/opa/binary.ts";
import { readPolicyWasm } from "../../src/adapters/opa/bundle.ts";
import { createPolicyCompiler } from "../../src/adapters/opa/compiler.ts";
import { buildPolicyInput } from "../support/policy-input.ts";
import type { PolicyFacts } from "../../src/domain/policy-input.ts";
import { uuidv7 } from "../../src/kernel/ids.ts";
import { createLog } from "../../src/kernel/log.ts";
import type { CompiledPolicy } from "../../src/ports/policy.ts";

export const log = createLog({ level: "silent" });

/** Each compile in a zone of its own, whose share none of the others has spent. */
const compiler = createPolicyCompiler({ log });

/** The metered module of a source; throws its issues where it has any. */
export const compiled = async (source: string): Promise<CompiledPolicy> => {
  const result = await compiler.compile(source, uuidv7());
  if (!result.ok) throw new Error(JSON.stringify(result.issues));
  return result.policy;
};

/** The module as OPA makes it, before it is metered. */
export const unmetered = async (source: string): Promise<Uint8Array> => {
  const opa = await findOpa({});
  const folder = await mkdtemp(join(tmpdir(), "caracal-test-policy-"));
  try {
    await writeFile(join(folder, "policy.rego"), source);
    const args = ["build", "-t", "wasm", "-e", "caracal/authz/result", "-o", "bundle.tar.gz", "policy.rego"];
    const { code, stdout, stderr } = await opa.run(args, { cwd: folder });
    if (code !== 0) throw new Error(stdout + stderr);
    return await readPolicyWasm(await readFile(join(folder, "bundle.tar.gz")));
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
};

export const facts: PolicyFacts = {
  zone_id: "0193fd10-0000-7000-8000-000000000001",
  application: { id: "0193fd10-0000-7000-8000-000000000002", traits: ["demo-agent"] },
  credential_type: "ambient_token",
  resource: {
    id: "0193fd10-0000-7000-8000-000000000003",
    identifier: "resource://demo",
    scopes: ["demo.read", "demo.write"],
  },
  use: "per_call",
  requested_scopes: ["demo.read"],
  now_ms: Date.UTC(2026, 10, 23, 18, 30),
  method: "POST",
  path: "/mcp",
  session_id: "0193fd10-0000-7000-8000-000000000004",
  subject_claims: { sub: "0193fd10-0000-7000-8000-000000000002", scope: "demo.read demo.write", target: [] },
};

/** JSON text, as evaluators take it. */
export const encode = (input: unknown): string => JSON.stringify(input);

/** The input of the usual facts, but for those that are given. */
export const inputOf = (some: Partial<PolicyFacts> = {}): string => encode(buildPolicyInput({ ...facts, ...some }));

/** A policy whose answer is one value of a body. */
export const policy = (body: string): string => `package caracal.authz\n\nresult := x if { ${body} }\n`;
