import type { RoleName } from "../domain/role-name.ts";

/** Where a role listens: the host as configured, the port as it is. */
export type Address = { readonly host: string; readonly port: number };

/** What every thread of a process gets once all ports are known. */
export type Given = { readonly issuer_url: string; readonly instance_id: string };

/**
 * Roles that one thread of the process runs, and the phases that it goes through with them, in this order. The same for the
 * thread that asks (`here.ts`) and for another (`elsewhere.ts`): what goes in and comes out can be sent by value.
 */
export type RoleThread = {
  /** For the log. */
  readonly name: string;
  /** Takes the roles' ports, and makes nothing else. Rejects with a `StartupFault`. */
  bind(): Promise<Readonly<Partial<Record<RoleName, Address>>>>;
  /** Connects to what the roles stand on, and makes them; nothing works yet. Rejects with a `StartupFault`. */
  make(given: Given): Promise<void>;
  /** Starts what works in the background, and serves. */
  start(): Promise<void>;
  /** What keeps its roles from being ready now, in words. */
  faults(): Promise<readonly string[]>;
  /** From now on `/ready` says no. */
  notReady(): Promise<void>;
  /** Ends the calls: no new ones, those in flight until `deadline_ms` have passed. */
  drain(deadline_ms: number): Promise<void>;
  /** Ends the work, then what it stands on, in whatever phase the thread is. Logs what fails, and never rejects. */
  stop(deadline_ms: number): Promise<void>;
};
