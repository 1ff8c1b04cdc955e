"""PyTorch: autograd beside the explicit backward, subclasses, memory, devices."""

import numpy as np
import pytest

import xpconv
import xpconv.functional as F
from xpconv.backends import backend_of, compute, load_backend
from xpconv.layers import Parameter
from xpconv.optim import SGD

torch = pytest.importorskip("torch")


@pytest.fixture
def images(rng):
    return torch.tensor(rng.standard_normal((2, 3, 6, 7)))


@pytest.fixture
def filters(rng):
    return torch.tensor(rng.standard_normal((4, 3, 3, 2)))


def test_tensors_that_require_a_gradient_are_cut_off_from_autograd(images, filters):
    x, w = (a.clone().requires_grad_() for a in (images, filters))
    y, cache = F.conv2d(x, w, stride=2, padding=1)
    dy = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(0))
    dx, dw, _ = F.conv2d_backward(dy.requires_grad_(), cache)
    assert not any(a.requires_grad for a in (y, dx, dw))
    torch.nn.functional.conv2d(x, w, stride=2, padding=1).backward(dy)
    torch.testing.assert_close(dx, x.grad)
    torch.testing.assert_close(dw, w.grad)


def test_optimizers_update_values_that_required_a_gradient(filters):
    parameter = Parameter(filters)
    parameter.data = torch.nn.Parameter(filters.clone())
    assert not parameter.data.requires_grad
    parameter.accumulate_grad(torch.ones_like(filters))
    SGD([parameter], lr=0.5).step()
    torch.testing.assert_close(parameter.data, filters - 0.5)


def test_parameters_and_other_subclasses_are_tensors(images, filters):
    y, _ = F.conv2d(images, torch.nn.Parameter(filters))
    assert backend_of(y=y).name == "torch"
    torch.testing.assert_close(y.detach(), torch.nn.functional.conv2d(images, filters))
    assert xpconv.to_numpy(torch.nn.Parameter(filters)).shape == (4, 3, 3, 2)


def test_views_of_tensors(images, filters):
    expected = F.conv2d(images, filters)[0]
    flipped = torch.flip(images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2), [0])
    torch.testing.assert_close(F.conv2d(flipped, filters)[0], torch.flip(expected, [0]))
    expanded = images[:1].expand(5, -1, -1, -1)  # all images are one in memory
    torch.testing.assert_close(F.conv2d(expanded, filters)[0], expected[:1].expand(5, -1, -1, -1))
    dx, _, _ = F.conv2d_backward(*F.conv2d(expanded, filters))
    assert dx.shape == expanded.shape
    torch.testing.assert_close(dx[0], dx[4])


def test_inference_mode(images, filters):
    with torch.inference_mode():
        y, cache = F.conv2d(images, filters)
        dx, dw, _ = F.conv2d_backward(y, cache)
    assert dx.shape == images.shape
    assert dw.shape == filters.shape


def test_the_default_device_and_dtype_of_torch_do_not_matter(images, filters):
    expected = F.conv2d(images, filters)[0]
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float16)
        with torch.device("meta"):
            y, cache = F.conv2d(images, filters)
            gradients = F.conv2d_backward(y, cache)[:2]
            array = xpconv.asarray([1.0], backend="torch")
    finally:
        torch.set_default_dtype(before)
    torch.testing.assert_close(y, expected)
    assert {g.device.type for g in (*gradients, array)} == {"cpu"}
    assert array.dtype == torch.float64


def test_tensors_of_two_devices_are_not_mixed(images, filters):
    with pytest.raises(xpconv.BackendMismatchError, match="w is an array of torch:meta but x is one of torch; move"):
        F.conv2d(images, filters.to("meta"))


@pytest.mark.parametrize("device", ["cuda:99", "nonsense", "cuda:x"])
def test_unknown_devices(device):
    with pytest.raises(xpconv.BackendUnavailableError, match=f"torch cannot use device '{device}'"):
        xpconv.set_backend(f"torch:{device}")


def test_memory_is_shared_where_it_may_be_written():
    values = np.zeros(3, dtype="float32")
    assert xpconv.asarray(values, backend="torch").numpy().base is not None
    values.flags.writeable = False
    array = xpconv.asarray(values, backend="torch")
    array += 1
    assert values.tolist() == [0, 0, 0]


def test_not_installed(python):
    code = "import sys; sys.modules['torch'] = None\nimport xpconv; xpconv.set_backend('torch')"
    assert python(code)[2].endswith(
        "BackendUnavailableError: torch is not installed: see https://pytorch.org/get-started"
    )


def test_out_of_memory_is_that_of_every_device():
    backend, attempts = load_backend("torch:meta"), []

    def fail():
        attempts.append(1)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with pytest.raises(
        xpconv.DeviceMemoryError, match=r"^copy: torch:meta is out of memory: CUDA out of memory\. Tried"
    ):
        compute(backend, "copy", fail)
    assert len(attempts) == 2
