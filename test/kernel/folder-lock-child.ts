import { lockFolder } from "../../src/kernel/folder-lock.ts";

// Tries the lock of the given folder when it is told to, says what came of it, and keeps it until it is told to go.
const folder = process.argv[2] ?? "";
let release: (() => Promise<void>) | undefined;
process.on("message", (word) => {
  void (async () => {
    if (word === "take") {
      release = await lockFolder(folder);
      process.send?.(release === undefined ? "refused" : "held");
    } else {
      await release?.();
      process.disconnect();
    }
  })();
});
process.send?.("ready");
