import { stripVTControlCharacters, styleText } from "node:util";
import { UNREADABLE } from "../contracts/api-fields.ts";

const ALL_UNREADABLE = new RegExp(UNREADABLE, "gu");

/** A thing as the API gives it. */
export type Item = Readonly<Record<string, unknown>>;

/** Text for one line of a terminal: what a stranger named must not move the cursor or reverse the line of who reads it. */
export const clean = (text: string): string => stripVTControlCharacters(text).replace(ALL_UNREADABLE, " ");

const MAX_CELL = 60;

/** A value as a cell has it. */
const cellOf = (value: unknown): string => {
  if (value === null || value === undefined) return "-";
  if (Array.isArray(value) && value.every((one) => typeof one === "string")) return clean(value.join(" ")) || "-";
  return clean(typeof value === "object" ? JSON.stringify(value) : String(value));
};

const clip = (text: string): string => (text.length > MAX_CELL ? `${text.slice(0, MAX_CELL - 1)}…` : text);

/** Items as lines under their columns' names. */
export const tableOf = (columns: readonly string[], items: readonly Item[]): readonly string[] => {
  const rows = items.map((item) => columns.map((column) => clip(cellOf(item[column]))));
  const widths = columns.map((column, at) => Math.max(column.length, ...rows.map((row) => row[at]?.length ?? 0)));
  const line = (cells: readonly string[]): string =>
    cells
      .map((cell, at) => cell.padEnd(widths[at] ?? 0))
      .join("  ")
      .trimEnd();
  return [styleText("bold", line(columns)), ...rows.map(line)];
};

/** One thing, a field to a line. A text of several lines follows its name whole. */
export const fieldsOf = (item: Item): readonly string[] => {
  const width = Math.max(0, ...Object.keys(item).map((name) => name.length));
  return Object.entries(item).flatMap(([name, value]) =>
    typeof value === "string" && value.includes("\n")
      ? [styleText("bold", name), ...value.split("\n").map((line) => `    ${clean(line)}`)]
      : [`${styleText("bold", name.padEnd(width))}  ${cellOf(value)}`],
  );
};
