import { Argument, Command } from "commander";
import type { CliContext } from "./context.ts";

/** What may follow each command: the key is the words so far, without options. */
type Follow = readonly (readonly [path: string, words: readonly string[]])[];

const followOf = (command: Command, path: readonly string[]): Follow => {
  const flags = command.options.map(({ long }) => long).filter((long) => typeof long === "string");
  const words = [...command.commands.map((sub) => sub.name()), ...flags, "--help"];
  return [[path.join(" "), words], ...command.commands.flatMap((sub) => followOf(sub, [...path, sub.name()]))];
};

/** A case of the shell: words are of a-z and hyphens, so nothing has to be quoted but the spaces of the path. */
const casesOf = (follow: Follow, line: (words: string) => string): string =>
  follow.map(([path, words]) => `    "${path}") ${line(words.join(" "))} ;;`).join("\n");

/** The longest path that the words so far begin with; arguments and options' values are passed over. */
const PATH_OF = (known: string): string => `  local at="" word
  for word in "\${before[@]}"; do
    case " ${known} " in *" \${at:+$at/}$word "*) at="\${at:+$at/}$word" ;; esac
  done
  case "\${at//\\// }" in`;

const knownOf = (follow: Follow): string =>
  follow
    .map(([path]) => path.replaceAll(" ", "/"))
    .filter((path) => path !== "")
    .join(" ");

const SHELLS: Readonly<Record<string, (follow: Follow) => string>> = {
  bash: (follow) => `_caracal() {
  local before=("\${COMP_WORDS[@]:1:COMP_CWORD-1}") words=""
${PATH_OF(knownOf(follow))}
${casesOf(follow, (words) => `words="${words}"`)}
  esac
  COMPREPLY=($(compgen -W "$words" -- "\${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F _caracal caracal`,
  zsh: (follow) => `#compdef caracal
_caracal() {
  local -a before=("\${(@)words[2,CURRENT-1]}")
${PATH_OF(knownOf(follow))}
${casesOf(follow, (words) => `compadd -- ${words}`)}
  esac
}
compdef _caracal caracal`,
  fish: (follow) => `function __caracal_path
  set -l path
  for word in (commandline -opc)[2..]
    contains -- (string join / $path $word) ${knownOf(follow)}; and set path (string join / $path $word)
  end
  string join " " -- (string replace -a / " " -- "$path")
end
${follow.map(([path, words]) => `complete -c caracal -n 'test (__caracal_path) = "${path}"' -a '${words.join(" ")}'`).join("\n")}`,
};

/** `caracal completion SHELL`: the script that completes commands and options. `loadAll` makes every command. */
export const completionCommand =
  (loadAll: (context: CliContext) => Promise<readonly Command[]>) =>
  (context: CliContext): Command =>
    new Command("completion")
      .description("Print the completion script of a shell: source <(caracal completion bash)")
      .addArgument(new Argument("<shell>").choices(Object.keys(SHELLS)))
      .action(async (shell: string) => {
        const program = new Command("caracal");
        for (const command of await loadAll(context)) program.addCommand(command);
        context.out(SHELLS[shell]?.(followOf(program, [])) ?? "");
      });
