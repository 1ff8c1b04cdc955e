"""How the kernels take arrays: what they refuse, by name, and that they let go of everything afterwards."""

import gc

import numpy as np
import pytest

from xpconv._cpu import _kernels

STEPS = (1, 1, 0, 0, 1, 1)


def images(*shape):
    return np.zeros(shape or (2, 3, 6, 6))


def calls():
    """For each kernel its arrays by name, those it writes last, and the numbers after them."""
    y = images(2, 4, 4, 4)
    depth = images(2, 3, 4, 4)
    vectors = ("mean", "inv_std", "dw", "db")
    rows = {name: np.zeros((2, 3, 5)) for name in ("x", "y", "dy", "dx")}
    return {
        "im2col": ({"x": images(), "cols": np.zeros((2, 3, 3, 3, 4, 4))}, STEPS, ("cols",)),
        "col2im": ({"cols": np.zeros((2, 3, 3, 3, 4, 4)), "x": images()}, STEPS, ("x",)),
        "direct": (
            {"x": images(), "w": np.zeros((4, 27)), "b": np.zeros(4), "y": y},
            (3, 3, *STEPS, False, 1 << 20),
            ("y",),
        ),
        "direct_backward": (
            {
                "dy": y,
                "x": images(),
                "w": np.zeros((4, 27)),
                "dx": images(),
                "dw": np.zeros((4, 27)),
                "db": np.zeros(4),
            },
            (3, 3, *STEPS, 1 << 20),
            ("dx", "dw", "db"),
        ),
        "depthwise": (
            {"x": images(), "w": np.zeros((3, 9)), "b": np.zeros(3), "y": depth},
            (3, 3, *STEPS, False, 1 << 20),
            ("y",),
        ),
        "depthwise_input_gradient": (
            {"dy": depth, "w": np.zeros((3, 9)), "dx": images()},
            (3, 3, *STEPS, 1 << 20),
            ("dx",),
        ),
        "depthwise_gradients": (
            {
                "dy": depth,
                "x": images(),
                "w": np.zeros((3, 9)),
                "dx": images(),
                "dw": np.zeros((3, 9)),
                "db": np.zeros(3),
            },
            (3, 3, *STEPS, 1 << 20),
            ("dx", "dw", "db"),
        ),
        "winograd": (
            {"x": images(), "w": np.zeros((4, 3, 3, 3)), "b": np.zeros(4), "y": y},
            (0, 0, 4, False, False, 1 << 20),
            ("y",),
        ),
        "winograd_weights": (
            {"dy": y, "x": images(), "dw": np.zeros((4, 3, 3, 3)), "db": np.zeros(4)},
            (0, 0, 4, 1 << 20),
            ("dw", "db"),
        ),
        "blocked_forward": (
            {"x": images(), "w": np.zeros((4, 3, 3, 3)), "b": np.zeros(4), "y": y},
            (*STEPS, 1, False, 1 << 20),
            ("y",),
        ),
        "blocked_input_gradient": (
            {"dy": y, "w": np.zeros((4, 3, 3, 3)), "b": np.zeros(3), "dx": images()},
            (*STEPS, 1, 1 << 20),
            ("dx",),
        ),
        "blocked_weight_gradient": (
            {"dy": y, "x": images(), "dw": np.zeros((4, 3, 3, 3)), "db": np.zeros(4)},
            (*STEPS, 1, 1 << 20),
            ("dw", "db"),
        ),
        "max_pool": ({"x": images(), "y": depth, "argmax": depth.astype(np.uint8)}, (3, 3, *STEPS), ("y", "argmax")),
        "max_pool_backward": (
            {"dy": depth, "argmax": depth.astype(np.int32), "dx": images()},
            (3, 3, *STEPS),
            ("dx",),
        ),
        "avg_pool": ({"x": images(), "y": depth}, (3, 3, *STEPS, 0, 0, 0, 0), ("y",)),
        "avg_pool_backward": ({"dy": depth, "dx": images()}, (3, 3, *STEPS, 0, 0, 0, 0), ("dx",)),
        "adaptive_avg_pool": ({"x": images(), "y": depth}, (), ("y",)),
        "adaptive_avg_pool_backward": ({"dy": depth, "dx": images()}, (), ("dx",)),
        "batch_norm": (
            {
                "x": rows["x"],
                "residual": rows["dy"],
                "y": rows["y"],
                **{name: np.ones(3) for name in ("weight", "bias", "mean", "variance", "inv_std")},
                **{name: np.ones(3) for name in ("old_mean", "old_variance", "new_mean", "new_variance")},
            },
            (0.1, 1e-5, False, False, True),
            ("y", "mean", "variance", "inv_std", "new_mean", "new_variance"),
        ),
        "batch_norm_backward": (
            {
                **{name: rows[name] for name in ("dy", "y", "x", "dx")},
                "dresidual": np.zeros((2, 3, 5)),
                "weight": np.ones(3),
                **{name: np.ones(3) for name in vectors},
            },
            (False, False),
            ("dx", "dresidual", "dw", "db"),
        ),
        "norm_rows": (
            {
                "x": rows["x"],
                "y": rows["y"],
                "weight": np.ones(3),
                "bias": np.ones(3),
                "mean": np.ones(6),
                "inv_std": np.ones(6),
            },
            (3, 1e-5, False),
            ("y", "mean", "inv_std"),
        ),
        "norm_rows_backward": (
            {
                **{name: rows[name] for name in ("dy", "x", "dx")},
                "weight": np.ones(3),
                "mean": np.ones(6),
                "inv_std": np.ones(6),
                "dw": np.ones(3),
                "db": np.ones(3),
            },
            (3, False),
            ("dx", "dw", "db"),
        ),
        "softmax_cross_entropy": (
            {"scores": np.zeros((2, 3)), "labels": np.zeros(2, np.int64), "dscores": np.zeros((2, 3))},
            (0.0,),
            ("dscores",),
        ),
        "linear_forward": (
            {"x": np.zeros((2, 3)), "w": np.zeros((4, 3)), "b": np.zeros(4), "y": np.zeros((2, 4))},
            (2, 3, 4),
            ("y",),
        ),
        "linear_backward": (
            {
                "dy": np.zeros((2, 4)),
                "x": np.zeros((2, 3)),
                "w": np.zeros((4, 3)),
                "dx": np.zeros((2, 3)),
                "dw": np.zeros((4, 3)),
                "db": np.zeros(4),
            },
            (2, 3, 4),
            ("dx", "dw", "db"),
        ),
        "dropout": (
            {"x": np.zeros((2, 3)), "y": np.zeros((2, 3)), "mask": np.zeros((2, 3))},
            (1, 2, 3, 0, 5, 2.0),
            ("y", "mask"),
        ),
    }


EVERY = [(kernel, name) for kernel, (arrays, _, _) in calls().items() for name in arrays]
WRITTEN = [(kernel, name) for kernel, (_, _, written) in calls().items() for name in written]
NEEDS_VECTORS = ("direct", "depthwise", "winograd", "blocked", "linear")


def call(kernel, change=()):
    if kernel.startswith(NEEDS_VECTORS) and not _kernels.instruction_sets():
        pytest.skip("the kernels were built by a compiler without vectors")
    arrays, numbers, _ = calls()[kernel]
    arrays |= dict(change)
    return getattr(_kernels, kernel)(*arrays.values(), *numbers)


def refused(kernel, name, array, message, error=ValueError):
    with pytest.raises(error, match=message):
        call(kernel, {name: array})


@pytest.mark.parametrize("kernel", calls())
def test_the_call_that_the_others_are_made_of_is_good(kernel):
    call(kernel)


@pytest.mark.parametrize(("kernel", "name"), EVERY)
def test_other_types_are_refused(kernel, name):
    like = calls()[kernel][0][name]
    other = {"labels": "int64", "argmax": "uint8 or int32"}.get(name, "float32 or float64")
    foreign = [like.dtype.newbyteorder()] if like.itemsize > 1 else []
    for dtype in (np.float16, np.int16, "f,f", bool, *foreign):
        refused(kernel, name, np.zeros(like.shape, dtype), rf"{name}: expected (contiguous )?{other}, got format")
    if like.dtype == np.float64:
        refused(kernel, name, like.astype(np.float32), "arrays of two types")
    else:
        refused(kernel, name, like.astype(np.float64), f"{name}: expected .*got format 'd'")


@pytest.mark.parametrize(("kernel", "name"), EVERY)
def test_what_is_no_array_is_refused(kernel, name):
    refused(kernel, name, calls()[kernel][0][name].tolist(), f"{name}: expected an array, got list", TypeError)
    refused(kernel, name, "four", f"{name}: expected an array, got str", TypeError)


@pytest.mark.parametrize(("kernel", "name"), EVERY)
def test_memory_that_is_gone_is_refused(kernel, name):
    view = memoryview(calls()[kernel][0][name])
    view.release()
    refused(kernel, name, view, "released memoryview")


@pytest.mark.parametrize(("kernel", "name"), WRITTEN)
def test_results_are_not_read_only(kernel, name):
    array = calls()[kernel][0][name].copy()
    array.flags.writeable = False
    refused(kernel, name, array, f"{name}: array is read-only")


@pytest.mark.parametrize(("kernel", "name"), EVERY)
def test_other_shapes_are_refused(kernel, name):
    """One axis more, where axes count, or some entries more; every other entry of a run; memory that is not aligned."""
    like = calls()[kernel][0][name]
    if like.ndim > 1 and not kernel.startswith(("linear", "softmax", "dropout")):
        refused(kernel, name, like[None], f"{name}: expected {like.ndim} axes, got {like.ndim + 1}")
    else:
        refused(kernel, name, np.zeros(like.size + 3, like.dtype), "elements, expected|do not belong")
        refused(kernel, name, np.zeros(2 * like.size, like.dtype)[::2], "contiguous")
    if like.itemsize > 1:
        raw = np.zeros(like.nbytes + 1, np.uint8)[1:].view(like.dtype).reshape(like.shape)
        refused(kernel, name, raw, f"{name}: array is not aligned")


@pytest.mark.parametrize("kernel", calls())
def test_arrays_are_released(kernel):
    """After a good call and after one that is refused; an array that a kernel holds cannot be resized."""
    arrays = calls()[kernel][0]
    call(kernel, arrays)
    with pytest.raises(ValueError, match=r"axes|expected .* got format"):
        call(kernel, {**arrays, list(arrays)[-1]: np.zeros(7, np.complex64)})
    gc.collect()
    for array in arrays.values():
        array.resize((array.size + 1,), refcheck=False)


@pytest.mark.parametrize("pad", [2**63 - 1, 2**62, -(2**62), -(2**63)])
@pytest.mark.parametrize(
    "kernel", ["im2col", "col2im", "max_pool", "max_pool_backward", "avg_pool", "avg_pool_backward"]
)
def test_padding_beyond_the_address_space_is_refused(kernel, pad):
    """-2**63 is the number that has no negative."""
    arrays, numbers, _ = calls()[kernel]
    at = 2 if "2" in kernel else 4  # after the strides, and the sizes of a pooling window
    with pytest.raises(ValueError, match="sizes exceed the address space"):
        getattr(_kernels, kernel)(*arrays.values(), *numbers[:at], pad, *numbers[at + 1 :])


@pytest.mark.parametrize(
    "kernel", ["direct", "direct_backward", "depthwise", "depthwise_input_gradient", "depthwise_gradients"]
)
def test_padding_that_no_window_crosses_is_refused(kernel):
    """All windows would lie in the padding, however far from the image; they did not all look before they read."""
    arrays, numbers, _ = calls()[kernel]
    if not _kernels.instruction_sets():
        pytest.skip("the kernels were built by a compiler without vectors")
    for at in (4, 5):
        with pytest.raises(ValueError, match="padding is wider than all windows together"):
            getattr(_kernels, kernel)(*arrays.values(), *numbers[:at], 2**40, *numbers[at + 1 :])


@pytest.mark.parametrize("itemsize", [0, -4, 2, 16])
def test_sizes_of_other_numbers_are_refused(itemsize):
    """A size of 0 would be divided by."""
    window = (1, 1, 5, 5, 3, 3, 3, 3, *STEPS)
    with pytest.raises(ValueError, match=f"itemsize: expected 4 or 8 bytes, got {itemsize}"):
        _kernels.direct_bytes(*window, False, itemsize, 1 << 20)
    with pytest.raises(ValueError, match=f"itemsize: expected 4 or 8 bytes, got {itemsize}"):
        _kernels.depthwise_bytes(*window, itemsize, 1 << 20)


def test_single_entries_may_be_any_number_of_bytes_apart():
    """NumPy calls such arrays contiguous, whatever their strides say."""
    x = np.lib.stride_tricks.as_strided(np.arange(4.0), (1, 1, 1, 4), (3, 5, 7, 8))
    y = np.zeros((1, 1, 1, 4))
    _kernels.avg_pool(x, y, 1, 1, *STEPS, 0, 0, 0, 0)
    assert np.array_equal(y[0, 0, 0], np.arange(4.0))


def test_other_buffers_than_numpys_are_taken():
    """The standard library's names of types are the same letters."""
    scores, dscores = memoryview(np.zeros((2, 3))), memoryview(bytearray(48)).cast("d", (2, 3))
    loss = _kernels.softmax_cross_entropy(scores, memoryview(bytearray(16)).cast("q"), dscores, 0.0)
    assert loss == pytest.approx(np.log(3))
    assert np.asarray(dscores)[0] == pytest.approx([(1 / 3 - 1) / 2, 1 / 6, 1 / 6])
