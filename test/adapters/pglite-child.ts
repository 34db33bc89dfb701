/** Commits one row after the other to the folder that it is given, and tells of each; until it is killed. */
import { createPglite } from "../../src/adapters/pglite/index.ts";

const server = await createPglite({ dir: process.argv[2] ?? "" });
const { sql } = server.database("child");
await sql`create table numbers (n integer primary key)`;
for (let n = 1; ; n += 1) {
  await sql`insert into numbers values (${n})`;
  process.send?.(n);
}
