import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const find = (from: string): string => {
  if (existsSync(join(from, "package.json"))) return from;
  const parent = dirname(from);
  if (parent === from) throw new Error("the program's own package.json is missing");
  return find(parent);
};

/** The folder that holds `migrations/` and `config/`, whether the program runs built or as it is. */
export const packageRoot: string = find(dirname(fileURLToPath(import.meta.url)));
