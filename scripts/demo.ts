/**
 * `npm run demo`: plays the story of one protected call against an instance of its own, or, with
 * `npm run demo -- --attach [data folder]`, against a running one. Exit code 1 where a step did not go as told.
 */
import { parseArgs } from "node:util";
import { attach, type Instance, startOwn } from "./demo/instance.ts";
import { createStage, NotAsTold, plain } from "./demo/stage.ts";
import { play } from "./demo/story.ts";

const USAGE = "usage: npm run demo [-- --attach [data folder]]";

type Choice = { readonly attach_to: string | undefined };

const choiceOf = (argv: readonly string[]): Choice | undefined => {
  try {
    const { values, positionals } = parseArgs({
      args: [...argv],
      options: { attach: { type: "boolean" } },
      allowPositionals: true,
    });
    if (positionals.length > (values.attach === true ? 1 : 0)) return undefined;
    return { attach_to: values.attach === true ? (positionals[0] ?? ".caracal") : undefined };
  } catch {
    return undefined;
  }
};

const complain = (error: unknown): void => {
  const lines = error instanceof NotAsTold ? error.lines : [error instanceof Error ? error.message : String(error)];
  for (const line of lines) process.stderr.write(`demo: ${plain(line)}\n`);
};

/** Resolves to the exit code. Whatever happens, an instance of our own is ended and its folder removed. */
const main = async (argv: readonly string[]): Promise<number> => {
  const choice = choiceOf(argv);
  if (choice === undefined) {
    process.stderr.write(`${USAGE}\n`);
    return 2;
  }
  const stage = createStage(process.stdout);
  const interrupted = new AbortController();
  const onSignal = (): void => interrupted.abort(new NotAsTold("interrupted"));
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, onSignal);
  const broken = new Promise<never>((_, reject) => {
    interrupted.signal.addEventListener("abort", () => reject(interrupted.signal.reason as Error));
  });
  broken.catch(() => undefined);

  let instance: Instance | undefined;
  try {
    const opened = choice.attach_to === undefined ? startOwn(stage, interrupted.signal) : attach(choice.attach_to);
    instance = await opened;
    await Promise.race([play(stage, instance), broken]);
    return 0;
  } catch (error) {
    complain(error);
    return 1;
  } finally {
    await instance?.close();
    for (const signal of ["SIGINT", "SIGTERM"] as const) process.off(signal, onSignal);
  }
};

process.exitCode = await main(process.argv.slice(2));
