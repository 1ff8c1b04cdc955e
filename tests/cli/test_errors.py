"""What the command says when something is in the way, and the status it ends with."""

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
    ("error", "line", "status"),
    [
        (xpconv.DeviceMemoryError("conv2d: cupy is out of memory"), "conv2d: cupy is out of memory", 1),
        (MemoryError(), "not enough memory; a smaller --batch-size needs less", 1),
        (
            KernelUnavailableError("relu<float>: NVRTC says:\npool.cu(3): error"),
            "relu<float>: NVRTC says: pool.cu(3): error",
            1,
        ),
        (xpconv.BackendUnavailableError("cupy is not installed"), "cupy is not installed", 2),
    ],
)
def test_errors_of_a_device_take_one_line(run, monkeypatch, error, line, status):
    def fail(options):
        raise error

    monkeypatch.setattr(info, "run", fail)
    assert run("info") == (status, "", f"xpconv: error: {line}\n")
