"""What all launches share: index widths, memory orders, checked arguments, numbers that are read from the device."""

import numpy as np
import pytest

from xpconv._gpu import dropout, launch, module
from xpconv.testing.cuda_host import HostArray


def device(values, dtype=np.float32):
    return np.array(values, dtype).view(HostArray)


def test_index_width():
    assert launch.index_for(10, 2**31 - 2**24).name == "int"
    assert launch.index_for(2**31 - 2**24 + 1).name == "int64"
    assert launch.index_for(5, 2**40).scalar is np.int64


def test_32_bit_loops_end_before_their_index_overflows():
    """The largest count, one stride of the largest grid further, is still an int."""
    assert launch.INT32_LIMIT + launch.MAX_BLOCKS * launch.THREADS <= 2**31


def test_waves(host):
    full = host.multiprocessors * launch.BLOCKS_PER_MULTIPROCESSOR
    assert [launch.waves(host, n) for n in (1, 256, 257, 10**9)] == [1, 1, 2, full]


class TestPlanes:
    def test_usual_order(self, host):
        x = device(np.zeros((2, 3, 4, 5)))
        found = launch.planes(host, x)
        assert found.array is x
        assert found[1:] == (60, 20)
        assert (found.extent, found.is_channel_major) == (120, False)

    def test_channel_major(self, host):
        x = device(np.zeros((3, 2, 4, 5))).transpose(1, 0, 2, 3)
        found = launch.planes(host, x)
        assert found.array is x
        assert found[1:] == (20, 40)
        assert found.is_channel_major
        assert launch.empty_planes(host, found, (7, 7), x.dtype).array.strides == (49 * 4, 2 * 49 * 4, 28, 4)

    def test_slices_of_images_and_channels(self, host):
        x = device(np.zeros((4, 6, 4, 5)))[1:3, ::2]
        found = launch.planes(host, x)
        assert found.array is x
        assert found[1:] == (120, 40)
        assert found.extent == 120 + 80 + 20

    @pytest.mark.parametrize("index", [np.s_[..., ::2], np.s_[:, :, ::2], np.s_[:, ::-1], np.s_[:, :, :, 1:]])
    def test_other_memory_is_copied(self, host, index):
        x = device(np.arange(2 * 3 * 4 * 6).reshape(2, 3, 4, 6))[index]
        found = launch.planes(host, x)
        assert found.array.flags.c_contiguous
        np.testing.assert_array_equal(np.asarray(found.array), np.asarray(x))


class TestFlat:
    def test_dense_memory_is_not_copied(self, host):
        x = device(np.zeros((3, 2, 4))).transpose(1, 0, 2)
        memory = launch.flat(host, x, x)
        assert all(np.shares_memory(a, x) for a in memory.arrays)
        assert memory.restore(host, memory.arrays[0]).strides == x.strides

    def test_another_order_is_brought_into_that_of_the_first(self, host):
        x = device(np.zeros((3, 2, 4))).transpose(1, 0, 2)
        y = device(np.arange(24).reshape(2, 3, 4))
        memory = launch.flat(host, x, y)
        np.testing.assert_array_equal(np.asarray(memory.restore(host, memory.arrays[1])), np.asarray(y))


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (5, TypeError, "kernel argument 1: a Python number 5"),
        (True, TypeError, "kernel argument 1: a Python number True"),
        (device(np.zeros((4, 4))).T[1:], ValueError, r"kernel argument 1: strides \(4, 16\) of shape \(3, 4\)"),
    ],
)
def test_arguments_that_cupy_would_take_wrongly(host, value, error, message):
    x = device(np.zeros(3))
    with pytest.raises(error, match=message):
        launch.launch(host, "elementwise", "add_bias", "float32", ("int",), 3, (x, value, np.int32(3), np.int32(3)))


def test_nothing_is_launched_for_nothing(host, monkeypatch):
    monkeypatch.setattr(host.kernels, "get", None)
    launch.launch(host, "elementwise", "add_bias", "float32", ("int",), 0, ())
    launch.launch(host, "reduce", "partial_row_sums", "float32", ("int",), (3, 0), ())


def test_structures_have_the_size_of_their_cuda_counterparts(host):
    """Members as in common.cuh; the kernel checks the size of what it is given."""
    (line,) = [p for p in host.kernels.get("pool", "avg_pool", "float32", "int").parameters if "struct5" in p]
    assert line == "v:struct56"


def test_source_keeps_the_lines_of_its_files():
    text = module.source("norm")
    assert text.count('#line 1 "common.cuh"') == 1
    assert '#include "' not in text
    assert text.startswith('#line 1 "norm.cu"\n// Normalisation.')


class TestNumbersOnTheDevice:
    """The step through a pointer gives what it gives by value."""

    def test_dropout(self, host):
        like = device(np.zeros(100))
        want = np.asarray(dropout.dropout_mask(host, like, 0.5, (1, 2, 3)))
        step = device([3], np.uint32)
        np.testing.assert_array_equal(np.asarray(dropout.dropout_mask(host, like, 0.5, (1, 2, step))), want)
        step[...] = 4
        assert not np.array_equal(np.asarray(dropout.dropout_mask(host, like, 0.5, (1, 2, step))), want)


def test_a_failing_compilation_names_kernels_and_shows_the_log(host, monkeypatch):
    monkeypatch.setattr(module, "source", lambda file: "#error planted\n")
    with pytest.raises(RuntimeError, match=r"(?s)add_bias<float, int>.*planted"):
        module.Kernels(host.raw_module).get("elementwise", "add_bias", "float32", "int")
