import { parentPort, workerData } from "node:worker_threads";
import { loadConfig } from "../../config/index.ts";
import { createLog } from "../../kernel/log.ts";
import { answerCalls } from "./answer.ts";
import { createHere } from "../here.ts";
import { errorByValue, type ThreadData, type Told } from "./messages.ts";

/** A thread of one role: what its module loads is what that role needs, and nothing of the others. */

if (parentPort === null) throw new Error("this module is a thread's, and not a program");
const port = parentPort;
const tell = (told: Told): void => port.postMessage(told);
const { role, env } = workerData as ThreadData;
const config = loadConfig(env, [role]);

answerCalls(
  port,
  createHere({
    name: role,
    config,
    roles: [role],
    data_dir: undefined, // embedded storage is the main thread's
    redis_is_checked: true,
    log: createLog({ level: config.LOG_LEVEL, destination: { write: (line) => tell({ line }) } }),
    failed: (error) => tell({ failed: errorByValue(error) }),
  }),
);
