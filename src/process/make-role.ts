import type { ApiRole } from "../api/index.ts";
import type { RoleName } from "../domain/role-name.ts";
import type { Role } from "../http/role.ts";
import type { Service } from "../kernel/service.ts";
import type { StsRole } from "../sts/index.ts";
import type { Parts } from "./parts.ts";

/** What each role is to the others of its thread. */
export type Roles = { audit: Role; api: ApiRole; sts: StsRole; coordinator: Role; gateway: Role };

/** The roles of one thread, once they are made. */
export type MadeRoles = {
  /** In the order in which they start. */
  readonly roles: readonly Role[];
  /** Start before the roles' own services. */
  readonly services: readonly Service[];
  readonly by_name: Readonly<Partial<Roles>>;
};

/** Makes one role. `before`: those roles of its thread that are made already. */
export type MakeRole<N extends RoleName> = (
  parts: Parts,
  before: Readonly<Partial<Roles>>,
) => { readonly role: Roles[N]; readonly services: readonly Service[] };
