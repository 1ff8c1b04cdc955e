"""Runs every operator on kernels built with sanitizers. To be run with AddressSanitizer preloaded; see test_asan.py.

With the argument ``planted`` it runs a kernel that writes one element behind the end of an array instead, and with
``misaligned`` one that writes a vector of 16 bytes from the second float on.
"""

import importlib.util
import sys
from pathlib import Path

import numpy as np

from xpconv.backends import load_backend
from xpconv.testing.cuda_host import HostArray, HostModule, thread_schedule

OPTIONS = (
    "-O0",
    # of undefined behaviour what kernels are likely to do; all of it takes the compiler half as long again
    "-fsanitize=address,alignment,bounds,integer-divide-by-zero,shift,signed-integer-overflow",
    "-fno-sanitize-recover=all",
    "-g1",
    "-fno-omit-frame-pointer",
)
PLANTED = "__global__ void fill(float* x, int n) { if (threadIdx.x < n) x[threadIdx.x] = 1; }"
MISALIGNED = """
struct alignas(16) Vector { float of[4]; };
__global__ void fill(float* x, int first) { *reinterpret_cast<Vector*>(x + first) = Vector{}; }
"""

if sys.argv[1:] == ["planted"]:
    x = np.zeros(1000, np.float32).view(HostArray)
    fill = HostModule(PLANTED, OPTIONS, ["fill"]).get_function("fill")
    fill((1,), (1000,), (x, np.int32(1000)))
    print("in bounds", flush=True)
    fill((1,), (1001,), (x, np.int32(1001)))
    print("not caught", flush=True)
elif sys.argv[1:] == ["misaligned"]:
    x = np.zeros(1000, np.float32).view(HostArray)
    fill = HostModule(MISALIGNED, OPTIONS, ["fill"]).get_function("fill")
    fill((1,), (1,), (x, np.int32(4)))
    print("aligned", flush=True)
    fill((1,), (1,), (x, np.int32(5)))
    print("not caught", flush=True)
else:
    spec = importlib.util.spec_from_file_location("test_operators", Path(__file__).with_name("test_operators.py"))
    tests = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tests)
    backend = load_backend("cuda-host")
    backend.compiler_options = OPTIONS
    rng = np.random.default_rng(0)
    with thread_schedule(2):
        for name, group in tests.operators.GROUPS.items():
            for call in group(rng):
                tests.check(backend, call, np.dtype(np.float32))
            print(name, flush=True)
