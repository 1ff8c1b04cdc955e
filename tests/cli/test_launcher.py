"""The console script, as pip writes it."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2] / "pyproject.toml"
INTERRUPT = "import signal\nsignal.raise_signal(signal.SIGINT)\n"


@pytest.fixture
def script(tmp_path):
    """Start the console script on arguments; modules written to its folder come before all others."""
    if not PROJECT.is_file():
        pytest.skip("pyproject.toml is not beside the tests")
    module, function = tomllib.loads(PROJECT.read_text("utf-8"))["project"]["scripts"]["xpconv"].split(":")
    first = f"import sys\nsys.path.insert(0, {str(tmp_path)!r})\n"
    code = f"{first}from {module} import {function}\nsys.exit({function}())\n"

    def start(*arguments):
        return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)

    return start


def test_it_is_the_command(script):
    done = script("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("xpconv ")
    assert script("no-such-command").returncode == 2


@pytest.mark.parametrize("module", ["numpy", "array_api_compat", "argparse"])
def test_an_interrupt_while_it_loads_is_told_in_a_line(script, tmp_path, module):
    """The module stands for whatever is being imported when Ctrl-C comes."""
    tmp_path.joinpath(f"{module}.py").write_text(INTERRUPT)
    done = script("info")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "xpconv: interrupted\n")
