import { connect, type Socket } from "node:net";
import { setTimeout as wait } from "node:timers/promises";
import type { ControlPlane } from "../support/control-plane.ts";

/** A zone that the attacker holds, with its own admin token. */
export type AttackerZone = {
  readonly id: string;
  readonly admin_token: string;
  readonly api: ControlPlane;
  /** A client of it that every STS knows. */
  client(scopes?: readonly string[]): Promise<Client>;
  /** A resource of it that the Gateway knows; its identifier. */
  resource(
    upstream_url: string,
    scopes?: readonly string[],
  ): Promise<{ readonly id: string; readonly identifier: string }>;
  /** Compiles the sources and makes them the active set. */
  policy(...sources: readonly string[]): Promise<void>;
};

export type Client = {
  readonly id: string;
  readonly secret: string;
  /** The fields of a token request that say who asks. */
  readonly form: Readonly<Record<string, string>>;
  /** An ambient token; rejects where none is given. */
  token(fields?: Readonly<Record<string, string>>): Promise<string>;
};

/** What came of one request of the attacker's; 0 where there was no answer. */
export type Got = { readonly status: number; readonly headers: Headers; readonly text: string };

/** What every attack is given. */
export type Field = {
  readonly gateway_url: string;
  readonly sts_url: string;
  readonly api_url: string;
  /** The innocent zone as its own admin sees it, and what of it an attacker can know. */
  readonly innocent: { readonly api: ControlPlane; readonly upstream_url: string; readonly client_id: string };
  /** Undefined where no second zone can be made: then there is one for all attacks. */
  readonly global_token: string | undefined;
  /** Statements on the database under the program; undefined where it is embedded. */
  readonly sql:
    | ((statement: string, ...values: readonly string[]) => Promise<readonly Record<string, unknown>[]>)
    | undefined;
  /** Whether the program's name look-ups reach a server that never answers. */
  readonly names_hang: boolean;
  zone(): Promise<AttackerZone>;
  call(
    token: string,
    resource: string,
    init?: RequestInit & { readonly path?: string; readonly signal?: AbortSignal },
  ): Promise<Got>;
  ask(form: Readonly<Record<string, string>> | URLSearchParams, signal?: AbortSignal): Promise<Got>;
  /** Ended with the attack: servers, sockets. */
  later(end: () => void | Promise<void>): void;
};

export type Assault = {
  /** Attacks until `until` says that it is enough, or before it when it is done. */
  run(until: AbortSignal): Promise<void>;
  /** What must be true of the attack's own answers afterwards, by the contract. */
  expect?(): void | Promise<void>;
};

export type Attack = {
  readonly name: string;
  /** Why it can't be made in this field, where it can't. */
  readonly impossible?: (field: Field) => string | undefined;
  /** What the attacker makes beforehand. Not timed. */
  setUp(field: Field): Promise<Assault>;
};

/** Does `work` again and again, `at_once` side by side, until the signal or until it answers `true` (enough). */
export const flood = async (
  until: AbortSignal,
  at_once: number,
  work: (turn: number) => Promise<boolean | void>,
): Promise<void> => {
  let turn = 0;
  let enough = false;
  const one = async (): Promise<void> => {
    while (!until.aborted && !enough) {
      turn += 1;
      if ((await work(turn)) === true) enough = true;
    }
  };
  await Promise.all(Array.from({ length: at_once }, one));
};

/** Resolves when the attack's time is over. */
export const over = (until: AbortSignal): Promise<void> =>
  new Promise((resolve) => {
    if (until.aborted) resolve();
    else until.addEventListener("abort", () => resolve(), { once: true });
  });

/** A socket of the attack's; it ends with it, and its errors are expected. */
export const socketTo = (field: Field, url: string): Socket => {
  const { hostname, port } = new URL(url);
  const socket = connect({ host: hostname, port: Number(port) });
  socket.on("error", () => undefined);
  socket.resume();
  field.later(() => void socket.destroy());
  return socket;
};

/** Between two questions of one who only looks: a look is no attack. */
export const breathe = (ms: number): Promise<void> => wait(ms);

/** Lets everybody through. */
export const ALLOW = `package caracal.authz

result := {"decision": "allow", "evaluation_status": "complete", "determining_policies": ["hostile.allow"], "diagnostics": []}
`;
