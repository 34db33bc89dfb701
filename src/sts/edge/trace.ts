const TRACEPARENT = /^[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}$/;

/** The trace's id out of a `traceparent` (W3C Trace Context, 3.2); undefined where there is none in that form. */
export const traceIdOf = (header: string | string[] | undefined): string | undefined =>
  typeof header === "string" ? TRACEPARENT.exec(header)?.[1] : undefined;
