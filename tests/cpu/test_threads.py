"""The pool of threads: its number, callers that come at the same time, forks, and Python's signals."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
import warnings

import numpy as np
import pytest

import xpconv
from xpconv import _threads
from xpconv._cpu import _kernels, _parallel

needs_threads = pytest.mark.skipif(not _kernels.THREADED, reason="the kernels were built without threads")


@pytest.fixture(autouse=True)
def _same_number_afterwards():
    before = xpconv.get_num_threads()
    yield
    xpconv.set_num_threads(before)


def output_of(code, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# ---- the number -----------------------------------------------------------------------------------------------------


@needs_threads
def test_the_number_is_kept():
    for number in (1, 2, 5, np.int64(3), 1024):
        xpconv.set_num_threads(number)
        assert xpconv.get_num_threads() == number == _kernels.get_num_threads()


@pytest.mark.parametrize("wrong", [0, -1, 1025, 10**30])
def test_a_number_out_of_range_is_an_error(wrong):
    before = xpconv.get_num_threads()
    with pytest.raises(ValueError, match=f"number: must be between 1 and 1024, got {wrong}"):
        xpconv.set_num_threads(wrong)
    assert xpconv.get_num_threads() == before


@pytest.mark.parametrize("wrong", [2.0, "2", None, True])
def test_what_is_no_number_is_an_error(wrong):
    with pytest.raises(TypeError, match="number: expected an integer, got"):
        xpconv.set_num_threads(wrong)


NUMBER = "import xpconv; print(xpconv.get_num_threads())"


@needs_threads
def test_the_environment_sets_the_number():
    assert output_of(NUMBER, XPCONV_NUM_THREADS="3") == "3"
    # also for kernels that are loaded later, and a number that is set before
    code = (
        "import xpconv; xpconv.set_num_threads(4); from xpconv._cpu import _kernels; print(_kernels.get_num_threads())"
    )
    assert output_of(code, XPCONV_NUM_THREADS="3") == "4"


@pytest.mark.parametrize("wrong", ["0", "two", "1.5", "99999"])
def test_a_wrong_number_in_the_environment_is_an_error(wrong, monkeypatch):
    monkeypatch.setenv("XPCONV_NUM_THREADS", wrong)
    with pytest.raises(ValueError, match=f"XPCONV_NUM_THREADS: expected a whole number .* got {wrong!r}"):
        _threads._initial()


def test_an_empty_variable_is_an_unset_one(monkeypatch):
    monkeypatch.setenv("XPCONV_NUM_THREADS", "")
    assert _threads._initial() >= 1


@needs_threads
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no CPU affinity here")
def test_unset_the_number_is_that_of_the_cpus_of_the_process():
    environment = {name: value for name, value in os.environ.items() if name != "XPCONV_NUM_THREADS"}
    code = f"import os; os.sched_setaffinity(0, [{min(os.sched_getaffinity(0))}]); {NUMBER}"
    for script, expected in ((NUMBER, len(os.sched_getaffinity(0))), (code, 1)):
        done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
        assert done.stdout.strip() == str(expected), done.stderr


# ---- work -----------------------------------------------------------------------------------------------------------

SHAPE = (8, 8, 60, 61)  # large enough for the pool


def images(seed):
    return np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float32)


def pooled(x):
    y = np.empty((*SHAPE[:2], 30, 30), np.float32)
    _kernels.max_pool(x, y, np.empty(y.shape, np.uint8), 2, 2, 2, 2, 0, 0, 1, 1)
    return y


def right(x):
    return x[:, :, :, :60].reshape(*SHAPE[:2], 30, 2, 30, 2).max(axis=(3, 5))


@needs_threads
@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="no /proc to count threads in")
def test_helpers_start_when_there_is_work_and_only_as_many_as_needed():
    code = """
import os, numpy as np
from xpconv._cpu import _kernels
def run(n):
    x = np.ones((n, 8, 60, 60)); y = np.empty((n, 8, 30, 30))
    _kernels.avg_pool(x, y, 2, 2, 2, 2, 0, 0, 1, 1, 0, 0, 0, 0)
    print(len(os.listdir("/proc/self/task")) - before, end=" ")
before = len(os.listdir("/proc/self/task"))
_kernels.set_num_threads(1); run(8)
_kernels.set_num_threads(4); run(0); run(1)
run(32); run(32); run(32)
_kernels.set_num_threads(2); run(32)
"""
    started = [int(number) for number in output_of(code, OPENBLAS_NUM_THREADS="1").split()]
    assert started == [0, 0, 0, 3, 3, 3, 3]  # tiny work runs in the caller; helpers stay for the next call


@needs_threads
@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="no /proc to find threads in")
@pytest.mark.parametrize("confined", [False, True])
def test_who_was_woken_may_use_all_processors_of_the_process(confined):
    """A helper is woken where nobody else works, but may run where its caller may; with one processor, all stays."""
    code = f"""
import os, time, numpy as np
from xpconv._cpu import _kernels
x = np.ones((32, 8, 60, 60)); y = np.empty((32, 8, 30, 30))
def work():
    for _ in range(20):
        time.sleep(0.003)
        _kernels.avg_pool(x, y, 2, 2, 2, 2, 0, 0, 1, 1, 0, 0, 0, 0)
        assert (y == 1).all()
_kernels.set_num_threads(3)
everywhere = os.sched_getaffinity(0)
os.sched_setaffinity(0, {{min(everywhere)}})
work()
if not {confined}:
    os.sched_setaffinity(0, everywhere)
    work()
def bound():
    return [t for t in os.listdir("/proc/self/task") if os.sched_getaffinity(int(t)) != os.sched_getaffinity(0)]
deadline = time.monotonic() + 20  # who has not run since it was woken may take a while on a busy machine
while bound() and time.monotonic() < deadline:
    time.sleep(0.01)
print(len(bound()), len(os.listdir("/proc/self/task")), _kernels.spread_helpers() > 0)
"""
    elsewhere = len(os.sched_getaffinity(0)) > 1 and not confined
    assert output_of(code, OPENBLAS_NUM_THREADS="1") == f"0 3 {elsewhere}"


@needs_threads
def test_callers_at_the_same_time():
    """One of them has the pool, the others work alone; all get their own results."""
    xpconv.set_num_threads(3)
    inputs = [images(seed) for seed in range(4)]
    expected = [right(x) for x in inputs]
    wrong = []

    def work(index):
        for _ in range(40):
            if not np.array_equal(pooled(inputs[index]), expected[index]):
                wrong.append(index)

    callers = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert wrong == []


def pool_is_free():
    with _kernels.PoolClaim() as claimed:
        return claimed


@needs_threads
def test_the_pool_can_be_claimed():
    x = images(0)
    xpconv.set_num_threads(3)
    with _kernels.PoolClaim() as claimed:
        assert claimed
        with _kernels.PoolClaim() as again:
            assert not again
        with _kernels.PoolClaim() as again:
            assert not again  # the one that failed has given nothing back
        assert np.array_equal(pooled(x), right(x))  # alone, but done
    assert pool_is_free()


@needs_threads
def test_the_number_may_change_while_others_work():
    x, stop, wrong = images(0), threading.Event(), []
    expected = right(x)

    def work():
        while not stop.is_set():
            if not np.array_equal(pooled(x), expected):
                wrong.append(1)

    worker = threading.Thread(target=work)
    worker.start()
    for number in [1, 4, 2, 7, 1, 3] * 10:
        xpconv.set_num_threads(number)
        time.sleep(0.002)
    stop.set()
    worker.join()
    assert wrong == []


# ---- processes and signals ------------------------------------------------------------------------------------------


def in_child(work):
    """Run ``work`` in a forked child; its exit status, or None if it hangs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Python and of JAX: that there are threads is the point
        pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = 0 if work() else 2
        finally:
            os._exit(status)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


@needs_threads
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
class TestFork:
    """A forked child has the memory of its parent, but none of the threads."""

    def test_after_use(self):
        x = images(0)
        xpconv.set_num_threads(3)
        expected = pooled(x)
        for _ in range(3):
            assert in_child(lambda: all(np.array_equal(pooled(x), expected) for _ in range(5))) == 0
        assert np.array_equal(pooled(x), expected)  # and the parent goes on

    def test_of_a_fork(self):
        x = images(0)
        xpconv.set_num_threads(2)
        pooled(x)
        assert in_child(lambda: np.array_equal(pooled(x), right(x)) and in_child(lambda: pooled(x).any()) == 0) == 0

    def test_while_another_thread_works(self):
        """The child must not wait for a task, or a claim, of a thread that it does not have."""
        x, stop = images(0), threading.Event()
        xpconv.set_num_threads(3)

        def work():
            while not stop.is_set():
                pooled(x)

        def free_and_right():
            return pool_is_free() and np.array_equal(pooled(x), right(x))

        worker = threading.Thread(target=work)
        worker.start()
        try:
            results = [in_child(free_and_right) for _ in range(20)]
        finally:
            stop.set()
            worker.join()
        assert results == [0] * 20

    def test_a_convolution_after_use(self):
        import xpconv.functional as F

        rng = np.random.default_rng(0)
        x, w = rng.standard_normal((16, 4, 20, 20)), rng.standard_normal((8, 4, 3, 3))
        xpconv.set_num_threads(2)
        y, cache = F.conv2d(x, w, padding=1)
        gradients = F.conv2d_backward(y, cache)[:2]

        def same():
            again, cache = F.conv2d(x, w, padding=1)
            return all(np.array_equal(a, b) for a, b in zip(F.conv2d_backward(again, cache), gradients, strict=False))

        assert in_child(same) == 0


@needs_threads
@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no POSIX signals here")
def test_signals_reach_the_main_thread():
    """Helpers block them all: Python's handlers run in the main thread, and system calls there are interrupted."""
    xpconv.set_num_threads(4)
    pooled(images(0))
    caught = []
    previous = signal.signal(signal.SIGALRM, lambda *_: caught.append(threading.current_thread()))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        deadline = time.monotonic() + 10
        while not caught and time.monotonic() < deadline:
            pooled(images(0))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert caught == [threading.main_thread()]


# ---- slices of a convolution side by side ---------------------------------------------------------------------------


@needs_threads
def test_each_item_is_done_once_and_errors_come_back():
    xpconv.set_num_threads(3)
    done = []
    _parallel.for_each(done.append, range(100), 3)
    assert sorted(done) == list(range(100))

    def fail(item):
        if item == 7:
            raise RuntimeError("item 7")

    for _ in range(5):
        with pytest.raises(RuntimeError, match="item 7"):
            _parallel.for_each(fail, range(20), 3)
    assert pool_is_free()


@needs_threads
def test_helpers_work_in_the_context_of_the_caller():
    xpconv.set_num_threads(3)
    seen, barrier = set(), threading.Barrier(2)

    def work(item):
        barrier.wait(10)  # so that a helper takes one of the items
        seen.add((threading.get_ident(), np.geterr()["over"]))

    if _parallel._blas is None:
        pytest.skip("slices are not done side by side with this BLAS")
    with np.errstate(over="call"):
        _parallel.for_each(work, [0, 1], 2)
    assert len(seen) == 2
    assert {over for _, over in seen} == {"call"}


def blas_threads():
    """Getter and setter of the BLAS's number of threads, called directly."""
    getter, setter = _parallel._blas
    return ctypes.CFUNCTYPE(ctypes.c_int)(getter), ctypes.CFUNCTYPE(None, ctypes.c_int)(setter)


@needs_threads
def test_the_blas_has_its_threads_back():
    if _parallel._blas is None:
        pytest.skip("no OpenBLAS whose threads could be held")
    get, set_ = blas_threads()
    before, seen = get(), []
    set_(2)
    try:
        xpconv.set_num_threads(2)
        _parallel.for_each(lambda item: seen.append(get()), range(10), 2)
        assert get() == 2
    finally:
        set_(before)
    assert set(seen) == {1}


@needs_threads
def test_calls_at_the_same_time_hold_the_blas_together():
    if _parallel._blas is None:
        pytest.skip("no OpenBLAS whose threads could be held")
    get, set_ = blas_threads()
    before = get()
    set_(2)
    try:
        with _kernels.BlasAtOneThread():
            with _kernels.BlasAtOneThread():
                assert get() == 1
            assert get() == 1
        assert get() == 2
        with _kernels.BlasAtOneThread():
            assert in_child(lambda: get() == 2) == 0  # as if another thread held it, which the child does not have
    finally:
        set_(before)


INTERRUPTS = """
import faulthandler, random, signal, time
import numpy as np
import xpconv
from xpconv import functional as F
from xpconv._cpu import _kernels, _parallel

faulthandler.dump_traceback_later(60, exit=True)  # a deadlock ends here
xpconv.set_num_threads(3)
x, w = np.ones((32, 6, 16, 16), "f4"), np.ones((8, 6, 3, 3), "f4")
expected, _ = F.conv2d(x, w, padding=1)
random.seed(0)
signal.signal(signal.SIGALRM, signal.default_int_handler)
for _ in range(150):
    try:
        signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0002, 0.004))
        end = time.monotonic() + 1
        while time.monotonic() < end:
            F.conv2d_backward(*F.conv2d(x, w, padding=1))
    except KeyboardInterrupt:
        pass
    assert np.array_equal(F.conv2d(x, w, padding=1)[0], expected)
with _kernels.PoolClaim() as claimed:
    assert claimed, "an interrupt has left the pool claimed"
print("usable")
"""


@needs_threads
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no POSIX signals here")
def test_interrupts_at_any_moment_leave_the_kernels_usable():
    done = subprocess.run([sys.executable, "-c", INTERRUPTS], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "usable\n"


AT_EXIT = """
import atexit
import numpy as np
import xpconv
from xpconv import functional as F

xpconv.set_num_threads(2)
atexit.register(lambda: print(F.conv2d(np.ones((16, 4, 20, 20)), np.ones((8, 4, 3, 3)))[0].sum()))
"""


@needs_threads
def test_a_convolution_while_the_interpreter_ends():
    done = subprocess.run([sys.executable, "-c", AT_EXIT], capture_output=True, text=True, timeout=60)
    assert done.stdout == f"{16 * 8 * 18 * 18 * 36:.1f}\n", done.stderr
