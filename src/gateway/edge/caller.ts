import type { ServerResponse } from "node:http";
import type { Share } from "../../kernel/shares.ts";
import type { Client, Watcher } from "../facts.ts";

/** The caller's end of a call, for whoever waits for something meanwhile: first the decision, then the call itself. */
export class Caller implements Client {
  private readonly response: ServerResponse;
  private watcher: Watcher | undefined;
  private readonly held: Share[] = [];

  constructor(response: ServerResponse) {
    this.response = response;
    this.watcher = undefined;
    response.on("close", () => this.close());
    if (response.socket === null) this.watchConnection();
  }

  private close(): void {
    const { watcher } = this;
    for (const share of this.held) share.release();
    this.watcher = undefined;
    watcher?.closed();
  }

  /**
   * Behind another answer on the same connection a response has no socket yet, and would never hear that the client went
   * away: its call would run on for nobody.
   */
  private watchConnection(): void {
    const { response } = this;
    const { socket } = response.req;
    const onClose = (): void => this.close();
    socket.setMaxListeners(0); // one for each that waits: the server bounds how many do
    socket.once("close", onClose);
    response.once("close", () => socket.off("close", onClose)); // the connection may carry many more
  }

  gone(): boolean {
    const { response } = this;
    // A response that waits behind another one is not told that its connection was closed.
    return response.destroyed || response.req.socket.destroyed;
  }

  hold(share: Share): void {
    if (this.gone()) share.release();
    else this.held.push(share);
  }

  whenClosed(watcher: Watcher | undefined): void {
    this.watcher = watcher;
  }
}
