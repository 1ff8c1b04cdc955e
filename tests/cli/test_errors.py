"""What the command says when the machine, and not the user, is in the way."""

import subprocess
import sys

import pytest

import xpconv
from xpconv.backends import KernelUnavailableError
from xpconv.cli import info

INTERRUPTED_IMPORT = """
import sys

class Interrupt:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "xpconv.training":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupt)
from xpconv.cli import main
sys.exit(main(["info"]))
"""


def test_ctrl_c_while_the_libraries_are_imported():
    done = subprocess.run([sys.executable, "-c", INTERRUPTED_IMPORT], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "xpconv: interrupted\n")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (xpconv.DeviceMemoryError("conv2d: cupy is out of memory"), "conv2d: cupy is out of memory"),
        (MemoryError(), "not enough memory; a smaller --batch-size needs less"),
        (
            KernelUnavailableError("relu<float>: NVRTC says:\npool.cu(3): error"),
            "relu<float>: NVRTC says: pool.cu(3): error",
        ),
        (xpconv.BackendUnavailableError("cupy is not installed"), "cupy is not installed"),
    ],
)
def test_errors_of_a_device_take_one_line(run, monkeypatch, error, line):
    def fail(options):
        raise error

    monkeypatch.setattr(info, "run", fail)
    assert run("info") == (2, "", f"xpconv: error: {line}\n")
