import { connect, type Socket } from "node:net";
import { GATEWAY_FIELDS, GRANT_TOKEN_EXCHANGE, TOKEN_PATH, TOKEN_TYPE_ACCESS_TOKEN } from "../../src/contracts/sts.ts";
import { GATEWAY_HEADERS, signGatewayCall } from "../../src/domain/gateway-signature.ts";
import { keyring } from "../../src/domain/keyring.ts";
import { randomSecret } from "../../src/kernel/ids.ts";
import { answer, partOptions } from "./parts.ts";

export type ExchangeLoad = {
  readonly sts_url: string;
  /** Hex. */
  readonly gateway_key: string;
  readonly zone_id: string;
  readonly token: string;
  readonly resource: string;
  readonly connections: number;
  readonly seconds: number;
};

const WARM_MS = 1_000;
/** More than any STS answers; made and signed before the clock starts, so that the generator only writes and reads. */
const PER_S_MAX = 14_000;
const HEAD_END = Buffer.from("\r\n\r\n");

const signedRequests = (options: ExchangeLoad): Buffer[] => {
  const ring = keyring(Buffer.from(options.gateway_key, "hex"));
  const form = new URLSearchParams({
    grant_type: GRANT_TOKEN_EXCHANGE,
    zone_id: options.zone_id,
    subject_token: options.token,
    subject_token_type: TOKEN_TYPE_ACCESS_TOKEN,
    resource: options.resource,
    [GATEWAY_FIELDS.method]: "GET",
    [GATEWAY_FIELDS.path]: "/",
  });
  const body = Buffer.from(form.toString());
  const timestamp_ms = Date.now();
  const make = (): Buffer => {
    const nonce = randomSecret(16);
    const signature = signGatewayCall(ring, { method: "POST", path: TOKEN_PATH, timestamp_ms, nonce, body });
    const head = [
      `POST ${TOKEN_PATH} HTTP/1.1`,
      `host: ${new URL(options.sts_url).host}`,
      "content-type: application/x-www-form-urlencoded",
      `content-length: ${body.byteLength}`,
      `${GATEWAY_HEADERS.timestamp}: ${timestamp_ms}`,
      `${GATEWAY_HEADERS.nonce}: ${nonce}`,
      `${GATEWAY_HEADERS.signature}: ${signature}`,
    ];
    return Buffer.concat([Buffer.from(`${head.join("\r\n")}\r\n\r\n`), body]);
  };
  const total = Math.ceil(PER_S_MAX * (WARM_MS / 1_000 + options.seconds));
  return Array.from({ length: total }, make);
};

/** Calls `onAnswer` with each answer's status; answers come one at a time, with a length. */
const readAnswers = (socket: Socket, onAnswer: (status: number) => void): void => {
  let pending: Buffer = Buffer.alloc(0);
  socket.on("data", (chunk) => {
    pending = pending.byteLength === 0 ? chunk : Buffer.concat([pending, chunk]);
    const head_end = pending.indexOf(HEAD_END);
    if (head_end < 0) return;
    const head = pending.toString("latin1", 0, head_end);
    const length = Number(/content-length: (\d+)/i.exec(head)?.[1] ?? Number.NaN);
    if (pending.byteLength < head_end + HEAD_END.byteLength + length) return;
    pending = Buffer.alloc(0);
    onAnswer(Number(head.slice(9, 12)));
  });
};

/** Exchanges as a Gateway asks for them, over plain sockets, as many at once as there are connections; per second. */
const measure = (options: ExchangeLoad): Promise<{ readonly per_s: number }> =>
  new Promise((resolve, reject) => {
    const requests = signedRequests(options);
    const url = new URL(options.sts_url);
    const sockets: Socket[] = [];
    let counted = 0;
    let counting_since: number | undefined;
    const fail = (error: Error): void => {
      for (const socket of sockets) socket.destroy();
      reject(error);
    };
    for (let i = 0; i < options.connections; i += 1) {
      const socket = connect({ host: url.hostname, port: Number(url.port), noDelay: true });
      const send = (): void => {
        const next = requests.pop();
        if (next === undefined) fail(new Error("every prepared exchange was used: raise PER_S_MAX"));
        else socket.write(next);
      };
      sockets.push(socket);
      socket.on("error", fail);
      socket.on("connect", send);
      readAnswers(socket, (status) => {
        if (status !== 200) {
          fail(new Error(`an exchange was answered with ${status}`));
          return;
        }
        counted += 1;
        send();
      });
    }
    setTimeout(() => {
      counted = 0;
      counting_since = performance.now();
    }, WARM_MS);
    setTimeout(
      () => {
        const seconds = (performance.now() - (counting_since ?? 0)) / 1_000;
        const result = { per_s: counted / seconds };
        for (const socket of sockets) socket.destroy();
        resolve(result);
      },
      WARM_MS + options.seconds * 1_000,
    );
  });

export const run = async (): Promise<void> => answer(await measure(partOptions<ExchangeLoad>()));
