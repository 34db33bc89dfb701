export { type AddressClass, classifyAddress } from "./address.ts";
export { createEgress, type EgressOptions } from "./guard.ts";
export { createUpstreams } from "./upstreams.ts";
