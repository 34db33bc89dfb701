/** The roles of the one program, in the order in which they start. */
export const ROLE_NAMES = ["audit", "api", "sts", "coordinator", "gateway"] as const;
export type RoleName = (typeof ROLE_NAMES)[number];

export const isRoleName = (text: string): text is RoleName => (ROLE_NAMES as readonly string[]).includes(text);
