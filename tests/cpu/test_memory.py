"""The arena: memory of results and of kernels that is used again."""

import gc
import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from xpconv._cpu import _kernels
from xpconv._cpu._memory import empty

FLOAT = np.dtype("float32")
MIB = 1 << 20


def address(array):
    return array.__array_interface__["data"][0]


def test_memory_comes_back_when_the_last_view_is_gone():
    array = empty((256, 1024), FLOAT)
    first, view = address(array), array[1:, ::2].T
    del array
    assert address(empty((256, 1024), FLOAT)) != first  # the view holds it
    view[...] = 1
    assert view.sum() == view.size
    del view
    gc.collect()
    assert address(empty((256, 1024), FLOAT)) == first


@pytest.mark.parametrize("shape", [(), (0, 3), (3, 5), (4096,), (7, 129, 65), (3, 700_001)])
@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8"])
def test_arrays_are_plain(shape, dtype):
    array = empty(shape, np.dtype(dtype))
    assert type(array) is np.ndarray
    assert (array.shape, array.dtype) == (shape, np.dtype(dtype))
    assert array.flags.c_contiguous
    assert array.flags.writeable
    if array.nbytes >= 1 << 14:
        assert address(array) % 64 == 0
    array[...] = 3
    assert np.array_equal(array, np.full(shape, 3, dtype))


def test_no_two_arrays_share_memory(rng):
    arrays = []
    for number in range(60):
        array = empty((int(rng.integers(1, 300_000)),), FLOAT)
        array[...] = number
        arrays.append((number, array))
        if rng.random() < 0.4:
            arrays.pop(int(rng.integers(len(arrays))))
    for number, array in arrays:
        assert (array == number).all()


def test_threads_take_and_give_at_the_same_time():
    wrong = []

    def work(number):
        for size in (5000, 70_000, 9000, 70_000) * 50:
            array = empty((size,), FLOAT)
            array[...] = number
            if not (array == number).all():
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_what_is_kept_can_be_handed_to_the_system():
    used, _ = _kernels.memory_sizes()
    array = empty((1 << 20,), FLOAT)
    assert _kernels.memory_sizes()[0] == used + 4 * MIB
    del array
    assert _kernels.memory_sizes()[1] >= 4 * MIB
    assert _kernels.trim_memory() >= 4 * MIB
    assert _kernels.memory_sizes() == (used, 0)


def test_many_sizes_do_not_add_up():
    """Never much more than what was in use at once."""
    _kernels.trim_memory()
    used = _kernels.memory_sizes()[0]
    largest = 48 * MIB
    for size in range(MIB, largest + 1, MIB):
        empty((size // 4,), FLOAT)
        total = sum(_kernels.memory_sizes()) - used
        assert total <= 1.25 * 1.125 * largest + 32 * MIB
    del_me = empty((largest // 4,), FLOAT)
    del del_me
    assert _kernels.memory_sizes()[1] >= largest  # the newest is kept


@pytest.mark.parametrize("size", [-1, 1 << 62])
def test_a_size_that_cannot_be_had(size):
    with pytest.raises((ValueError, MemoryError), match="bytes"):
        _kernels.Block(size)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="takes fork")
def test_a_fork_while_another_thread_takes_memory():
    code = """
import os, threading, warnings
import numpy as np
from xpconv._cpu._memory import empty
warnings.simplefilter("ignore")
stop = False
def work():
    while not stop:
        empty((5000,), np.dtype("float32"))
thread = threading.Thread(target=work)
thread.start()
for _ in range(30):
    child = os.fork()
    if child == 0:
        for size in (5000, 6000, 5000):
            empty((size,), np.dtype("float32"))[...] = 1
        os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
stop = True
thread.join()
print("done")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "done", done.stderr
