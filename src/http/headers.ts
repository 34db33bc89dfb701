import type { IncomingMessage } from "node:http";

/** Every header of that name (in lower case): Node keeps only the first of some, and two readers may take each another. */
export const headersNamed = (request: IncomingMessage, name: string): readonly string[] => {
  const found: string[] = [];
  const { rawHeaders } = request;
  for (let at = 0; at + 1 < rawHeaders.length; at += 2) {
    const named = rawHeaders[at] as string;
    if (named.length === name.length && named.toLowerCase() === name) found.push(rawHeaders[at + 1] as string);
  }
  return found;
};

/** The header of that name; what came several times is joined by commas, and so is no single value. */
export const headerNamed = (request: IncomingMessage, name: string): string | undefined => {
  const found = headersNamed(request, name);
  return found.length === 0 ? undefined : found.join(", ");
};
