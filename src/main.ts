#!/usr/bin/env node
import { run } from "./cli/index.ts";

const code = await run(process.argv.slice(2), process.env);
// A pipe takes 64 KiB at once: what is still to be written would end with the process.
for (const stream of [process.stdout, process.stderr]) {
  await new Promise<void>((resolve) => stream.write("", () => resolve()));
}
process.exit(code);
