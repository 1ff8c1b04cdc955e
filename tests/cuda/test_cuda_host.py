"""The host execution itself: it must find what it is there to find."""

import subprocess
import sys

import numpy as np
import pytest

import xpconv
from xpconv.testing.cuda_host import HostArray, HostModule, find_compiler, thread_schedule
from xpconv.testing.cuda_host import module as host_module

pytestmark = pytest.mark.skipif(find_compiler() is None, reason="no C++ compiler")

SCHEDULES = (0, 1, 2, 3)

# Reverses 64 numbers through shared memory, and rotates each warp of them by one lane.
SOURCE = """
template <bool FIRST, bool SECOND> __global__ void reverse(const float* x, float* y) {
    SHARED_ARRAY(float, tile, 64);
    tile[threadIdx.x] = x[threadIdx.x];
    if (FIRST) __syncthreads();
    const float other = tile[63 - threadIdx.x];
    if (SECOND) __syncthreads();
    tile[threadIdx.x] = other;
    y[threadIdx.x] = tile[threadIdx.x];
}
__global__ void rotate(const float* x, float* y) {
    y[threadIdx.x] = __shfl_sync(0xFFFFFFFFu, x[threadIdx.x], threadIdx.x + 1);
}
__global__ void by_warp(const float* x, float* y) {
    SHARED_ARRAY(float, tile, 64);
    tile[threadIdx.x] = x[threadIdx.x];
    __syncwarp();
    y[threadIdx.x] = tile[threadIdx.x ^ 1];
}
__global__ void across_warps(const float* x, float* y) {
    SHARED_ARRAY(float, tile, 64);
    tile[threadIdx.x] = x[threadIdx.x];
    __syncwarp();
    y[threadIdx.x] = tile[threadIdx.x ^ 32];
}
__global__ void unwritten(const float* x, float* y) {
    SHARED_ARRAY(float, tile, 64);
    if (threadIdx.x < 32) tile[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    y[threadIdx.x] = tile[threadIdx.x];
}
__global__ void outside(const float* x, float* y) {
    SHARED_ARRAY(float, tile, 64);
    tile[threadIdx.x + 1] = x[threadIdx.x];
}
__global__ void early_return(const float* x, float* y) {
    if (threadIdx.x == 40) return;
    __syncthreads();
}
__global__ void two_places(const float* x, float* y) {
    if (threadIdx.x < 32)
        __syncthreads();
    else
        __syncthreads();
}
__global__ void half_a_warp(const float* x, float* y) {
    if (threadIdx.x % 32 < 16) y[threadIdx.x] = __shfl_xor_sync(0xFFFFFFFFu, x[threadIdx.x], 1);
}
__global__ void not_in_mask(const float* x, float* y) {
    y[threadIdx.x] = __shfl_xor_sync(0x0000FFFFu, x[threadIdx.x], 1);
}
__global__ void too_much(const float* x, float* y) {
    SHARED_ARRAY(double, tile, 48 * 128 + 1);
    tile[threadIdx.x] = 0;
}
__global__ void index(int* x) {
    x[(blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x * 24 + blockIdx.x * 24 +
      (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x] += 1;
}
struct Pair { int first, second; };
template <class T> __global__ void arguments(const T* x, T* y, Pair pair, bool flag, long long n) {
    if (threadIdx.x == 0 && y) *y = pair.second;
}
"""
KERNELS = [f"reverse<{a}, {b}>" for a in ("true", "false") for b in ("true", "false")]
KERNELS += ["rotate", "by_warp", "across_warps", "unwritten", "outside", "early_return", "two_places", "half_a_warp"]
KERNELS += ["not_in_mask", "too_much", "index", "arguments<float>"]


@pytest.fixture(scope="module")
def kernel():
    return HostModule(SOURCE, (), KERNELS).get_function


def device(values, dtype=np.float32):
    return np.array(values, dtype).view(HostArray)


def run(kernel, name, schedule):
    x, y = device(np.arange(64)), device(np.full(64, -1))
    with thread_schedule(schedule):
        kernel(name)((1,), (64,), (x, y))
    return np.asarray(y)


@pytest.mark.parametrize("schedule", SCHEDULES)
class TestSchedules:
    def test_barriers(self, kernel, schedule):
        np.testing.assert_array_equal(run(kernel, "reverse<true, true>", schedule), np.arange(64)[::-1])

    def test_shuffle(self, kernel, schedule):
        expected = np.roll(np.arange(64).reshape(2, 32), -1, axis=1).ravel()
        np.testing.assert_array_equal(run(kernel, "rotate", schedule), expected)

    def test_warp_barrier_orders_its_warp(self, kernel, schedule):
        np.testing.assert_array_equal(run(kernel, "by_warp", schedule), np.arange(64) ^ 1)

    # planted bugs

    def test_missing_barrier_between_write_and_read(self, kernel, schedule):
        with pytest.raises(RuntimeError, match=r"missing barrier: element \d+ of shared array 'tile'"):
            run(kernel, "reverse<false, true>", schedule)

    def test_missing_barrier_between_read_and_write(self, kernel, schedule):
        with pytest.raises(RuntimeError, match=r"missing barrier: element \d+ of .* was (read|written) by thread"):
            run(kernel, "reverse<true, false>", schedule)

    def test_warp_barrier_does_not_order_other_warps(self, kernel, schedule):
        with pytest.raises(RuntimeError, match="missing barrier"):
            run(kernel, "across_warps", schedule)

    def test_shared_memory_is_poisoned(self, kernel, schedule):
        y = run(kernel, "unwritten", schedule)
        np.testing.assert_array_equal(y[:32], np.arange(32))
        assert np.isnan(y[32:]).all()

    def test_shared_index_out_of_bounds(self, kernel, schedule):
        with pytest.raises(RuntimeError, match=r"writes element 64 of shared array 'tile', which has 64"):
            run(kernel, "outside", schedule)

    def test_barrier_after_a_return(self, kernel, schedule):
        with pytest.raises(RuntimeError, match=r"thread \(40, 0, 0\) of block \(0, 0, 0\) has returned: divergent"):
            run(kernel, "early_return", schedule)

    def test_barriers_at_two_places(self, kernel, schedule):
        with pytest.raises(RuntimeError, match="divergent barrier"):
            run(kernel, "two_places", schedule)

    def test_shuffle_of_half_a_warp(self, kernel, schedule):
        with pytest.raises(RuntimeError, match=r"for lane 16 of its warp, which has returned: divergent barrier"):
            run(kernel, "half_a_warp", schedule)

    def test_shuffle_outside_of_its_mask(self, kernel, schedule):
        with pytest.raises(RuntimeError, match="is not in the mask of its own shuffle"):
            run(kernel, "not_in_mask", schedule)


def test_works_after_a_failure(kernel):
    with pytest.raises(RuntimeError):
        run(kernel, "two_places", 0)
    np.testing.assert_array_equal(run(kernel, "reverse<true, true>", 0), np.arange(64)[::-1])


def test_too_much_shared_memory(kernel):
    with pytest.raises(RuntimeError, match=r"'tile' brings the block to 49160 bytes, over 48 KiB"):
        run(kernel, "too_much", 0)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_thread_of_a_grid_runs_once(kernel, schedule):
    x = device(np.zeros(2 * 3 * 4 * 24), np.int32)
    with thread_schedule(schedule):
        kernel("index")((4, 3, 2), (4, 3, 2), (x,))
    assert (np.asarray(x) == 1).all()


@pytest.mark.parametrize(
    ("grid", "block", "message"),
    [
        ((0,), (32,), "grid.x is 0, CUDA takes 1 to 2147483647"),
        ((1, 65536), (32,), "grid.y is 65536, CUDA takes 1 to 65535"),
        ((1, 1, 65536), (32,), "grid.z is 65536"),
        ((1,), (0,), "block.x is 0, CUDA takes 1 to 1024"),
        ((1,), (1, 1, 65), "block.z is 65, CUDA takes 1 to 64"),
        ((1,), (64, 32), "a block of 2048 threads, CUDA takes 1024 at most"),
    ],
)
def test_launch_bounds(kernel, grid, block, message):
    with pytest.raises(RuntimeError, match=message):
        kernel("index")(grid, block, (device(np.zeros(1), np.int32),))


PAIR = np.array([1, 2], np.int32).view([("first", np.int32), ("second", np.int32)])


def good_arguments():
    return [device([1.0]), device([0.0]), PAIR, np.bool_(True), np.int64(5)]


def test_arguments_by_value_and_by_pointer(kernel):
    arguments = good_arguments()
    kernel("arguments<float>")((1,), (1,), arguments)
    assert arguments[1] == 2
    arguments[1] = None  # a null pointer
    kernel("arguments<float>")((1,), (1,), arguments)


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (0, np.zeros(1, np.float32), "argument 0: expected a device array of float32, got ndarray of float32"),
        (0, device([1], np.float64), "argument 0: expected a device array of float32, got HostArray of float64"),
        (0, 5, "argument 0: expected a device array"),
        (2, np.zeros(3, np.int32), "argument 2: expected a NumPy array of one structure of 8 bytes"),
        (3, True, "argument 3: expected a bool of NumPy, got bool True"),
        (4, 5, "argument 4: expected a int64 of NumPy, got int 5"),
        (4, np.int32(5), "argument 4: expected a int64 of NumPy, got int32"),
    ],
)
def test_arguments_of_other_types(kernel, position, value, message):
    arguments = good_arguments()
    arguments[position] = value
    with pytest.raises(TypeError, match=message):
        kernel("arguments<float>")((1,), (1,), arguments)


def test_number_of_arguments_and_read_only_memory(kernel):
    with pytest.raises(TypeError, match="takes 5 arguments, got 4"):
        kernel("arguments<float>")((1,), (1,), good_arguments()[:4])
    arguments = good_arguments()
    arguments[0].flags.writeable = False  # const T*
    kernel("arguments<float>")((1,), (1,), arguments)
    arguments[1].flags.writeable = False
    with pytest.raises(ValueError, match="argument 1: the kernel writes to it, but it is read-only"):
        kernel("arguments<float>")((1,), (1,), arguments)


def test_compiler_log_is_in_the_error():
    with pytest.raises(RuntimeError, match=r"(?s)f and 0 more: the host compiler failed.*no_such_name"):
        HostModule("__global__ void f(int* x) { no_such_name(); }", (), ["f"])


def test_compiled_modules_are_cached(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    HostModule("__global__ void f(int* x) { *x = 1; }", (), ["f"])
    (library,) = (tmp_path / "xpconv" / "cuda-host").glob("*.so")

    def fail(*args, **kwargs):
        raise AssertionError("compiled again")

    monkeypatch.setattr(host_module.subprocess, "run", fail)
    HostModule("__global__ void f(int* x) { *x = 1; }", (), ["f"])
    with pytest.raises(AssertionError, match="compiled again"):
        HostModule("__global__ void f(int* x) { *x = 2; }", (), ["f"])
    assert library.exists()


@pytest.mark.parametrize("name", ["__half", "__nv_bfloat16"])
def test_half_precision_conversions(name):
    """All 65536 values to float and back, and rounding half-way between neighbours."""
    to_float, from_float = (
        ("__half2float", "__float2half") if name == "__half" else ("__bfloat162float", "__float2bfloat16")
    )
    module = HostModule(
        f"__global__ void widen(const {name}* x, float* y) {{ y[blockIdx.x] = {to_float}(x[blockIdx.x]); }}\n"
        f"__global__ void narrow(const float* x, {name}* y) {{ y[blockIdx.x] = {from_float}(x[blockIdx.x]); }}",
        (),
        ["widen", "narrow"],
    )
    dtype = np.dtype(np.float16) if name == "__half" else np.dtype(pytest.importorskip("ml_dtypes").bfloat16)
    halves = np.arange(2**16, dtype=np.uint16).view(dtype).view(HostArray)
    wide = device(np.zeros(2**16))
    module.get_function("widen")((2**16,), (1,), (halves, wide))
    np.testing.assert_array_equal(np.asarray(wide), np.asarray(halves).astype(np.float32))
    finite = np.sort(np.asarray(wide)[np.isfinite(np.asarray(wide))])
    middle = (finite[1:] / 2 + finite[:-1] / 2).astype(np.float32)
    ulp = np.nextafter(middle, np.float32(np.inf)), np.nextafter(middle, np.float32(-np.inf))
    values = device(np.concatenate([finite, middle, *ulp, [np.inf, -np.inf, np.nan, 1e38, -1e38, 1e-45, -1e-45]]))
    back = np.zeros(values.size, dtype).view(HostArray)
    module.get_function("narrow")((values.size,), (1,), (values, back))
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(
            np.asarray(back).astype(np.float32), np.asarray(values).astype(dtype).astype(np.float32)
        )


def test_backend_arrays_are_told_apart_from_numpy(host):
    x = xpconv.asarray([[1.0, 2.0]], backend="cuda-host")
    assert type(x) is HostArray
    assert host.owns(x)
    assert not host.owns(np.zeros(1))
    assert type(xpconv.to_numpy(x)) is np.ndarray
    with pytest.raises(xpconv.BackendMismatchError, match="cuda-host"):
        xpconv.functional.mse(x, np.asarray(xpconv.to_numpy(x)))
    for result in (host.xp.sum(x), host.xp.stack([x, x]), host.xp.where(x > 1, x, 0.0), host.zeros((2,), "float32")):
        assert type(result) is HostArray


def test_asarray_copies_as_a_transfer_does(host):
    values = np.zeros(3)
    assert not np.shares_memory(np.asarray(host.asarray(values)), values)


def test_without_a_compiler():
    code = (
        "import xpconv, os; os.environ['PATH'] = ''; os.environ.pop('CXX', None)\n"
        "try: xpconv.set_backend('cuda-host')\n"
        "except xpconv.BackendUnavailableError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "cuda-host needs a C++ compiler" in done.stdout


FORKING = """
import os, signal, threading
import numpy as np
import xpconv
from xpconv import functional as F

x = xpconv.asarray(np.ones((2, 3, 12, 12), "float32"), backend="cuda-host")
F.max_pool2d(x, 3)
stop = threading.Event()

def launch():
    while not stop.is_set():
        F.max_pool2d(x, 3)

thread = threading.Thread(target=launch)
thread.start()
codes = []
for _ in range(10):
    child = os.fork()
    if not child:
        signal.alarm(20)  # a deadlock ends here
        F.max_pool2d(x, 3)
        os._exit(0)
    codes.append(os.waitpid(child, 0)[1])
stop.set()
thread.join()
assert codes == [0] * 10, codes
"""


def test_a_fork_waits_for_the_launch_of_another_thread():
    done = subprocess.run([sys.executable, "-c", FORKING], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
