import { readdirSync, readFileSync } from "node:fs";

/** Linux reports in ticks of a hundredth of a second, whatever its kernel's own clock does. */
const TICK_MS = 10;

type Stat = { readonly parent: number; readonly cpu_ms: number };

/** proc(5): the name in the second field may hold anything, so fields are counted from behind its last parenthesis. */
const statOf = (pid: number): Stat | undefined => {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, "latin1");
    const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
    return { parent: Number(fields[1]), cpu_ms: (Number(fields[11]) + Number(fields[12])) * TICK_MS };
  } catch {
    return undefined; // gone, or there is no /proc
  }
};

/** Milliseconds of processor time that a process and its children have used; 0 where the system does not tell. */
export const cpuOf = (pid: number): number => {
  const own = statOf(pid);
  if (own === undefined) return 0;
  const children = readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map((name) => statOf(Number(name)))
    .filter((one) => one?.parent === pid);
  return own.cpu_ms + children.reduce((sum, one) => sum + (one?.cpu_ms ?? 0), 0);
};
