/**
 * `platter completions`: what a shell needs to complete verbs, options and their
 * words, made of the table of verbs.
 *
 * @module
 */

import { type CliIo, print } from "./io.ts";
import {
  ExitCode,
  HELP,
  orList,
  UsageError,
  type Verb,
  type VerbArguments,
  type VerbOption,
} from "./verb.ts";
import { didYouMean } from "./suggestion.ts";

/** The shells, and what is written for each. */
const SHELLS: Readonly<Record<string, (verbs: readonly Verb[]) => string>> = {
  bash,
  zsh,
  fish,
};

const NAMES = Object.keys(SHELLS);

/**
 * Makes the verb.
 *
 * @param verbs The table of verbs, this one included; asked for when it runs.
 * @returns The verb.
 */
export function completionsOf(verbs: () => Promise<readonly Verb[]>): Verb {
  return {
    name: "completions",
    summary: "Print what makes bash, zsh or fish complete verbs and options",
    operands: "SHELL",
    operandCount: [1, 1],
    operandWords: NAMES,
    description:
      "SHELL is bash, zsh or fish. The command must be called platter. The\n" +
      "examples put it where the shell finds it from then on.",
    options: [],
    examples: [
      [
        "echo 'source <(platter completions bash)' >> ~/.bashrc",
        "bash",
      ],
      ['platter completions zsh > "${fpath[1]}/_platter"', "zsh"],
      [
        "platter completions fish > ~/.config/fish/completions/platter.fish",
        "fish",
      ],
    ],
    async run(args: VerbArguments, io: CliIo): Promise<number> {
      const name = args.operand(0);
      if (!Object.hasOwn(SHELLS, name)) {
        throw new UsageError(
          `Cannot print completions as SHELL must be ${
            orList(NAMES)
          }: current value is "${name}"${didYouMean(name, NAMES)}`,
        );
      }
      await print(io.stdout, SHELLS[name]!(await verbs()));
      return ExitCode.Ok;
    },
  };
}

function optionsOf(verb: Verb): readonly VerbOption[] {
  return [...verb.options, HELP];
}

/** Whether a value is the name of a file. */
function isFile({ value }: VerbOption): boolean {
  return value !== undefined && /FILE|PATH|IMAGE/.test(value);
}

/** As one word of any of the three shells. */
function quoted(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

function bash(verbs: readonly Verb[]): string {
  const names = verbs.map(({ name }) => name).join(" ");
  const cases = verbs.flatMap((verb) => {
    const options = optionsOf(verb);
    const typed = (which: readonly VerbOption[]) =>
      which.flatMap(({ name, letter }) =>
        letter === undefined ? [`--${name}`] : [`--${name}`, `-${letter}`]
      );
    const values = options.flatMap((option) => {
      // What may stand alone has its value in the same word.
      if (option.value === undefined || option.optional) return [];
      const then = option.words !== undefined
        ? `words=${quoted(option.words.join(" "))}`
        : isFile(option)
        ? "files=1"
        : ":";
      return [`        ${typed([option]).join("|")}) ${then}; return ;;`];
    });
    return [
      `    ${verb.name})`,
      ...(values.length === 0
        ? []
        : ['      case "$2" in', ...values, "      esac"]),
      `      options=${quoted(typed(options).join(" "))}`,
      verb.operandWords === undefined
        ? "      files=1"
        : `      words=${quoted(verb.operandWords.join(" "))}`,
      "      ;;",
    ];
  });
  return [
    "# bash completions of platter",
    "_platter_words() {",
    '  case "$1" in',
    ...cases,
    "  esac",
    "}",
    "_platter() {",
    '  local current="${COMP_WORDS[COMP_CWORD]}"',
    '  local words="" options="" files=""',
    "  COMPREPLY=()",
    '  if [ "$COMP_CWORD" -eq 1 ]; then',
    `    words=${quoted(`${names} help`)} options='--help --version'`,
    '  elif [ "${COMP_WORDS[1]}" = help ]; then',
    `    words=${quoted(names)}`,
    "  else",
    '    _platter_words "${COMP_WORDS[1]}" "${COMP_WORDS[COMP_CWORD-1]}"',
    "  fi",
    '  case "$current" in -*) words="$options" files="" ;; esac',
    '  if [ -n "$files" ]; then',
    "    compopt -o default 2>/dev/null",
    "  else",
    '    COMPREPLY=($(compgen -W "$words" -- "$current"))',
    "  fi",
    "}",
    "complete -F _platter platter",
    "",
  ].join("\n");
}

function zsh(verbs: readonly Verb[]): string {
  // Brackets and colons are its own marks.
  const described = (text: string) => text.replace(/[[\]:\\]/g, "\\$&");
  const cases = verbs.flatMap((verb) => {
    const specs = optionsOf(verb).map((option) => {
      const { name, letter, value, words, summary, repeats } = option;
      const colon = option.optional ? "::" : ":";
      const what = value === undefined ? "" : `${colon}${described(value)}:` +
        (words !== undefined
          ? `(${words.join(" ")})`
          : isFile(option)
          ? "_files"
          : " ");
      const equals = value === undefined ? "" : option.optional ? "=-" : "=";
      const rest = `${equals}${quoted(`[${described(summary)}]${what}`)}`;
      const short = `${value === undefined ? "" : "+"}${
        quoted(`[${described(summary)}]${what}`)
      }`;
      const many = repeats ? "\\*" : "";
      return [
        `      ${many}--${name}${rest}`,
        ...(letter === undefined ? [] : [`      ${many}-${letter}${short}`]),
      ];
    }).flat();
    const operand = verb.operandWords === undefined
      ? "'*:file:_files'"
      : quoted(`1:word:(${verb.operandWords.join(" ")})`);
    return [
      `    ${verb.name}) _arguments \\`,
      ...specs.map((spec) => `${spec} \\`),
      `      ${operand} ;;`,
    ];
  });
  return [
    "#compdef platter",
    "_platter() {",
    "  local -a verbs",
    "  verbs=(",
    ...verbs.map(({ name, summary }) =>
      `    ${quoted(`${name}:${summary.replaceAll(":", "\\:")}`)}`
    ),
    "  )",
    "  if (( CURRENT == 2 )) || [[ $words[2] == help ]]; then",
    "    _describe verb verbs",
    "    return",
    "  fi",
    "  local verb=$words[2]",
    '  words=("${(@)words[2,-1]}")',
    "  (( CURRENT-- ))",
    "  case $verb in",
    ...cases,
    "  esac",
    "}",
    'if [ "$funcstack[1]" = _platter ]; then',
    '  _platter "$@"',
    "else",
    "  compdef _platter platter",
    "fi",
    "",
  ].join("\n");
}

function fish(verbs: readonly Verb[]): string {
  const lines = [
    "# fish completions of platter",
    "complete -c platter -n __fish_use_subcommand -f",
  ];
  for (const verb of verbs) {
    lines.push(
      `complete -c platter -n __fish_use_subcommand -a ${verb.name} ` +
        `-d ${quoted(verb.summary)}`,
    );
    const here =
      `complete -c platter -n '__fish_seen_subcommand_from ${verb.name}'`;
    if (verb.operandWords !== undefined) {
      lines.push(`${here} -f -a ${quoted(verb.operandWords.join(" "))}`);
    }
    for (const option of optionsOf(verb)) {
      const { name, letter, value, words, summary } = option;
      const short = letter === undefined ? "" : ` -s ${letter}`;
      const takes = value === undefined || option.optional
        ? ""
        : words !== undefined
        ? ` -x -a ${quoted(words.join(" "))}`
        : isFile(option)
        ? " -r -F"
        : " -x";
      lines.push(`${here} -l ${name}${short}${takes} -d ${quoted(summary)}`);
    }
  }
  return `${lines.join("\n")}\n`;
}
