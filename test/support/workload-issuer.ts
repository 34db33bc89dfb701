import { createServer, type RequestListener } from "node:http";
import type { AddressInfo } from "node:net";
import { Provider } from "oidc-provider";
import { makeKey, type TestKey } from "./jwt.ts";

/** oidc-provider, as the issuer of workloads' tokens: an agent asks it by client credentials. */
export type WorkloadIssuer = {
  readonly url: string;
  /** Of the keys that it signs by now. */
  readonly key: TestKey;
  /** Another key, and no trace of the former one. */
  rotate(): void;
  /** What it does in place of answering; undefined: it answers. */
  fault: RequestListener | undefined;
  /** Requests for its metadata and keys. */
  readonly asked: string[];
  /** A token for the workload `sub` (which must be one of `subjects`), for that audience. */
  token(sub: string, audience: string): Promise<string>;
  close(): Promise<void>;
};

const SECRET = "a-secret-of-32-characters-at-least";

export const startWorkloadIssuer = async (
  subjects: readonly string[],
  claims: Readonly<Record<string, unknown>>,
): Promise<WorkloadIssuer> => {
  let nth = 0;
  const newKey = (): TestKey => makeKey("RS256", `key-${(nth += 1)}`);
  const providerWith = (issuer: string, { private_key, kid }: TestKey): RequestListener => {
    const jwk = { ...private_key.export({ format: "jwk" }), kid, alg: "RS256", use: "sig" };
    const provider = new Provider(issuer, {
      clients: subjects.map((client_id) => ({
        client_id,
        client_secret: SECRET,
        grant_types: ["client_credentials"],
        redirect_uris: [],
        response_types: [],
      })),
      features: {
        clientCredentials: { enabled: true },
        devInteractions: { enabled: false },
        resourceIndicators: {
          enabled: true,
          getResourceServerInfo: (_ctx: unknown, audience: string) => ({
            scope: "",
            audience,
            accessTokenFormat: "jwt",
            accessTokenTTL: 300,
            jwt: { sign: { alg: "RS256" } },
          }),
        },
      },
      extraTokenClaims: () => claims,
      jwks: { keys: [jwk] },
    });
    return provider.callback();
  };

  let key = newKey();
  let answer: RequestListener | undefined;
  const asked: string[] = [];
  const server = createServer((request, response) => {
    if (request.method === "GET") asked.push(request.url ?? "");
    (issuer.fault ?? answer)?.(request, response);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  answer = providerWith(url, key);
  const issuer: WorkloadIssuer = {
    url,
    get key() {
      return key;
    },
    rotate() {
      key = newKey();
      answer = providerWith(url, key);
    },
    fault: undefined,
    asked,
    async token(sub, audience) {
      const response = await fetch(`${url}/token`, {
        method: "POST",
        headers: { authorization: `Basic ${Buffer.from(`${encodeURIComponent(sub)}:${SECRET}`).toString("base64")}` },
        body: new URLSearchParams({ grant_type: "client_credentials", resource: audience }),
      });
      const { access_token } = (await response.json()) as { access_token?: string };
      if (access_token === undefined) throw new Error(`the issuer gave no token: ${response.status}`);
      return access_token;
    },
    close: () =>
      new Promise((resolve) => {
        server.closeAllConnections();
        server.close(() => resolve());
      }),
  };
  return issuer;
};
