/** Keeps values of many owners, up to a common number. An owner with many values pushes out none of an owner with few. */
export type KeptShares<K, V> = {
  /** The value, which counts as used. */
  get(owner: string, key: K): V | undefined;
  /** Returns the value, and keeps it no longer. */
  take(owner: string, key: K): V | undefined;
  /** Above the number, the owner with most values loses the one that it used least recently. */
  put(owner: string, key: K, value: V): void;
};

/** Empty, for `max` values. */
export const createKeptShares = <K, V>(max: number): KeptShares<K, V> => {
  /** Values in the order of their last use. */
  const owners = new Map<string, Map<K, V>>();
  let size = 0;

  const take = (owner: string, key: K): V | undefined => {
    const own = owners.get(owner);
    const value = own?.get(key);
    if (own === undefined || value === undefined) return undefined;
    own.delete(key);
    if (own.size === 0) owners.delete(owner);
    size -= 1;
    return value;
  };

  /** Walks over all owners. That happens only when a value is dropped, and making one costs more. */
  const largest = (): readonly [string, Map<K, V>] | undefined => {
    let found: readonly [string, Map<K, V>] | undefined;
    for (const one of owners) if (found === undefined || one[1].size > found[1].size) found = one;
    return found;
  };

  return {
    get(owner, key) {
      const own = owners.get(owner);
      const value = own?.get(key);
      if (own === undefined || value === undefined) return undefined;
      own.delete(key);
      own.set(key, value);
      return value;
    },
    take,
    put(owner, key, value) {
      take(owner, key);
      const own = owners.get(owner) ?? new Map<K, V>();
      owners.set(owner, own.set(key, value)); // an owner that used something of its own comes last among equals
      size += 1;
      if (size <= max) return;
      const most = largest();
      if (most === undefined) return;
      for (const oldest of most[1].keys()) {
        take(most[0], oldest);
        break;
      }
    },
  };
};
