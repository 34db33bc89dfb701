import { createSocket } from "node:dgram";
import { isIP } from "node:net";

/** What the server says to a question. `hang`: nothing at all. Addresses of the family that was not asked for are left out. */
export type DnsAnswer = readonly string[] | "none" | "nxdomain" | "servfail" | "hang";
export type DnsQuestion = { readonly name: string; readonly family: 4 | 6 };

const CODES = { none: 0, nxdomain: 3, servfail: 2 } as const;
const TYPE_A = 1;
const TYPE_AAAA = 28;

const nameAt = (message: Buffer, at: number): { readonly name: string; readonly end: number } => {
  const labels: string[] = [];
  let next = at;
  for (let length = message[next] as number; length !== 0; length = message[next] as number) {
    labels.push(message.toString("latin1", next + 1, next + 1 + length).toLowerCase());
    next += length + 1;
  }
  return { name: labels.join("."), end: next + 1 };
};

const bytesOf = (address: string): Buffer => {
  if (isIP(address) === 4) return Buffer.from(address.split(".").map(Number));
  const [head = "", tail = ""] = address.split("::");
  const groups = (text: string): string[] => (text === "" ? [] : text.split(":"));
  const [before, after] = [groups(head), groups(tail)];
  const between = Array.from({ length: 8 - before.length - after.length }, () => "0");
  const bytes = Buffer.alloc(16);
  for (const [at, group] of [...before, ...between, ...after].entries())
    bytes.writeUInt16BE(parseInt(group, 16), at * 2);
  return bytes;
};

const replyTo = (message: Buffer, end: number, family: 4 | 6, answer: Exclude<DnsAnswer, "hang">): Buffer => {
  const addresses = typeof answer === "string" ? [] : answer.filter((address) => isIP(address) === family);
  const head = Buffer.from(message.subarray(0, end));
  head.writeUInt16BE(0x8180 | (typeof answer === "string" ? CODES[answer] : 0), 2); // a response, recursion available
  head.writeUInt16BE(addresses.length, 6);
  head.writeUInt32BE(0, 8);
  const records = addresses.map((address) => {
    const data = bytesOf(address);
    const fixed = Buffer.from([0xc0, 12, 0, family === 4 ? TYPE_A : TYPE_AAAA, 0, 1, 0, 0, 0, 60, 0, data.length]);
    return Buffer.concat([fixed, data]);
  });
  return Buffer.concat([head, ...records]);
};

/** A name server of a test's own on loopback, over UDP: `answer` is asked for each question, and may change. */
export const startDnsServer = async (answer: (question: DnsQuestion) => DnsAnswer) => {
  const asked: DnsQuestion[] = [];
  const socket = createSocket("udp4");
  socket.on("message", (message, from) => {
    const { name, end } = nameAt(message, 12);
    const question: DnsQuestion = { name, family: message.readUInt16BE(end) === TYPE_AAAA ? 6 : 4 };
    asked.push(question);
    const said = answer(question);
    if (said !== "hang") socket.send(replyTo(message, end + 4, question.family, said), from.port, from.address);
  });
  await new Promise<void>((resolve) => socket.bind(0, "127.0.0.1", resolve));
  return {
    address: `127.0.0.1:${socket.address().port}`,
    asked,
    close: () => new Promise<void>((resolve) => socket.close(resolve)),
  };
};
