import { Agent, setGlobalDispatcher } from "undici";

/** Whom the tests' own clients believe. Node reads NODE_EXTRA_CA_CERTS at its start, when a test's CA is not there yet. */
let trusted: string | undefined;

/** From now on `fetch` (the SDK's and jose's too) and `openRaw` of this process believe servers that this CA (PEM) signed. */
export const trustCa = (ca: string): void => {
  trusted = ca;
  setGlobalDispatcher(new Agent({ connect: { ca } }));
};

export const trustedCa = (): string | undefined => trusted;
