import type { MessagePort } from "node:worker_threads";
import { type Call, errorByValue, type Told, type Verbs } from "./messages.ts";

/** The thread's end: each call is done, and answered with what came of it. */
export const answerCalls = (port: Pick<MessagePort, "on" | "postMessage">, verbs: Verbs): void => {
  const tell = (told: Told): void => port.postMessage(told);
  const answer = async ({ id, verb, given }: Call): Promise<void> => {
    try {
      const value = await (verbs[verb] as (...given: readonly unknown[]) => Promise<unknown>)(...given);
      tell({ id, value });
    } catch (error) {
      tell({ id, error: errorByValue(error) });
    }
  };
  port.on("message", (call: Call) => void answer(call));
};
