"use strict";
/** Loaded before the program (`--require`), in each of its threads: one that is not the main one throws once a file is there. */
const { existsSync } = require("node:fs");
const { isMainThread } = require("node:worker_threads");

const file = process.env.TEST_THREAD_FAULT_FILE;
if (!isMainThread && file !== undefined) {
  setInterval(() => {
    if (existsSync(file)) throw new Error("a fault that nobody caught");
  }, 20).unref();
}
