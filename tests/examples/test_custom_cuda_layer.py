"""The example of a layer with CUDA kernels of its own, and its test."""

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "examples" / "custom_cuda_layer"


def test_it_learns(example, capsys):
    errors = example("custom_cuda_layer/snake.py").main(["--small"])
    assert errors["Snake"][0] < 0.01
    assert errors["Snake"][1] < errors["ReLU"][1]
    assert "Snake  mean squared error 0.00" in capsys.readouterr().out


def test_its_own_test_passes():
    if not FOLDER.exists():
        pytest.skip("the examples are in the repository, not in the package")
    command = [sys.executable, "-m", "pytest", str(FOLDER), "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout or " skipped" in done.stdout


@pytest.mark.parametrize("architecture", ["sm_75", "sm_90"])
def test_nvrtc_takes_its_source(example, architecture):
    pytest.importorskip("cupy", reason="cupy is not installed (pip install cupy-cuda13x nvidia-cuda-nvrtc)")
    try:
        from cupy_backends.cuda.libs import nvrtc

        nvrtc.getVersion()
    except Exception as error:  # RuntimeError, ImportError or OSError of a library that is missing
        pytest.skip(f"NVRTC cannot be loaded (pip install nvidia-cuda-nvrtc): {error}")
    module = example("custom_cuda_layer/snake.py").MODULE
    program = nvrtc.createProgram(module.text, "snake.cu", (), ())
    for name in module.kernels:
        nvrtc.addNameExpression(program, name)
    try:
        nvrtc.compileProgram(program, ("-std=c++17", f"-arch={architecture}"))
    except nvrtc.NVRTCError:
        pytest.fail(nvrtc.getProgramLog(program))
    for name in module.kernels:
        assert nvrtc.getLoweredName(program, name)
