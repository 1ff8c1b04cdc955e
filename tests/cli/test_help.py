"""The help of every command, and names that were mistyped."""

import argparse
import os
import re
import subprocess
import sys

import pytest

import xpconv
from xpconv.cli import build_parser, config, main
from xpconv.cli.completion import _subparsers

COMMANDS = {name: parser for name, _, parser in _subparsers(build_parser())}


def test_there_are_commands():
    assert COMMANDS.keys() >= {"train", "lr-find", "evaluate", "predict", "export", "info", "bench", "parity"}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example_that_the_command_takes(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as stopped:
        main([name, "--help"])
    assert stopped.value.code == 0
    examples = re.findall(
        rf"^ +(?:example: )?(?:mpiexec -n \d+ )?xpconv ({name}\b[^>\n]*)", capsys.readouterr().out, re.MULTILINE
    )
    assert examples
    for example in examples:
        COMMANDS[name].parse_args(example.split()[1:])


@pytest.mark.parametrize("name", COMMANDS)
def test_help_tells_defaults(name):
    for action in COMMANDS[name]._actions:
        flag = isinstance(action, (argparse._StoreTrueAction, argparse._HelpAction))
        if action.option_strings and not flag and not action.required:
            assert "(default: " in action.help, action.option_strings
        assert action.help
        assert "%" not in action.help.replace("%%", "")


def test_help_of_options_that_are_not_those_of_the_run():
    helps = {action.dest: action.help for action in COMMANDS["predict"]._actions}
    told = {name: text.rpartition("(default: ")[2].rstrip(")") for name, text in helps.items()}
    assert told["data"].startswith("none")
    assert told["data_dir"].startswith("XPCONV_DATA")
    assert (told["allow_outside"], told["batch_size"]) == ("off", "as in the run")
    assert "all ranks" not in helps["batch_size"]
    assert not helps.keys() & {"labels", "bad_files"}


@pytest.mark.parametrize("columns", ["20", "40", "80"])
def test_help_fits(capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    lines = capsys.readouterr().out.split("\n")
    # an option, or a line of an example, is not broken
    wide = [line for line in lines if len(line) > max(int(columns), 24) and "--" not in line and "xpconv" not in line]
    assert all(" " not in line.strip() for line in wide), wide


def test_every_option_has_a_group():
    names = [name for group in config.GROUPS.values() for name in group]
    assert sorted(names) == sorted(config._FIELDS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tain"], "unknown command 'tain' (did you mean train?); known are "),
        (["qqq"], "unknown command 'qqq'; known are "),
        (["--verson"], "unknown option --verson (did you mean --version?); see xpconv --help"),
        (["evaluate", "r", "--reprt"], "unknown option --reprt (did you mean --report?); see xpconv evaluate --help"),
        (["predict", "--rum=r"], "unknown option --rum (did you mean --run?); see xpconv predict --help"),
        (["predict", "--epochs", "3"], "unknown option --epochs; see xpconv predict --help"),
        (["evaluate"], "the following arguments are required: RUN_FOLDER; see xpconv evaluate --help"),
        (["train", "surplus"], "unrecognized arguments: surplus; see xpconv"),
        (["info", "--padding", "some"], 'argument --padding: expected a whole number, "same" or "valid", got \'some\''),
        (["bench", "--threads", "0"], "--threads: must be between 1 and 1024, got 0"),
        (["bench", "--seconds", "nan"], "--seconds: expected a number above 0, got nan"),
    ],
)
def test_mistakes(capsys, arguments, message):
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"xpconv: error: {message}")
    assert printed.err.count("\n") == 1


def test_names_after_two_dashes_are_no_options(run):
    status, _, err = run("predict", "--run", "missing", "--", "--epochs")
    assert status == 2
    assert "missing: no such folder" in err


def test_version(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"xpconv {xpconv.__version__}\n"


def test_a_wrong_command_line_is_no_traceback(monkeypatch, capsys):
    monkeypatch.setenv("XPCONV_TRACEBACK", "1")
    assert main(["tain"]) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("variable", ["XPCONV_CONV", "XPCONV_WORKSPACE_MB"])
def test_wrong_settings(variable):
    environment = {**os.environ, variable: "nonsense"}
    command = [sys.executable, "-m", "xpconv", "info"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(rf"xpconv: error: {variable}[^\n]*\n", done.stderr)
