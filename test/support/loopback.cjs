// Preload (node --require) for a server that listens on every address of the machine and tells only the port that it
// was asked for: it gets loopback instead, and its real port goes to the parent. It ends with its parent, however that ended.
"use strict";
const { Server } = require("node:net");

const listen = Server.prototype.listen;

Server.prototype.listen = function listenOnLoopback(port, ...rest) {
  const done = rest.find((argument) => typeof argument === "function");
  this.once("listening", () => process.send?.({ port: this.address().port }));
  return listen.call(this, { host: "127.0.0.1", port: Number(port) }, done);
};

process.once("disconnect", () => process.exit(0));
process.channel?.unref();
