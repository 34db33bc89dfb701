/** One item's place in a list. `other`: the same item's place in another list, for who keeps several of them. */
export type Place<T> = {
  readonly item: T;
  readonly list: LinkedList<T>;
  before: Place<T> | undefined;
  after: Place<T> | undefined;
  readonly other: Place<T> | undefined;
};

/**
 * A list that thousands of calls a second enter and leave. A `Set` makes a new table for every few of them, and the old table
 * refers to the new one. Once one table is in the collector's old generation, it keeps all later calls until the next full
 * collection.
 */
export class LinkedList<T> {
  private first: Place<T> | undefined = undefined;

  get empty(): boolean {
    return this.first === undefined;
  }

  put(item: T, other?: Place<T>): Place<T> {
    const after = this.first;
    const place: Place<T> = { item, list: this, before: undefined, after, other };
    if (after !== undefined) after.before = place;
    this.first = place;
    return place;
  }

  /** Once for each place. Its links are cleared: a place in the old generation would else keep those after it. */
  take(place: Place<T>): void {
    const { before, after } = place;
    if (before === undefined) this.first = after;
    else before.after = after;
    if (after !== undefined) after.before = before;
    place.before = undefined;
    place.after = undefined;
  }

  /** The items as of now, in an array of its own. */
  all(): T[] {
    const items: T[] = [];
    for (let place = this.first; place !== undefined; place = place.after) items.push(place.item);
    return items;
  }
}
