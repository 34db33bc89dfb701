import type { ServerResponse } from "node:http";
import type { Client, Watcher } from "./facts.ts";

/** The caller's end of a call, for whoever waits for something meanwhile: first the decision, then the call itself. */
export class Caller implements Client {
  private readonly response: ServerResponse;
  private watcher: Watcher | undefined;

  constructor(response: ServerResponse) {
    this.response = response;
    this.watcher = undefined;
    response.on("close", () => this.watcher?.closed());
  }

  gone(): boolean {
    const { response } = this;
    // Behind another answer on the same connection a response has no socket yet, and is not told that it was closed.
    return response.destroyed || response.req.socket.destroyed;
  }

  whenClosed(watcher: Watcher | undefined): void {
    this.watcher = watcher;
  }
}
