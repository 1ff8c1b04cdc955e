"""``xpconv completion``: a script that completes commands, options and their values, for three shells."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from .config import choices_of
from .output import result
from .status import DONE

__all__ = ["SHELLS", "add_command", "script"]

# what the value of an option is, by its name in the help
_FILES = ("FILE", "FILE.onnx", "IMAGE")
_FOLDERS = ("DIR", "FOLDER")
_RUNS = ("RUN_FOLDER", "RUN")


def add_command(commands: Any) -> None:
    """Add the parser of the command."""
    parser = commands.add_parser(
        "completion",
        help="a script with which the shell completes commands, options and values",
        description="Print a script for bash, zsh or fish. With it the tabulator key completes commands, options, "
        "names of models, data sets and backends, files, and folders of runs.",
        epilog="  example: xpconv completion bash >> ~/.bash_completion\n"
        "           xpconv completion zsh > ~/.zfunc/_xpconv\n"
        "           xpconv completion fish > ~/.config/fish/completions/xpconv.fish",
    )
    parser.add_argument("shell", choices=tuple(SHELLS), help="the shell to write for")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the script; returns the exit status."""
    from . import build_parser

    result(script(build_parser(), options.shell), styled=False)
    return DONE


class _Argument(NamedTuple):
    """An option, or a positional argument, which has no flags.

    ``takes``: whether a value follows. ``kind``: of the value, ``"file"``, ``"folder"``, ``"run"`` or "".
    """

    flags: tuple[str, ...]
    help: str
    takes: bool
    choices: tuple[str, ...]
    kind: str


class _Command(NamedTuple):
    name: str
    help: str
    arguments: tuple[_Argument, ...]

    @property
    def options(self) -> list[_Argument]:
        """Those with flags."""
        return [argument for argument in self.arguments if argument.flags]

    @property
    def positional(self) -> list[_Argument]:
        """Those without."""
        return [argument for argument in self.arguments if not argument.flags]


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script for a shell of `SHELLS`."""
    commands = [_Command(name, helps, tuple(map(_argument, sub._actions))) for name, helps, sub in _subparsers(parser)]
    return "\n".join(SHELLS[shell](commands))


def _subparsers(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str, argparse.ArgumentParser]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for pseudo in action._choices_actions:
                yield pseudo.dest, pseudo.help or "", action.choices[pseudo.dest]


def _argument(action: argparse.Action) -> _Argument:
    metavar = action.metavar if isinstance(action.metavar, str) else ""
    choices = tuple(map(str, action.choices or ())) or (choices_of(action.dest) if action.nargs != 0 else ())
    kind = "file" if metavar in _FILES else "folder" if metavar in _FOLDERS else "run" if metavar in _RUNS else ""
    if action.dest == "data":
        kind = "file"  # a path does too
    return _Argument(tuple(action.option_strings), action.help or "", action.nargs != 0, choices, kind)


def _brief(text: str) -> str:
    """What the help says, up to the first semicolon, default or choice."""
    for end in (" (default", ";", ": ", "\n"):
        text = text.partition(end)[0]
    return text.replace("%%", "%")


# ---- bash ---------------------------------------------------------------------------------------------------------

_BASH = """\
# bash completion for xpconv

_xpconv_runs() {
    local config
    for config in "$cur"*/config.json "${cur%/}"/*/config.json runs/*/config.json; do
        config=${config%/config.json}
        [[ -f $config/config.json && $config == "$cur"* && " ${COMPREPLY[*]} " != *" $config "* ]] &&
            COMPREPLY+=("$config")
    done
    compopt -o filenames 2>/dev/null
}

_xpconv_paths() {
    local path
    while IFS= read -r path; do COMPREPLY+=("$path"); done < <(compgen "$1" -- "$cur")
    compopt -o filenames 2>/dev/null
}

_xpconv() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} command= i words=
    COMPREPLY=()
    # --option=value comes in three words
    if [[ $cur == = ]]; then cur=
    elif [[ $prev == = ]]; then prev=${COMP_WORDS[COMP_CWORD-2]}; fi
    for ((i = 1; i < COMP_CWORD; i++)); do
        if [[ ${COMP_WORDS[i]} != -* ]]; then command=${COMP_WORDS[i]}; break; fi
    done
    if [[ $cur != -* ]]; then
        case $command$prev in"""


def _bash(commands: Sequence[_Command]) -> Iterator[str]:
    yield _BASH
    patterns: dict[tuple[str, ...], list[str]] = {}
    for command in commands:
        for option in command.options:
            if option.takes:
                patterns.setdefault(_bash_values(option), []).extend(command.name + flag for flag in option.flags)
    for values, options in patterns.items():
        yield f"            {'|'.join(options)})"
        yield from (f"                {line}" for line in (*values, "return;;"))
    yield "        esac"
    yield "        case $command in"
    names = " ".join(command.name for command in commands)
    yield f"            '') words='{names}';;"
    for command in commands:
        for argument in command.positional[:1]:  # one kind is all that commands have
            yield f"            {command.name})"
            yield from (f"                {line}" for line in (*_bash_values(argument), "return;;"))
    yield "        esac"
    yield "    else"
    yield "        case $command in"
    yield "            '') words='--help --version';;"
    for command in commands:
        flags = " ".join(flag for option in command.options for flag in option.flags if flag.startswith("--"))
        yield f"            {command.name}) words='{flags}';;"
    yield "        esac"
    yield "    fi"
    yield '    COMPREPLY=($(compgen -W "$words" -- "$cur"))'
    yield "}"
    yield "complete -F _xpconv xpconv"


def _bash_values(argument: _Argument) -> tuple[str, ...]:
    lines = []
    if argument.choices:
        lines.append(f'COMPREPLY=($(compgen -W {shlex.quote(" ".join(argument.choices))} -- "$cur"))')
    if argument.kind == "run":
        lines.append("_xpconv_runs")
    elif argument.kind:
        lines.append(f"_xpconv_paths {'-f' if argument.kind == 'file' else '-d'}")
    return tuple(lines)


# ---- zsh ----------------------------------------------------------------------------------------------------------

_ZSH = """\
#compdef xpconv
# zsh completion for xpconv

_xpconv_runs() {
  local -a runs
  runs=(runs/*/config.json(N:h) */config.json(N:h))
  _alternative 'runs:folder of a run:compadd -a runs' 'folders:folder:_files -/'
}

{functions}
_xpconv() {
  local curcontext=$curcontext state line
  typeset -A opt_args
  _arguments -C '(- *)--help[print the help]' '(- *)--version[print the version]' '1: :->command' '*:: :->arguments'
  case $state in
    (command)
      local -a commands
      commands=("""


def _zsh(commands: Sequence[_Command]) -> Iterator[str]:
    functions = {
        f"{_zsh_function(option)}() {{\n"
        f"  _alternative 'names:name:({' '.join(option.choices)})' 'files:file:_files'\n"
        "}\n"
        for command in commands
        for option in command.options
        if option.choices and option.kind
    }
    yield _ZSH.replace("{functions}", "\n".join(sorted(functions)))
    for command in commands:
        yield f"        {shlex.quote(f'{command.name}:{_zsh_text(command.help)}')}"
    yield "      )"
    yield "      _describe command commands;;"
    yield "    (arguments)"
    yield "      case $words[1] in"
    for command in commands:
        yield f"        ({command.name}) _arguments \\"
        specs = [spec for argument in command.arguments for spec in _zsh_specs(argument)]
        yield " \\\n".join(f"          {shlex.quote(spec)}" for spec in specs) + ";;"
    yield "      esac;;"
    yield "  esac"
    yield "}"
    yield 'if [[ $funcstack[1] == _xpconv ]]; then _xpconv "$@"; else compdef _xpconv xpconv; fi'


def _zsh_function(argument: _Argument) -> str:
    """Of an option that takes a name or a path."""
    return f"_xpconv_{argument.flags[-1].strip('-')}"


def _zsh_text(text: str) -> str:
    for special in "\\[]:":
        text = text.replace(special, f"\\{special}")
    return text


def _zsh_specs(argument: _Argument) -> Iterator[str]:
    words = " ".join(argument.choices)
    action = {"run": "_xpconv_runs", "file": "_files", "folder": "_files -/", "": f"({words})" if words else " "}[
        argument.kind
    ]
    if argument.kind and words:
        action = _zsh_function(argument)
    if not argument.flags:
        yield f"*:value:{action}"
    for flag in argument.flags:
        equals = "=" if argument.takes and flag.startswith("--") else ""
        yield f"{flag}{equals}[{_zsh_text(_brief(argument.help))}]" + (f":value:{action}" if argument.takes else "")


# ---- fish ---------------------------------------------------------------------------------------------------------

_FISH = """\
# fish completion for xpconv

function __xpconv_runs
    for config in runs/*/config.json */config.json
        string replace /config.json '' -- $config
    end
    __fish_complete_directories (commandline -ct)
end

complete -c xpconv -f
complete -c xpconv -n __fish_use_subcommand -l help -d 'print the help'
complete -c xpconv -n __fish_use_subcommand -l version -d 'print the version'"""


def _fish(commands: Sequence[_Command]) -> Iterator[str]:
    yield _FISH
    for command in commands:
        yield f"complete -c xpconv -n __fish_use_subcommand -a {command.name} -d {_fish_quoted(command.help)}"
    for command in commands:
        start = f"complete -c xpconv -n '__fish_seen_subcommand_from {command.name}'"
        for argument in command.arguments:
            flags = " ".join(f"-l {f[2:]}" if f.startswith("--") else f"-s {f[1:]}" for f in argument.flags)
            parts = [start, *([flags] if flags else [])]
            if argument.takes:
                parts += _fish_values(argument)
            if flags:
                parts.append(f"-d {_fish_quoted(_brief(argument.help))}")
            yield " ".join(parts)


def _fish_quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _fish_values(argument: _Argument) -> list[str]:
    words = " ".join(argument.choices)
    calls = {"run": "(__xpconv_runs)", "folder": "(__fish_complete_directories (commandline -ct))"}
    call = calls.get(argument.kind, "")
    parts = ["-r"] if argument.flags else []
    parts.append("-F" if argument.kind == "file" else "-f")
    listed = " ".join(part for part in (words, call) if part)
    return [*parts, *([f"-a {_fish_quoted(listed)}"] if listed else [])]


SHELLS = {"bash": _bash, "zsh": _zsh, "fish": _fish}
