import { styleText } from "node:util";

type Colour = Parameters<typeof styleText>[0];

/** A step that did not go as told, in short lines for a person. */
export class NotAsTold extends Error {
  readonly lines: readonly string[];
  constructor(...lines: readonly string[]) {
    super(lines.join(" "));
    this.name = "NotAsTold";
    this.lines = lines;
  }
}

/** Fails the step where `found` is not as the story has it. `found`: what was there instead, for the person. */
export const told: (holds: boolean, expected: string, found: unknown) => asserts holds = (holds, expected, found) => {
  if (holds) return;
  const shown = typeof found === "string" ? found : (JSON.stringify(found) ?? "nothing");
  throw new NotAsTold(`expected: ${expected}`, `found: ${shown}`);
};

const MAX_SHOWN = 400;

/** Data as it may be shown on a terminal: no controls, no characters that move or hide others, of bounded length. */
export const plain = (text: string): string => {
  const clean = text.replaceAll(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Surrogate}]/gu, "�");
  return clean.length > MAX_SHOWN ? `${clean.slice(0, MAX_SHOWN)}…` : clean;
};

/** Where the story is told, as it happens. */
export type Stage = {
  heading(text: string): void;
  /** What is done, or what was answered. */
  says(text: string): void;
  /** Part of the story is left out, and why. */
  skips(text: string): void;
  /** Runs a step and tells what it proved. A step that throws ends the story. */
  step(title: string, run: () => Promise<string>): Promise<void>;
};

/** Colours only where `out` is a terminal and nobody asked for none (no-color.org). */
export const createStage = (out: NodeJS.WriteStream): Stage => {
  const coloured = out.isTTY && (process.env["NO_COLOR"] ?? "") === "";
  const paint = (colour: Colour, text: string): string => (coloured ? styleText(colour, text) : text);
  const line = (text: string): void => void out.write(`${text}\n`);
  let steps = 0;
  return {
    heading: (text) => line(`\n${paint("bold", plain(text))}`),
    says: (text) => line(`   ${plain(text)}`),
    skips: (text) => line(`   ${paint("yellow", "–")} ${plain(text)}`),
    async step(title, run) {
      steps += 1;
      const number = steps;
      line(`\n${paint("bold", `${number}. ${plain(title)}`)}`);
      try {
        const proved = await run();
        line(`   ${paint("green", "✓")} ${plain(proved)}`);
      } catch (error) {
        line(`   ${paint("red", "✗")} did not go as told`);
        if (error instanceof NotAsTold) throw new NotAsTold(`step ${number}, ${title}`, ...error.lines);
        throw new Error(`step ${number}, ${title}: ${error instanceof Error ? error.message : String(error)}`, {
          cause: error,
        });
      }
    },
  };
};
