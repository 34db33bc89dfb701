/** Server-sent events (WHATWG HTML, 9.2) as far as MCP uses them. */
export type SseEvent = { readonly event: string; readonly data: string; readonly id: string | undefined };

/**
 * Feeds text as it arrives; `push` gives back the events that it completed. An event whose blank line is missing never
 * comes: that is what a cut looks like.
 */
export const createSseReader = (): { push(text: string): readonly SseEvent[] } => {
  let rest = "";
  return {
    push(text) {
      rest += text;
      const blocks = rest.split(/\r?\n\r?\n/);
      rest = blocks.pop() ?? "";
      return blocks.flatMap((block) => {
        const fields = block.split(/\r?\n/).map((line) => /^(event|data|id): ?(.*)$/.exec(line) ?? []);
        const all = (name: string): readonly string[] =>
          fields.flatMap(([, key, value]) => (key === name ? [value ?? ""] : []));
        const data = all("data");
        return data.length === 0
          ? []
          : [{ event: all("event").at(-1) ?? "message", data: data.join("\n"), id: all("id").at(-1) }];
      });
    },
  };
};
