import { hash } from "node:crypto";
import { LRUCache } from "lru-cache";

/** Text that many events name, and that the ledger keeps once. `name`: what they name it by. */
export type AuditDocument = { readonly name: string; readonly text: string };

/** Characters of a name: 132 bits. Who builds two texts of one name is found out, since the whole is hashed beside it. */
const NAME_CHARS = 22;

const sha256 = (text: string): string => hash("sha256", text, "base64url");

/** The name of a document: the beginning of its SHA-256 in base64url. */
const nameOf = (text: string): string => sha256(text).slice(0, NAME_CHARS);

/** By text: what is named again and again is the same text of a cached object, and is hashed once. */
const documents = new LRUCache<string, AuditDocument>({
  max: 20_000,
  maxSize: 32 * 1024 * 1024,
  sizeCalculation: ({ text }) => text.length + 64,
});

/** The document of a text. */
export const documentOf = (text: string): AuditDocument => {
  const known = documents.get(text);
  if (known !== undefined) return known;
  const document = { name: nameOf(text), text };
  documents.set(text, document);
  return document;
};

/** Where a document is kept: once in a zone's month, so that it goes with the events that name it. `month`: `2026-01`. */
export const monthOf = (occurred_at: string): string => occurred_at.slice(0, 7);

/**
 * The id of the event that keeps a document: a UUIDv8 (RFC 9562, 5.8) out of zone, month and name. Whoever sends the
 * document gives it this id, so that the ledger keeps it once.
 */
export const documentId = (zone_id: string, month: string, name: string): string => {
  const hex = hash("sha256", `caracal document\n${zone_id}\n${month}\n${name}`, "hex");
  const variant = ((Number.parseInt(hex.charAt(16), 16) & 3) | 8).toString(16);
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-8${hex.slice(13, 16)}-${variant}${hex.slice(17, 20)}-${hex.slice(20, 32)}`;
};
