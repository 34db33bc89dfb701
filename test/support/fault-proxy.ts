import { connect, createServer, type Socket } from "node:net";

/** What stands between two parts, and can be made to fail as networks do. */
export type FaultProxy = {
  readonly port: number;
  /** Delays every chunk, both ways. */
  delay(latency_ms: number): void;
  /** Connections stay and are accepted, and nothing comes through any more. */
  blackHole(): void;
  /** New connections are reset. Those that are there stay. */
  refuse(): void;
  /** Cuts each connection after so many more bytes from the server. */
  cutAfter(server_bytes: number): void;
  /** Resets every connection there is. */
  cutAll(): void;
  /** Ends every fault; what a black hole held back comes through. */
  heal(): void;
  connections(): number;
  close(): Promise<void>;
};

type Link = { readonly pump: () => void; readonly cut: () => void };

/** A TCP proxy on loopback in front of `target`. */
export const startFaultProxy = async (target: {
  readonly host?: string;
  readonly port: number;
}): Promise<FaultProxy> => {
  const links = new Set<Link>();
  let latency_ms = 0;
  let black_hole = false;
  let refusing = false;
  let server_bytes_left = Number.POSITIVE_INFINITY;

  const join = (near: Socket, far: Socket): void => {
    /** Chunks on their way, each with the time at which it is due. */
    const queue: { readonly to: Socket; readonly chunk: Buffer | null; readonly due_ms: number }[] = [];
    let timer: NodeJS.Timeout | undefined;
    const cut = (): void => {
      clearTimeout(timer);
      links.delete(link);
      // Node 20 never comes to its end where a socket that is being ended is reset.
      if (near.writableEnded) near.destroy();
      else near.resetAndDestroy();
      far.destroy();
    };
    const pump = (): void => {
      clearTimeout(timer);
      for (;;) {
        const next = queue[0];
        if (black_hole || next === undefined) return;
        const wait_ms = next.due_ms - performance.now();
        if (wait_ms > 0) {
          timer = setTimeout(pump, wait_ms);
          return;
        }
        queue.shift();
        if (next.chunk === null) next.to.end();
        else next.to.write(next.chunk);
      }
    };
    const link: Link = { pump, cut };
    links.add(link);
    const carry = (from: Socket, to: Socket): void => {
      const enter = (chunk: Buffer | null): void => {
        if (from === far && chunk !== null) {
          server_bytes_left -= chunk.length;
          if (server_bytes_left < 0) return cut();
        }
        queue.push({ to, chunk, due_ms: performance.now() + latency_ms });
        pump();
      };
      from.on("data", enter);
      from.on("end", () => enter(null));
      from.on("error", cut);
      from.on("close", () => {
        // One side is gone: the other learns of it behind what is still on its way, unless nothing comes through.
        if (!black_hole && queue.length === 0) cut();
      });
    };
    carry(near, far);
    carry(far, near);
  };

  const server = createServer({ allowHalfOpen: true }, (near) => {
    if (refusing) {
      near.resetAndDestroy();
      return;
    }
    join(near, connect({ host: target.host ?? "127.0.0.1", port: target.port, allowHalfOpen: true }));
  });
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(0, "127.0.0.1", resolve);
  });
  const address = server.address();
  const cutAll = (): void => {
    for (const link of links) link.cut();
  };
  return {
    port: typeof address === "object" && address !== null ? address.port : 0,
    delay(ms) {
      latency_ms = ms;
    },
    blackHole() {
      black_hole = true;
    },
    refuse() {
      refusing = true;
    },
    cutAfter(bytes) {
      server_bytes_left = bytes;
    },
    cutAll,
    heal() {
      latency_ms = 0;
      black_hole = false;
      refusing = false;
      server_bytes_left = Number.POSITIVE_INFINITY;
      for (const link of links) link.pump();
    },
    connections: () => links.size,
    async close() {
      cutAll();
      await new Promise<void>((resolve) => server.close(() => resolve()));
    },
  };
};
