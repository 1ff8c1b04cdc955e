"""What all launches share: index widths, memory orders, checked arguments, numbers that are read from the device."""

import numpy as np
import pytest

from xpconv._geometry import conv_window, pool_window
from xpconv._gpu import columns, dropout, elementwise, launch, loss, module, norm, optim, pool
from xpconv.testing.cuda_host import HostArray, HostCudaBackend


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


# ---- sizes past 2**31 ------------------------------------------------------------------------------------------------


def phantom(*shape, dtype=np.float32):
    """An array of any size that has no memory but for its first element: what is done with it must not look."""
    strides = np.cumprod((np.dtype(dtype).itemsize, *shape[:0:-1]))[::-1]
    return np.lib.stride_tricks.as_strided(np.zeros(1, dtype), shape, strides).view(HostArray)


@pytest.fixture
def unlaunched(host, monkeypatch):
    """A backend of phantoms, and the list of launches that it would have made: (kernel, template, grid, arguments)."""
    launches = []

    def get(file, kernel, dtype, *template):
        parameters = host.kernels.get(file, kernel, dtype, *template)

        def start(grid, block, arguments):
            assert len(arguments) == len(parameters.parameters)
            for i, (parameter, value) in enumerate(zip(parameters.parameters, arguments, strict=True)):
                parameters._value(i, parameter, value)  # the types that this instance takes
            launches.append((kernel, template, grid, arguments))

        return start

    backend = HostCudaBackend()
    monkeypatch.setattr(backend.kernels, "get", get)
    for name in ("empty", "zeros"):
        monkeypatch.setattr(backend, name, lambda shape, dtype: phantom(*shape, dtype=backend.dtype(dtype)))
    return backend, launches


HUGE = (2**9, 2**7, 2**8, 2**8)  # 2**32 elements
WINDOW = conv_window((2**8, 2**8), 3, 1, 1, 1)
POOL = pool_window((2**8, 2**8), 2, None, 0, 1, False)
CALLS = {
    "relu": lambda backend: elementwise.relu(backend, phantom(*HUGE)),
    "relu_backward": lambda backend: elementwise.relu_backward(backend, phantom(*HUGE), phantom(*HUGE)),
    "dropout_mask": lambda backend: dropout.dropout_mask(backend, phantom(*HUGE), 0.5, (1, 2, 3, 0)),
    "im2col": lambda backend: columns.im2col(backend, phantom(2**7, 2**6, 2**8, 2**8), WINDOW),  # 2**29 are 9 * 2**29
    "col2im": lambda backend: columns.col2im(backend, phantom(2**7, 9 * 2**6, 2**16), WINDOW),
    "max_pool2d": lambda backend: pool.max_pool2d(backend, phantom(*HUGE), POOL),
    "avg_pool2d_backward": lambda backend: pool.avg_pool2d_backward(
        backend, phantom(2**9, 2**7, 2**7, 2**7), True, POOL
    ),
    "batch_norm": lambda backend: norm.batch_norm(
        backend, phantom(2**9, 2**7, 2**16), *(phantom(2**7) for _ in range(4)), 0.1, 1e-5
    ),
    "layer_norm": lambda backend: norm.layer_norm(backend, phantom(2**22, 2**10), phantom(2**10), None, 1e-5),
    "softmax_cross_entropy": lambda backend: loss.softmax_cross_entropy(
        backend, phantom(2**22, 2**10), phantom(2**22, dtype=np.int64), 0.0
    ),
    "adam_steps": lambda backend: optim.adam_steps(
        backend, *([phantom(2**32)] for _ in range(4)), 1, 1e-3, 0.9, 0.999, 1e-8, 0.0, False
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_sizes_past_2_to_the_31(unlaunched, name):
    """Every kernel that goes through so many elements takes 64-bit indices, and no grid is larger than a GPU allows."""
    backend, launches = unlaunched
    CALLS[name](backend)
    wide = [launched for launched in launches if "int64" in launched[1]]
    assert wide
    for kernel, template, grid, arguments in launches:
        assert all(size <= limit for size, limit in zip(grid, (2**31 - 1, 2**16 - 1, 2**16 - 1), strict=False)), kernel
        arrays = [a for a in arguments if isinstance(a, HostArray)]
        if any(array.size > launch.INT32_LIMIT for array in arrays):
            assert template[0] == "int64", kernel


def test_steps_of_windows_past_2_to_the_31(host, rng):
    """They lead out of every image, so they are never made."""
    x = rng.standard_normal((2, 3, 4, 5)).astype(np.float32)
    taps = conv_window((4, 5), (4, 1), (2**40, 3), 0, (1, 2**33))
    want = np.asarray(columns.im2col(host, x.view(HostArray), taps))
    np.testing.assert_array_equal(want, x[:, :, :, ::3].reshape(2, 12, 2))
    back = np.asarray(columns.col2im(host, want.view(HostArray), taps))
    np.testing.assert_array_equal(back[..., ::3], x[..., ::3])
    assert not back[..., 1::3].any()
    with pytest.raises(ValueError, match=r"x: images and windows must be shorter than 2\*\*31 pixels for CUDA kernels"):
        launch.struct_of_window(conv_window((2**31, 1), 1, 1, 0, 1))


class TestNumbersOnTheDevice:
    """The step through a pointer gives what it gives by value."""

    def test_dropout(self, host):
        like = device(np.zeros(100))
        want = np.asarray(dropout.dropout_mask(host, like, 0.5, (1, 2, 3, 0)))
        step = device([3], np.uint32)
        np.testing.assert_array_equal(np.asarray(dropout.dropout_mask(host, like, 0.5, (1, 2, step, 0))), want)
        step[...] = 4
        assert not np.array_equal(np.asarray(dropout.dropout_mask(host, like, 0.5, (1, 2, step, 0))), want)


def test_a_failing_compilation_names_kernels_and_shows_the_log(host, monkeypatch):
    monkeypatch.setattr(module, "source", lambda file: "#error planted\n")
    with pytest.raises(RuntimeError, match=r"(?s)add_bias<float, int>.*planted"):
        module.Kernels(host.raw_module).get("elementwise", "add_bias", "float32", "int")
