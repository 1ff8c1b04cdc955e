"""Every kernel instance compiles with NVRTC for every architecture, without spilling registers; no GPU is needed.

Needs the wheels cupy-cuda13x and nvidia-cuda-nvrtc, and for the headers of half precision nvidia-cuda-runtime,
nvidia-cuda-crt and nvidia-cuda-cccl. Registers are listed with ``pytest -s``.
"""

import importlib.metadata
import re
from pathlib import Path
from typing import NamedTuple

import pytest

from xpconv._gpu import module

ARCHITECTURES = ("sm_75", "sm_80", "sm_90", "sm_100", "sm_120")


class Usage(NamedTuple):
    """What one kernel takes."""

    registers: int
    stack: int
    spills: int


@pytest.fixture(scope="module")
def nvrtc():
    """NVRTC through CuPy; a skip that says what is missing."""
    pytest.importorskip("cupy", reason="cupy is not installed (pip install cupy-cuda13x nvidia-cuda-nvrtc)")
    try:
        from cupy_backends.cuda.libs import nvrtc

        version = nvrtc.getVersion()
    except Exception as error:  # RuntimeError, ImportError or OSError of a library that is missing
        pytest.skip(f"NVRTC cannot be loaded (pip install nvidia-cuda-nvrtc): {error}")
    if version[0] < 13:
        pytest.skip(f"NVRTC is of CUDA {version[0]}, which does not know all of {', '.join(ARCHITECTURES)}")
    return nvrtc


@pytest.fixture(scope="module")
def include_options():
    """Where the headers of half precision are: in the wheels, else in an installed CUDA toolkit."""
    folders = []
    for wheel in ("nvidia-cuda-runtime", "nvidia-cuda-crt", "nvidia-cuda-cccl"):
        try:
            files = importlib.metadata.files(wheel) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for file in files:
            if file.name in ("cuda_fp16.h", "host_config.h", "target") and file.parent.name in ("include", "crt", "nv"):
                parent = Path(file.locate()).resolve().parent
                folders.append(parent if file.parent.name == "include" else parent.parent)
    toolkit = Path("/usr/local/cuda/include")
    if toolkit.exists():
        folders += [toolkit, toolkit / "cccl"]
    return tuple(dict.fromkeys(f"-I{folder}" for folder in folders))


def compiled(nvrtc, file, dtype, architecture, includes):
    """`Usage` of every instance of ``file`` for ``dtype``; raises with the compiler's log."""
    names = list(module.instances(file, dtype))
    program = nvrtc.createProgram(module.source(file), f"{file}.cu", (), ())
    for name in names:
        nvrtc.addNameExpression(program, name)
    options = ("-std=c++17", f"-arch={architecture}", "--ptxas-options=-v", *module.options(dtype))
    if module.options(dtype):
        options += includes
    try:
        nvrtc.compileProgram(program, options)
    except nvrtc.NVRTCError:
        raise AssertionError(f"{file}.cu for {dtype} on {architecture}:\n{nvrtc.getProgramLog(program)}") from None
    lowered = {nvrtc.getLoweredName(program, name): name for name in names}
    return usages(nvrtc.getProgramLog(program), lowered)


def usages(log, lowered):
    """`Usage` by name expression, from what ``ptxas -v`` says."""
    found, current, memory = {}, None, (0, 0)
    for line in log.splitlines():
        if match := re.search(r"entry function '(\S+)'", line):
            current, memory = lowered[match[1]], (0, 0)
        if match := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores", line):
            memory = int(match[1]), int(match[2])
        if match := re.search(r"Used (\d+) registers", line):
            found[current] = Usage(int(match[1]), *memory)
    return found


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", list(module.CTYPES))
@pytest.mark.parametrize("file", list(module.INSTANCES))
def test_compiles_without_spills(nvrtc, include_options, file, dtype, architecture):
    found = compiled(nvrtc, file, dtype, architecture, include_options)
    assert set(found) == set(module.instances(file, dtype))
    print(f"\n{file}.cu, {architecture}:")
    for name, usage in found.items():
        print(f"  {usage.registers:4} registers, {usage.stack:4} bytes of stack  {name}")
    assert not {name: usage for name, usage in found.items() if usage.spills}
    assert not {name: usage for name, usage in found.items() if usage.stack}


@pytest.mark.parametrize("dtype", list(module.CTYPES))
def test_vectors_take_one_instruction(nvrtc, include_options, dtype):
    """What kernels move as 16 bytes is compiled as that, not taken apart: (loads, stores) of global memory."""
    used = {
        ("elementwise", "activate", f"{module.INT32}, Relu"): (1, 1),
        ("elementwise", "add_bias", module.INT32): (1, 1),
        ("norm", "batch_moments", module.INT32): (2, 0),
        ("norm", "batch_normalise", module.INT32): (2, 1),  # x and the residual
        ("norm", "batch_gradient_sums", module.INT32): (3, 0),  # dy, y, x
        ("norm", "batch_normalise_backward", module.INT32): (3, 2),
        ("columns", "im2col_tiled", f"{module.INT32}, 3"): (0, 3),
    }
    includes = include_options if module.options(dtype) else ()
    for (file, kernel, arguments), (loads, stores) in used.items():
        name = f"{kernel}<{module.CTYPES[dtype]}, {arguments}>"
        program = nvrtc.createProgram(module.source(file), f"{file}.cu", (), ())
        nvrtc.addNameExpression(program, name)
        options = ("-std=c++17", "-arch=compute_90", *module.options(dtype), *includes)
        nvrtc.compileProgram(program, options)
        ptx = nvrtc.getPTX(program)
        ptx = ptx.decode() if isinstance(ptx, bytes) else ptx
        width = r"(?:v2\.[a-z]64|v4\.[a-z]32|v8\.[a-z]16)"
        assert len(re.findall(rf"ld\.global(?:\.nc)?\.{width}", ptx)) >= loads, name
        assert len(re.findall(rf"st\.global\.{width}", ptx)) >= stores, name


def test_a_spill_is_seen(nvrtc):
    """A kernel that cannot do with its registers, so that the test above is known to fail where it must."""
    code = """
    extern "C" __global__ void __launch_bounds__(1024, 2) greedy(float* x) {
        float kept[200];
    #pragma unroll
        for (int i = 0; i < 200; i++) kept[i] = x[i * 1024 + threadIdx.x];
        __syncthreads();
    #pragma unroll
        for (int i = 0; i < 200; i++) x[((i * 7) % 200) * 1024 + threadIdx.x] = kept[i] * kept[199 - i];
    }"""
    program = nvrtc.createProgram(code, "greedy.cu", (), ())
    nvrtc.compileProgram(program, ("-arch=sm_90", "--ptxas-options=-v"))
    usage = usages(nvrtc.getProgramLog(program), {"greedy": "greedy"})["greedy"]
    assert usage.spills > 0
