"""A data set small enough to train on in a second, and ways to run the command."""

import fcntl
import os
import struct
import subprocess
import sys
import termios

import numpy as np
import pytest

from xpconv.cli import main

OF_TERMINALS = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "TERM", "PYTHON_COLORS")
CLASSES = ("low", "middle", "high")


def make_images(count, seed):
    """Images of 12 x 12 with a bright band whose height is the class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    images = rng.integers(0, 100, (count, 1, 12, 12), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[0, 4 * label : 4 * label + 4] += 120
    return images, labels


@pytest.fixture(scope="session")
def npz(tmp_path_factory):
    """Path of a data set: 90 training and 30 test images, 3 classes."""
    path = tmp_path_factory.mktemp("data") / "bands.npz"
    train, test = make_images(90, 1), make_images(30, 2)
    np.savez(path, x_train=train[0], y_train=train[1], x_test=test[0], y_test=test[1])
    return str(path)


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """``status, out, err = run("train", ...)``: the command in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        capfd.readouterr()
        status = main([str(argument) for argument in arguments])
        return status, *capfd.readouterr()

    return call


@pytest.fixture
def train(run, npz):
    """``train(...)``: a short training run with these options; asserts that it succeeds, returns what it printed."""

    def call(*options):
        status, out, err = run("train", "--data", npz, "--epochs", 2, "--batch-size", 9, "--out", "r", *options)
        assert (status, err) == (0, "")
        return out

    return call


@pytest.fixture
def process(tmp_path):
    """``process("train", ...)``: the command in a process of its own, its output in pipes."""
    started = []

    def start(*arguments, **options):
        command = [sys.executable, "-W", "error", "-m", "xpconv", *map(str, arguments)]
        # what decides about colours and widths is that of the test alone
        environment = {name: value for name, value in os.environ.items() if name not in OF_TERMINALS}
        environment |= {"OPENBLAS_NUM_THREADS": "1", **options.pop("environment", {})}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        child = subprocess.Popen(command, cwd=tmp_path, env=environment, **{**pipes, **options})
        started.append(child)
        return child

    yield start
    for child in started:
        if child.poll() is None:
            child.kill()
        child.wait()
        for stream in (child.stdout, child.stderr):
            if stream:
                stream.close()


@pytest.fixture
def terminal(process):
    """``status, text = terminal(80, "train", ...)``: the command on a terminal of so many columns."""

    def call(columns, *arguments, environment=()):
        ours, theirs = os.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        child = process(*arguments, stdout=theirs, stderr=theirs, environment={"TERM": "xterm", **dict(environment)})
        os.close(theirs)
        output = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            output += part
        os.close(ours)
        return child.wait(timeout=60), output.decode().replace("\r\n", "\n")

    return call
