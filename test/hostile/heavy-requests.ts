import { type Attack, flood } from "./attack.ts";

const MEGABYTE = 1024 * 1024;
/** Bodies within their bytes that cost most to make: of nothing but brackets, of many fields, of many short lists. */
const HEAVY = [
  `{"name":${"[".repeat(MEGABYTE / 2 - 16)}${"]".repeat(MEGABYTE / 2 - 16)}}`,
  `{${Array.from({ length: 70_000 }, (_, n) => `"k${n}":1`).join(",")}}`,
  `{"jwks":{"keys":[${Array.from({ length: 16 }, () => `{"kty":"EC","a":[${"[1],".repeat(14_000)}1]}`).join(",")}]}}`,
];

/** What whoever holds the admin token of one zone can send to the control plane alone. */
export const heavyRequests: Attack = {
  name: "bodies that are a megabyte of brackets, and hundreds of changes of one thing",
  async setUp(field) {
    const zone = await field.zone();
    const path = `/v1/zones/${zone.id}/applications`;
    const headers = { authorization: `Bearer ${zone.admin_token}`, "content-type": "application/json" };
    const held = await zone.api.createApplication({ name: "held" });
    return {
      async run(until) {
        const send = async (method: string, at: string, body: string | undefined): Promise<void> => {
          const init = { method, headers, signal: until, ...(body === undefined ? {} : { body }) };
          const answer = await fetch(`${field.api_url}${at}`, init).catch(() => undefined);
          await answer?.text().catch(() => undefined);
        };
        const bodies = flood(until, 50, (turn) => send("POST", path, HEAVY[turn % HEAVY.length]));
        const changes = flood(until, 200, (turn) =>
          send("PATCH", `${path}/${held.id}`, JSON.stringify({ name: `name ${turn}` })),
        );
        await Promise.all([bodies, changes]);
      },
    };
  },
};
