import type { Evaluator } from "../domain/policy-module.ts";
import type { Issue } from "../kernel/problem.ts";
import type { Terms } from "../kernel/turns.ts";

/** A policy module that was compiled, metered and checked: what a version stores, and all that an evaluation needs. */
export type CompiledPolicy = {
  /** Metered WASM. */
  readonly wasm: Uint8Array;
  /** Lower-case hex. */
  readonly wasm_sha256: string;
};

export type CompileResult =
  | { readonly ok: true; readonly policy: CompiledPolicy }
  | { readonly ok: false; readonly issues: readonly Issue[] };

/**
 * Rego v1 source → metered WASM; the same source gives the same bytes. Bad Rego is a value: issues with path `source`, and
 * row and col from 1 where there is a place. A compiler that is missing, broken or busy (its queue is bounded) rejects with
 * `Problem` 503 `policy_compiler_unavailable`, whose description tells what to do. Each zone has one compile at a time, a short
 * queue and so many seconds a minute: over it `Problem` 429 `quota_exceeded`. When `terms.signal` aborts the compile ends.
 */
export type PolicyCompiler = {
  compile(source: string, zone_id: string, terms?: Terms): Promise<CompileResult>;
  /**
   * Runs the unit tests (Rego, in a file of their own) of a source, as `opa test` does, on the same terms and in the same turns as a
   * compile. What can't be run is a value: issues with path `source` or `tests`.
   */
  test(source: string, tests: string, zone_id: string, terms?: Terms): Promise<TestResult>;
};

/** `error`: the test did not come to an end; `message` has OPA's words. */
export type PolicyTest = {
  /** With its package: `data.caracal.authz_test.test_closed_at_night`. */
  readonly name: string;
  readonly result: "pass" | "fail" | "skip" | "error";
  /** Where it stands in `tests`. */
  readonly row?: number;
  readonly message?: string;
};

export type TestResult =
  | { readonly ok: true; readonly tests: readonly PolicyTest[] }
  | { readonly ok: false; readonly issues: readonly Issue[] };

/** A policy that comes with the program, for people to begin with. `summary`: one line. */
export type PolicyTemplate = {
  readonly name: string;
  readonly summary: string;
  readonly source: string;
  readonly source_sha256: string;
};

/**
 * Loads stored modules. Rejects where the bytes are not a metered policy module of ours (the set is then incomplete, and
 * denies): not WASM, without the counter, with a builtin that runs outside of it. What is kept of it between evaluations comes out of the zone's share.
 */
export type PolicyEngine = { load(wasm: Uint8Array, zone_id: string): Promise<Evaluator> };
