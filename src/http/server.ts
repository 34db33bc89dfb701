import { readFileSync } from "node:fs";
import { createServer as createHttpServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { createServer as createHttpsServer } from "node:https";
import type { AddressInfo, Socket } from "node:net";
import type { Duplex } from "node:stream";
import { setTimeout as pause } from "node:timers/promises";
import type { RoleName } from "../domain/role-name.ts";
import type { Log } from "../kernel/log.ts";
import { Problem, StartupFault } from "../kernel/problem.ts";
import { within } from "../kernel/service.ts";
import { closeLater, createAdmission, type Limits, LIMITS, type Standing } from "./connections.ts";
import { createCrowd } from "./crowd.ts";
import { sendJson, sendProblem } from "./problem.ts";
import { requestIdOf } from "./request-id.ts";
import type { Role } from "./role.ts";

const MAX_HEADER_BYTES = 32 * 1024;
const MAX_HEADERS = 200;
const READY_CHECK_MS = 1_000;
/** Readiness asks Redis and the database, and metrics are a thousand lines: anybody may ask for both. */
const PAGE_EVERY_MS = 50;

export type TlsFiles = { readonly cert_file: string; readonly key_file: string };

export type BindOptions = {
  readonly name: RoleName;
  readonly host: string;
  /** 0: any free one. */
  readonly port: number;
  readonly tls: TlsFiles | undefined;
  readonly log: Log;
  /** Others than `LIMITS`: a test does not wait for a minute. */
  readonly limits?: Partial<Limits>;
};

/** A port that is held for a role. */
export type Binding = {
  /** Where it really listens. */
  readonly host: string;
  readonly port: number;
  /** Puts the role behind the port. Until then all but `/health` is answered with 503. */
  serve(role: Role): void;
  /** From now on `/ready` says no, so that a load balancer looks elsewhere. */
  notReady(): void;
  /** No new connections; resolves when the last request has ended, or cuts what is left after `deadline_ms`. */
  close(deadline_ms: number): Promise<void>;
};

const readPem = (file: string, variable: string): string => {
  try {
    return readFileSync(file, "utf8");
  } catch (cause) {
    const why = cause instanceof Error && "code" in cause ? String(cause.code) : "unreadable";
    throw new StartupFault(`${variable}: ${file} can't be read (${why}); name a PEM file that this user may read`);
  }
};

type OnRequest = (request: IncomingMessage, response: ServerResponse) => void;

const createListener = (options: BindOptions, limits: Limits, onRequest: OnRequest): Server => {
  const settings = {
    maxHeaderSize: MAX_HEADER_BYTES,
    headersTimeout: limits.headers_ms,
    requestTimeout: limits.request_ms,
    keepAliveTimeout: limits.keep_alive_ms,
    connectionsCheckingInterval: limits.check_ms,
    insecureHTTPParser: false,
    requireHostHeader: false, // `onRequest` asks for it: Node's own refusal has no body
    noDelay: true,
  };
  if (options.tls === undefined) return createHttpServer(settings, onRequest);
  const cert = readPem(options.tls.cert_file, "TLS_CERT_FILE");
  const key = readPem(options.tls.key_file, "TLS_KEY_FILE");
  try {
    const tls = { cert, key, minVersion: "TLSv1.2", handshakeTimeout: limits.handshake_ms } as const;
    return createHttpsServer({ ...settings, ...tls }, onRequest);
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : "unusable";
    throw new StartupFault(`TLS_CERT_FILE and TLS_KEY_FILE are not a certificate and its key in PEM (${why})`);
  }
};

const REFUSED = "a request was refused before its role saw it";

/** `request_id` is absent where nothing of the request could be read. */
type Refusal = {
  readonly status: string;
  readonly error: string;
  readonly message: string;
  readonly request_id?: string;
};

/** Where there is no response object: a whole answer in the general shape, then the end. */
const answerSocket = (socket: Duplex, refusal: Refusal, log: Log, wait_ms: number): void => {
  socket.on("error", () => socket.destroy()); // Node has let go of it: without this a reset would end the process
  const { status, error, message, request_id = requestIdOf(undefined) } = refusal;
  log.debug({ request_id, status, error }, REFUSED);
  const body = JSON.stringify({ error, message, requestId: request_id });
  const headers = `Connection: close\r\nX-Request-Id: ${request_id}\r\nContent-Type: application/json; charset=utf-8\r\nContent-Length: ${Buffer.byteLength(body)}`;
  socket.end(`HTTP/1.1 ${status}\r\n${headers}\r\n\r\n${body}`);
  closeLater(socket, wait_ms);
};

/**
 * Node's own 400, 408 and 431 have no body; ours say what to do. Behind an answer that has begun, or in front of one that
 * is due, they would be read as a part of it or instead of it: there the connection is broken off.
 */
const onClientError = (
  error: NodeJS.ErrnoException,
  socket: Socket,
  standing: Standing,
  log: Log,
  wait_ms: number,
): void => {
  // Ended already, and more has come: a reset now would take the answer along.
  if (socket.writableEnded && error.code !== "ECONNRESET") return;
  if (error.code === "ECONNRESET" || !socket.writable || standing === "busy") {
    socket.destroy();
    return;
  }
  if (standing === "answered") {
    socket.end(); // not destroyed at once: a reset would take the answer along
    closeLater(socket, wait_ms);
    return;
  }
  const answer = (status: string, code: string, message: string): void =>
    answerSocket(socket, { status, error: code, message }, log, wait_ms);
  if (error.code === "HPE_HEADER_OVERFLOW") {
    answer("431 Request Header Fields Too Large", "invalid_request", "The request's headers are too large.");
  } else if (error.code === "ERR_HTTP_REQUEST_TIMEOUT") {
    answer("408 Request Timeout", "request_timeout", "The request took too long to arrive.");
  } else answer("400 Bad Request", "invalid_request", "The request is not well-formed HTTP/1.1.");
};

/** What keeps the role from being ready now: each condition that does not hold, or could not be asked within a second. */
export const readyFaults = async (role: Role): Promise<readonly { check: string; fault: string }[]> => {
  const faults = await Promise.all(
    role.ready.map(async ({ name, fault }) => {
      let found: string | undefined = "took too long to answer";
      await within(
        READY_CHECK_MS,
        Promise.resolve()
          .then(fault)
          .then(
            (said) => {
              found = said;
            },
            () => {
              found = "could not be asked";
            },
          ),
      );
      return found === undefined ? [] : [{ check: name, fault: found }];
    }),
  );
  return faults.flat();
};

/**
 * Whatever many ask for is made for all of them at once, no sooner than `PAGE_EVERY_MS` after the last time, and one after
 * the other. It is always begun after it was asked for.
 */
const inCommon = <T>(make: () => Promise<T>): (() => Promise<T>) => {
  let next: Promise<T> | undefined;
  let before: Promise<unknown> = Promise.resolve();
  let began_ms = -Infinity;
  const makeNext = async (): Promise<T> => {
    await before;
    const left_ms = began_ms + PAGE_EVERY_MS - performance.now();
    if (left_ms > 0) await pause(left_ms);
    began_ms = performance.now();
    next = undefined;
    return make();
  };
  return () => {
    if (next !== undefined) return next;
    const made = makeNext();
    next = made;
    before = made.catch(() => undefined);
    return made;
  };
};

/** A request that no role is to see. The connection ends with the answer: what follows on it can't be told apart either. */
const faultOf = (request: IncomingMessage): Problem | undefined => {
  if (request.rawHeaders.length > 2 * MAX_HEADERS) {
    return new Problem(431, "invalid_request", `The request has more than ${MAX_HEADERS} headers.`);
  }
  if (request.httpVersion !== "1.1" && request.httpVersion !== "1.0") {
    return new Problem(400, "invalid_request", "The request is not HTTP/1.1."); // Node's parser lets `HTTP/2.0` pass
  }
  return hasOneHost(request)
    ? undefined
    : new Problem(400, "invalid_request", "The request has no Host header, several, or one that names no host.");
};

/** A name or address and a port (RFC 3986, 3.2.2), or nothing. */
const HOST = /^(?:[\w.~!$&'()*+,;=%-]*|\[[\da-f:.]+\])(?::\d{0,5})?$/i;

/**
 * RFC 9112, 3.2: none (but in HTTP/1.0), several, or one that is no host's are refused. Two servers would take each another
 * one, and an upstream that is told of it (`X-Forwarded-Host`) makes addresses of it.
 */
const hasOneHost = (request: IncomingMessage): boolean => {
  let hosts = 0;
  for (let at = 0; at < request.rawHeaders.length; at += 2) {
    const name = request.rawHeaders[at] as string;
    if (name.length === 4 && name.toLowerCase() === "host")
      hosts += HOST.test(request.rawHeaders[at + 1] as string) ? 1 : 2;
  }
  return hosts === 1 || (hosts === 0 && request.httpVersion === "1.0");
};

/**
 * No upgrade is served, and a request that asks for one is answered as any other. But Node's parser takes what came with it
 * for the other protocol, and drops it: later answers would be read as those of the requests that were lost.
 */
const asksToUpgrade = (request: IncomingMessage): boolean => request.headers.upgrade !== undefined;

/** The request target up to its query. */
const pathOf = (target: string): string => {
  const at = target.indexOf("?");
  return at === -1 ? target : target.slice(0, at);
};

const STARTING: readonly { check: string; fault: string }[] = [{ check: "serving", fault: "the process is starting" }];
const DRAINING: readonly { check: string; fault: string }[] = [{ check: "serving", fault: "the process is draining" }];

/**
 * Takes the role's port and answers `/health` (the process runs), `/ready` (each condition holds) and `/metrics`, within
 * limits on headers, time and connections, over TLS 1.2 and up where files are given. Ports are taken before anything else
 * is made, so that a taken one is told at once (`StartupFault`) and a free one (port 0) is known to all that need it.
 */
export const bindRole = async (options: BindOptions): Promise<Binding> => {
  const { log } = options;
  const limits = { ...LIMITS, ...options.limits };
  const crowd = createCrowd(limits);
  const admission = createAdmission(limits, crowd);
  let role: Role | undefined;
  let faults: () => Promise<readonly { check: string; fault: string }[]> = async () => STARTING;
  let metrics: () => Promise<string> = async () => "";
  let draining = false;

  const pages: Readonly<Record<string, (response: ServerResponse) => Promise<void>>> = {
    "/health": async (response) =>
      sendJson(response, 200, { "cache-control": "no-store" }, { status: "ok", role: options.name }),
    "/ready": async (response) => {
      const found = draining ? DRAINING : await faults();
      const status = found.length === 0 ? 200 : 503;
      const headers = { "cache-control": "no-store", ...(status === 503 ? { "retry-after": "1" } : {}) };
      sendJson(response, status, headers, {
        status: status === 200 ? "ready" : "not_ready",
        role: options.name,
        faults: found,
      });
    },
    "/metrics": async (response) => {
      const text = await metrics();
      response.writeHead(200, {
        "content-type": "text/plain; version=0.0.4; charset=utf-8",
        "cache-control": "no-store",
      });
      response.end(text);
    },
  };
  const own = new Map(Object.entries(pages));

  /** A refusal that no role hears of. */
  const refuse = (response: ServerResponse, problem: Problem, request_id: string): void => {
    log.debug({ request_id, status: problem.status, error: problem.code }, REFUSED);
    sendProblem(response, problem, request_id);
  };

  const onRequest = (request: IncomingMessage, response: ServerResponse): void => {
    if (!admission.admits(request, response)) return;
    if (draining || asksToUpgrade(request)) response.setHeader("connection", "close");
    const fault = faultOf(request);
    if (fault !== undefined) {
      response.setHeader("connection", "close");
      refuse(response, fault, requestIdOf(request.headers["x-request-id"]));
      return;
    }
    const path = pathOf(request.url ?? "");
    const found = own.get(path);
    const page = found !== undefined && role?.owns?.(request) !== true ? found : undefined;
    if (page === undefined && role !== undefined) {
      role.handle(request, response);
      return;
    }
    request.socket.setTimeout(limits.silent_ms); // a role with long answers has switched it off for its own
    const request_id = requestIdOf(request.headers["x-request-id"]);
    if (page === undefined) {
      refuse(response, new Problem(503, "temporarily_unavailable", "The process is starting. Try again."), request_id);
      return;
    }
    if (request.method !== "GET" && request.method !== "HEAD") {
      response.setHeader("allow", "GET, HEAD");
      refuse(response, new Problem(405, "method_not_allowed", `${path} takes GET.`), request_id);
      return;
    }
    page(response).catch((error: unknown) => {
      log.error({ err: error, path, request_id }, "a page of the server itself failed");
      sendProblem(response, new Problem(500, "internal_error", "The page could not be made."), request_id);
    });
  };

  const server = createListener(options, limits, onRequest);
  server.maxHeadersCount = MAX_HEADERS + 1; // Node drops the rest in silence; one more shows that there were more
  server.setTimeout(limits.silent_ms);
  server.on("connection", (socket: Socket) => crowd.came(socket)); // TCP's: before a TLS handshake
  server.on("clientError", (error, socket: Duplex) =>
    onClientError(error, socket as Socket, admission.standing(socket as Socket), log, limits.unread_ms),
  );
  // Unanswered, CONNECT would be a connection that just closes; behind a call it is, or its answer would be read as the call's.
  server.on("connect", (request, socket) => {
    if (admission.standing(socket as Socket) !== "open") {
      socket.on("error", () => undefined).destroy();
      return;
    }
    const refusal = {
      status: "405 Method Not Allowed",
      error: "method_not_allowed",
      message: "CONNECT is not served here.",
      request_id: requestIdOf(request.headers["x-request-id"]),
    };
    answerSocket(socket, refusal, log, limits.unread_ms);
  });
  server.on("checkExpectation", (request: IncomingMessage, response: ServerResponse) => {
    if (!admission.admits(request, response)) return;
    if (asksToUpgrade(request)) response.setHeader("connection", "close");
    const problem = new Problem(417, "invalid_request", "Of Expect only 100-continue can be met.");
    refuse(response, problem, requestIdOf(request.headers["x-request-id"]));
  });
  server.on("checkContinue", (request: IncomingMessage, response: ServerResponse) => {
    if (role?.continues !== true) response.writeContinue();
    onRequest(request, response);
  });
  await listen(server, options);
  const address = server.address() as AddressInfo;

  return {
    host: options.host,
    port: address.port,
    serve(served) {
      role = served;
      faults = inCommon(() => readyFaults(served));
      metrics = inCommon(() => served.metrics.text());
      server.setTimeout(served.long_answers === true ? 0 : limits.silent_ms);
    },
    notReady() {
      draining = true;
    },
    async close(deadline_ms) {
      draining = true;
      role?.drain?.();
      // A connection that is closed as idle while a request is on its way to it loses that request. Those in use hear with
      // their next answer that it is the last; then the others are idle indeed.
      const quiet_ms = Math.min(limits.last_words_ms, deadline_ms / 4);
      if ((await connectionsOf(server)) > 0) await pause(quiet_ms);
      const closed = new Promise<void>((resolve) => server.close(() => resolve()));
      server.closeIdleConnections();
      const idle = setInterval(() => server.closeIdleConnections(), 50); // a connection that went idle after the drain began
      await within(deadline_ms, closed);
      clearInterval(idle);
      server.closeAllConnections();
    },
  };
};

const connectionsOf = (server: Server): Promise<number> =>
  new Promise((resolve) => server.getConnections((error, count) => resolve(error === null ? count : 0)));

const listen = (server: Server, options: BindOptions): Promise<void> =>
  new Promise((resolve, reject) => {
    const role = options.name.toUpperCase();
    server.once("error", (error: NodeJS.ErrnoException) => {
      const where = `${options.host}:${options.port}`;
      const faults: Readonly<Record<string, string>> = {
        EADDRINUSE: `${role}_PORT: ${where} is taken by another process; stop it or set ${role}_PORT to a free port`,
        EACCES: `${role}_PORT: this user may not listen on ${where}; set ${role}_PORT to a port above 1023`,
        EADDRNOTAVAIL: `${role}_HOST: ${options.host} is no address of this machine`,
        ENOTFOUND: `${role}_HOST: ${options.host} can't be resolved`,
      };
      reject(new StartupFault(faults[error.code ?? ""] ?? `${role}_PORT: can't listen on ${where} (${error.code})`));
    });
    server.listen({ host: options.host, port: options.port }, () => {
      server.removeAllListeners("error");
      server.on("error", (error) => options.log.error({ err: error }, "the server reported an error"));
      resolve();
    });
  });
