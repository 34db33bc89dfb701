/** An STS says that it lives so often, in seconds. */
export const REPLICA_SEEN_EVERY_S = 15;
/** An STS that has not said so for this long is taken for dead, and what it said it runs is forgotten. */
export const REPLICA_DEAD_S = 60;
