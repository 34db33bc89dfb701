import { check, deny } from "../../kernel/pipeline.ts";
import type { Start } from "../facts.ts";

/** Before a byte of the body is read. A body without a length is counted as it passes, and cut at the limit. */
export const withinSize = (max_request_bytes: number) =>
  check("size", ({ inbound }: Start) =>
    inbound.content_length === undefined || inbound.content_length <= max_request_bytes
      ? undefined
      : deny("request_too_large", `${inbound.content_length} bytes`, {
          description: `The request's body has ${inbound.content_length} bytes; ${max_request_bytes} are the most.`,
        }),
  );
