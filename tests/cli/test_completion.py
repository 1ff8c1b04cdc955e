"""The scripts of ``xpconv completion``, in the shells that are installed."""

import shutil
import subprocess

import pytest

from xpconv.cli.completion import SHELLS

# Fills in what bash would, and prints what it would offer.
BASH = """
source ./script
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_xpconv 2>/dev/null
printf '%s\\n' "${COMPREPLY[@]}"
"""

CASES = {
    ("xpconv", "pre"): {"predict"},
    ("xpconv", "--v"): {"--version"},
    ("xpconv", "train", "--early"): {"--early-stopping"},
    ("xpconv", "train", "--model", "resnet2"): {"resnet20"},
    ("xpconv", "lr-find", "--optimizer", "adamw"): {"adamw"},
    ("xpconv", "evaluate", "ru"): {"runs/first one", "runs/second"},
    ("xpconv", "train", "--resume", "runs/s"): {"runs/second"},
    ("xpconv", "train", "--config", "op"): {"options.toml"},
    ("xpconv", "train", "--data", "cif"): {"cifar10"},
    ("xpconv", "evaluate", "--weights", "l"): {"last"},
    ("xpconv", "parity", "--backend", "cuda"): {"cuda-host"},
    ("xpconv", "completion", "f"): {"fish"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """With two runs, a folder that is none, and a file."""
    path = tmp_path_factory.mktemp("work")
    for name in ("runs/first one", "runs/second"):
        (path / name).mkdir(parents=True)
        (path / name / "config.json").write_text("{}")
    (path / "runs" / "nothing").mkdir()
    (path / "options.toml").write_text("")
    return path


@pytest.fixture(params=list(SHELLS))
def shell(request, run, tmp_path):
    """A shell that is installed; its script lies in the folder of the test."""
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    status, out, err = run("completion", request.param)
    assert (status, err) == (0, "")
    (tmp_path / "script").write_text(out)
    return request.param


def test_the_shell_takes_the_script(shell, tmp_path):
    done = subprocess.run([shell, "-n", "script"], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_what_bash_offers(run, folder):
    (folder / "script").write_text(run("completion", "bash")[1])

    def offered(*words):
        command = ["bash", "--norc", "-c", BASH, "bash", *words]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert done.stderr == ""
        return set(done.stdout.splitlines()) - {""}

    for words, wanted in CASES.items():
        assert offered(*words) == wanted, words
    assert offered("xpconv", "train", "--model", "=", "resnet3") == {"resnet32", "resnet34"}
    assert offered("xpconv", "train", "--epochs", "") == set()
    assert offered("xpconv", "") >= {"train", "bench", "completion"}
    assert offered("xpconv", "info", "--") >= {"--conv", "--json", "--quiet", "--help"}


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_what_fish_offers(run, folder, tmp_path):
    (folder / "script").write_text(run("completion", "fish")[1])
    lines = "\n".join(f"echo '=='; complete -C '{' '.join(words)}'" for words in CASES)
    done = subprocess.run(
        ["fish", "--no-config", "-c", f"source script\n{lines}"],
        cwd=folder,
        env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    for (words, wanted), text in zip(CASES.items(), done.stdout.split("==\n")[1:], strict=True):
        assert {line.split("\t")[0] for line in text.splitlines()} >= wanted, words


def test_an_unknown_shell(run):
    status, out, err = run("completion", "tcsh")
    assert (status, out) == (2, "")
    assert "invalid choice: 'tcsh'" in err
