"""The kernels of snake.cu, without a GPU: on the stand-in device ``cuda-host``; and on ``cupy`` where there is one.

python -m pytest examples/custom_cuda_layer        # some seconds; needs a C++ compiler
"""

import sys
from pathlib import Path

import numpy as np
import pytest

from xpconv.backends import BackendUnavailableError, load_backend, run, serving, to_numpy
from xpconv.testing import check_layer
from xpconv.testing.cuda_host import thread_schedule

sys.path.insert(0, str(Path(__file__).parent))  # whichever way pytest was started
from snake import Snake

SHAPES = [(3, 5), (2, 3, 4, 5), (300, 2, 3), (0, 4), (2, 0, 3)]


@pytest.fixture(params=["cuda-host", "cupy"])
def device(request):
    """A backend that runs CUDA kernels."""
    try:
        return load_backend(request.param)
    except BackendUnavailableError as error:
        pytest.skip(str(error))


def arrays(shape, dtype):
    """dy, x and alpha on the host."""
    rng = np.random.default_rng(0)
    dy, x = rng.normal(size=(2, *shape)).astype(dtype)
    return dy, x, rng.uniform(0.5, 2, shape[1]).astype(dtype)


def results(backend, dy, x, alpha):
    """y, dx and dalpha on the host, computed on ``backend``."""
    y = run(backend, "snake", x, alpha)
    return [to_numpy(array) for array in (y, *run(backend, "snake_backward", dy, x, alpha))]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", SHAPES)
def test_kernels_compute_what_the_array_api_does(device, shape, dtype):
    assert serving(device, "snake", dtype).name == "snake_cuda"  # or it would be compared with itself
    assert serving(device, "snake_backward", dtype).name == "snake_backward_cuda"
    host = arrays(shape, dtype)
    wanted = results(load_backend("numpy"), *host)
    got = results(device, *map(device.asarray, host))
    tolerance = {"float32": 2e-6, "float64": 4e-15}[dtype] * max(1, shape[0])
    for mine, other in zip(got, wanted, strict=True):
        assert mine.dtype == other.dtype
        np.testing.assert_allclose(mine, other, rtol=tolerance, atol=tolerance)


def test_strides_do_not_matter(device):
    dy, x, alpha = (device.asarray(array) for array in arrays((2, 3, 4, 5), "float32"))
    turned = device.xp.permute_dims(device.contiguous(device.xp.permute_dims(x, (3, 0, 2, 1))), (1, 3, 2, 0))
    assert not turned.flags.c_contiguous
    for mine, other in zip(results(device, dy, turned, alpha), results(device, dy, x, alpha), strict=True):
        assert np.array_equal(mine, other)


@pytest.mark.parametrize("order", [1, 7])
def test_the_order_of_threads_does_not_matter(order):
    try:
        device = load_backend("cuda-host")
    except BackendUnavailableError as error:
        pytest.skip(str(error))
    inputs = [device.asarray(array) for array in arrays((4, 3, 50), "float32")]
    wanted = results(device, *inputs)
    with thread_schedule(order):  # a barrier that is missing is an error in any order
        for mine, other in zip(results(device, *inputs), wanted, strict=True):
            assert np.array_equal(mine, other)


@pytest.mark.parametrize("shape", [(3, 5), (2, 5, 4)])
def test_gradients(device, shape):
    layer = Snake(5, alpha=0.7).to(device.name, dtype="float64")
    check_layer(layer, device.asarray(np.random.default_rng(1).normal(size=shape)))
