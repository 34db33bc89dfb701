/** The embedded database's own thread: a statement that takes long stops nothing but other statements. */
import { PGlite } from "@electric-sql/pglite";
import { type MessagePort, parentPort, workerData } from "node:worker_threads";
import { portStream } from "./port-stream.ts";
import { createSessions } from "./sessions.ts";

/** To the worker: a port for a new session, or the wish that it closes. */
export type ToWorker = { readonly session: MessagePort } | { readonly close: true };
/** From the worker. */
export type FromWorker = { readonly ready: true } | { readonly closed: true } | { readonly failed: string };

const parent = parentPort;
if (parent === null) throw new Error("this file is a worker's");
const tell = (what: FromWorker): void => parent.postMessage(what);

const { dir } = workerData as { readonly dir: string };

const open = async (): Promise<void> => {
  // Durability stays strict: what was committed has been written to the folder, so kill -9 loses nothing.
  const db = await PGlite.create({ dataDir: dir, relaxedDurability: false });
  const session = createSessions({
    exec: (messages, onRawData) => db.runExclusive(() => db.execProtocolRawStream(messages, { onRawData })),
    rollback: async () => {
      await db.exec("rollback");
    },
  });
  parent.on("message", (asked: ToWorker) => {
    if ("session" in asked) {
      session(portStream(asked.session));
      return;
    }
    db.close().then(
      () => tell({ closed: true }),
      (error: unknown) => tell({ failed: String(error) }),
    );
  });
  tell({ ready: true });
};

open().catch((error: unknown) => tell({ failed: error instanceof Error ? error.message : String(error) }));
