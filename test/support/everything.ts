import { type ChildProcess, spawn } from "node:child_process";
import { createServer, type IncomingMessage, request as httpRequest, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { createRemoteJWKSet, errors as joseErrors, type JWTPayload, jwtVerify, type JWTVerifyGetKey } from "jose";
import { packageRoot } from "../../src/kernel/package-root.ts";

/** The official MCP server, unchanged, behind a small hop of ours that lets only valid mandates through, each once. */

const START_WITHIN_MS = 20_000;

type Everything = { readonly port: number; close(): Promise<void> };

const untilListening = (child: ChildProcess): Promise<number> =>
  new Promise((resolve, reject) => {
    let said = "";
    child.stderr?.setEncoding("utf8").on("data", (text: string) => {
      said = (said + text).slice(-4_096);
    });
    const timer = setTimeout(() => reject(new Error(`server-everything did not listen: ${said}`)), START_WITHIN_MS);
    child.once("message", (message) => {
      clearTimeout(timer);
      resolve((message as { port: number }).port);
    });
    child.once("exit", (code) => {
      clearTimeout(timer);
      reject(new Error(`server-everything ended with ${code}: ${said}`));
    });
  });

/** server-everything over Streamable HTTP on loopback. Its environment is empty, as it has a tool that shows it. */
const startServer = async (): Promise<Everything> => {
  const package_json = createRequire(import.meta.url).resolve("@modelcontextprotocol/server-everything/package.json");
  const preload = join(packageRoot, "test", "support", "loopback.cjs");
  const program = join(dirname(package_json), "dist", "index.js");
  const child = spawn(process.execPath, ["--require", preload, program, "streamableHttp"], {
    env: { PORT: "0" },
    stdio: ["ignore", "ignore", "pipe", "ipc"],
  });
  const port = await untilListening(child).catch((error: unknown) => {
    child.kill("SIGKILL");
    throw error;
  });
  return {
    port,
    close: () =>
      new Promise((resolve) => {
        child.once("exit", () => resolve());
        child.kill("SIGKILL");
      }),
  };
};

/** A place of the hop: the resource that it stands for, and who may have issued mandates for it. */
export type Mount = {
  /** `aud` of its mandates. */
  readonly audience: string;
  readonly issuer: string;
  /** Asked at each call: addresses change when the program is started again. */
  readonly jwks_url: () => string;
};

/** A call that reached the hop with a mandate that is valid. */
export type HopCall = {
  readonly jti: string;
  readonly mandate: string;
  readonly claims: JWTPayload;
  readonly method: string;
  readonly path: string;
  readonly headers: IncomingMessage["headers"];
  /** Of the body as it arrived so far; for the hop's own page only. `whole`: its end arrived too. */
  readonly body: { readonly bytes: number; readonly whole: boolean };
};

export type Hop = {
  /** Gives a resource its place; the URL is its `upstream_url`. */
  mount(mount: Mount): string;
  /** The calls for a resource, in order of arrival. */
  calls(audience: string): readonly HopCall[];
  /** What must never happen and did: a bad mandate, a mandate used twice, a header that should have stayed behind. */
  readonly violations: readonly string[];
  close(): Promise<void>;
};

/** A page of the hop itself below a mount: reads the body, answers with the mandate's id and the body's length. */
export const HOP_PAGE = "/hop";

const UUID_V7 = /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;
const MANDATE_MAX_S = 900;
/** These are between the agent and the Gateway, or from nobody whom the upstream may believe. */
const MUST_STAY_BEHIND = /^x-caracal-(?!identity$)/;
const HOP_BY_HOP = new Set([
  "connection",
  "keep-alive",
  "te",
  "trailer",
  "transfer-encoding",
  "upgrade",
  "authorization",
]);

const headersOf = (request: IncomingMessage, name: string): readonly string[] =>
  request.rawHeaders.flatMap((value, at) =>
    at % 2 === 1 && request.rawHeaders[at - 1]?.toLowerCase() === name ? [value] : [],
  );

/** Starts server-everything with the hop before it. */
export const startEverything = async (): Promise<Hop> => {
  const everything = await startServer();
  const mounts: Mount[] = [];
  const calls = new Map<string, HopCall[]>();
  const seen = new Set<string>();
  const violations: string[] = [];
  const key_sets = new Map<string, JWTVerifyGetKey>();

  const keysAt = (url: string): JWTVerifyGetKey => {
    const known = key_sets.get(url) ?? createRemoteJWKSet(new URL(url), { cooldownDuration: 200 });
    key_sets.set(url, known);
    return known;
  };

  /** Everything that an upstream can check of a mandate; throws where one of it does not hold. */
  const verify = async (
    request: IncomingMessage,
    mount: Mount,
  ): Promise<{ mandate: string; claims: JWTPayload; jti: string }> => {
    const sent = headersOf(request, "authorization");
    const mandate = /^Bearer ([A-Za-z0-9._-]+)$/.exec(sent[0] ?? "")?.[1];
    if (sent.length !== 1 || mandate === undefined)
      throw new Error(`${sent.length} Authorization headers, or no bearer token`);
    const { payload } = await jwtVerify(mandate, keysAt(mount.jwks_url()), {
      algorithms: ["ES256"],
      typ: "at+jwt",
      issuer: mount.issuer,
      audience: mount.audience,
      requiredClaims: ["sub", "aud", "exp", "iat", "jti", "zone_id", "client_id", "sid", "target"],
    });
    const { jti, exp, iat } = payload;
    if (payload["use"] !== "per_call") throw new Error(`use is ${String(payload["use"])}`);
    if (JSON.stringify(payload["target"]) !== JSON.stringify([mount.audience])) throw new Error("target is not [aud]");
    if (jti === undefined || !UUID_V7.test(jti)) throw new Error("jti is no UUIDv7");
    if (exp === undefined || iat === undefined || exp - iat > MANDATE_MAX_S)
      throw new Error("it lives longer than 900 s");
    return { mandate, claims: payload, jti };
  };

  const forward = (request: IncomingMessage, response: ServerResponse, path: string): void => {
    const headers = Object.fromEntries(Object.entries(request.headers).filter(([name]) => !HOP_BY_HOP.has(name)));
    headers["host"] = `127.0.0.1:${everything.port}`;
    const onward = httpRequest({ host: "127.0.0.1", port: everything.port, method: request.method, path, headers });
    onward.once("response", (answer) => {
      const back = Object.fromEntries(Object.entries(answer.headers).filter(([name]) => !HOP_BY_HOP.has(name)));
      response.writeHead(answer.statusCode ?? 502, back);
      response.flushHeaders();
      answer.pipe(response);
      answer.once("close", () => {
        if (!answer.complete) response.destroy();
      });
    });
    onward.once("error", () => {
      if (response.headersSent) response.destroy();
      else response.writeHead(502).end();
    });
    response.once("close", () => onward.destroy());
    request.pipe(onward);
  };

  const handle = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const [, number, rest] = /^\/m(\d+)(\/.*)?$/.exec(request.url ?? "") ?? [];
    const mount = mounts[Number(number)];
    if (mount === undefined) {
      violations.push(`a call for a place that no resource has: ${request.method} ${request.url}`);
      response.writeHead(404).end();
      return;
    }
    let verified: Awaited<ReturnType<typeof verify>>;
    try {
      verified = await verify(request, mount);
    } catch (error) {
      // Where the key set can't be fetched nothing is known of the mandate; anything else is the Gateway's fault.
      const unknowable = !(error instanceof joseErrors.JOSEError) && error instanceof TypeError;
      if (!unknowable)
        violations.push(
          `a bad mandate for ${mount.audience}: ${error instanceof Error ? error.message : String(error)}`,
        );
      response.writeHead(401, { "content-type": "application/json" }).end('{"error":"invalid_token"}');
      return;
    }
    if (seen.has(verified.jti)) violations.push(`the mandate ${verified.jti} was used twice for ${mount.audience}`);
    seen.add(verified.jti);
    const stray = Object.keys(request.headers).filter((name) => MUST_STAY_BEHIND.test(name));
    if (stray.length > 0) violations.push(`these headers went on to the upstream: ${stray.join(", ")}`);
    const path = rest ?? "/";
    const body = { bytes: 0, whole: false };
    const call: HopCall = { ...verified, method: request.method ?? "", path, headers: request.headers, body };
    const before = calls.get(mount.audience);
    if (before === undefined) calls.set(mount.audience, [call]);
    else before.push(call);
    if (path === HOP_PAGE || path.startsWith(`${HOP_PAGE}?`)) {
      request.on("data", (chunk: Buffer) => {
        body.bytes += chunk.byteLength;
      });
      request.once("end", () => {
        body.whole = true;
        const answer = JSON.stringify({ jti: verified.jti, bytes: body.bytes });
        response.writeHead(200, { "content-type": "application/json" }).end(answer);
      });
      request.once("error", () => response.destroy());
      return;
    }
    forward(request, response, path);
  };

  const server = createServer((request, response) => {
    handle(request, response).catch((error: unknown) => {
      violations.push(`the hop failed: ${String(error)}`);
      response.destroy();
    });
  });
  await new Promise<void>((resolve) => server.listen({ host: "127.0.0.1", port: 0 }, resolve));
  const { port } = server.address() as AddressInfo;

  return {
    mount(mount) {
      mounts.push(mount);
      return `http://127.0.0.1:${port}/m${mounts.length - 1}`;
    },
    calls: (audience) => calls.get(audience) ?? [],
    violations,
    async close() {
      server.closeAllConnections();
      await new Promise<void>((resolve) => server.close(() => resolve()));
      await everything.close();
    },
  };
};
