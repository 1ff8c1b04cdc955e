"""Shape arithmetic against the published rules of PyTorch and TensorFlow, as tables worked out by hand."""

import numpy as np
import pytest

from xpconv._geometry import Window, check_layout, conv_geometry, conv_window, pool_window, to_pair

# (input, kernel, stride, padding, dilation) -> output; PyTorch: floor((n + 2p - d (k - 1) - 1) / s + 1)
PYTORCH = {
    (224, 7, 2, 3, 1): 112,  # the first convolution of a ResNet
    (112, 3, 2, 1, 1): 56,  # and its pooling
    (224, 11, 4, 2, 1): 55,  # AlexNet
    (28, 5, 1, 0, 1): 24,  # LeNet
    (32, 3, 1, 1, 1): 32,
    (32, 3, 1, 2, 2): 32,
    (7, 3, 2, 0, 1): 3,
    (8, 3, 2, 0, 1): 3,  # one pixel left over
    (10, 2, 7, 0, 1): 2,  # stride > kernel
    (1, 1, 1, 0, 1): 1,
    (1, 1, 5, 0, 1): 1,
    (1, 3, 1, 1, 1): 1,
    (5, 2, 1, 4, 1): 12,  # more padding than kernel
    (9, 3, 3, 0, 4): 1,
    (65536, 3, 65536, 1, 1): 1,
}

# (input, kernel, stride, dilation) -> (output, padding before, padding behind); TensorFlow's SAME
TENSORFLOW_SAME = {
    (13, 6, 5, 1): (3, 1, 2),  # the example of TensorFlow's documentation
    (5, 3, 1, 1): (5, 1, 1),
    (5, 3, 2, 1): (3, 1, 1),
    (6, 3, 2, 1): (3, 0, 1),
    (224, 7, 2, 1): (112, 2, 3),
    (5, 2, 1, 1): (5, 0, 1),
    (4, 2, 2, 1): (2, 0, 0),
    (5, 1, 2, 1): (3, 0, 0),
    (10, 2, 7, 1): (2, 0, 0),  # nothing is needed, and some pixels are not seen
    (28, 5, 1, 1): (28, 2, 2),
    (7, 3, 1, 2): (7, 2, 2),
    (8, 3, 2, 2): (4, 1, 2),
    (1, 5, 1, 1): (1, 2, 2),
    (2, 4, 3, 1): (1, 1, 1),
}

# pooling with ceil_mode: (input, kernel, stride, padding, dilation) -> output
PYTORCH_CEIL = {
    (111, 3, 2, 0, 1): 55,  # SqueezeNet
    (112, 3, 2, 0, 1): 56,  # GoogLeNet: floor would give 55
    (5, 2, 2, 0, 1): 3,
    (6, 3, 2, 0, 1): 3,
    (7, 3, 2, 0, 1): 3,  # it fits exactly
    (3, 2, 3, 0, 1): 1,  # a second window would begin behind the image
    (4, 2, 3, 1, 1): 2,
    (5, 2, 3, 1, 1): 2,  # as would the third here
    (2, 3, 2, 0, 1): 1,  # the only window overshoots
    (7, 2, 2, 0, 3): 3,
}


@pytest.mark.parametrize(("arguments", "out"), PYTORCH.items(), ids=str)
def test_output_size_is_pytorchs(arguments, out):
    size, kernel, stride, padding, dilation = arguments
    # the other axis has one output, so that the axes cannot be mixed up unseen
    window = conv_window((size, 2), (kernel, 2), (stride, 1), (padding, 0), (dilation, 1))
    assert (window.out_h, window.out_w) == (out, 1)
    window = conv_window((2, size), (2, kernel), (1, stride), (0, padding), (1, dilation))
    assert (window.out_h, window.out_w) == (1, out)


@pytest.mark.parametrize(("arguments", "expected"), TENSORFLOW_SAME.items(), ids=str)
def test_same_is_tensorflows(arguments, expected):
    size, kernel, stride, dilation = arguments
    out, before, behind = expected
    window = conv_window((size, 1), (kernel, 1), (stride, 1), "same", (dilation, 1))
    assert (window.out_h, window.pad_top, window.pad_bottom) == (out, before, behind)
    assert (window.out_w, window.pad_left, window.pad_right) == (1, 0, 0)
    window = conv_window((1, size), (1, kernel), (1, stride), "SAME", (1, dilation))
    assert (window.out_w, window.pad_left, window.pad_right) == (out, before, behind)


@pytest.mark.parametrize(("arguments", "out"), PYTORCH_CEIL.items(), ids=str)
def test_ceil_mode_is_pytorchs(arguments, out):
    size, kernel, stride, padding, dilation = arguments
    window = pool_window((size, 1), (kernel, 1), (stride, 1), (padding, 0), (dilation, 1), True)
    assert (window.out_h, window.out_w) == (out, 1)


def test_the_tables_are_what_pytorch_does():
    torch = pytest.importorskip("torch")
    for (size, kernel, stride, padding, dilation), out in PYTORCH.items():
        y = torch.nn.functional.conv1d(
            torch.zeros(1, 1, size), torch.zeros(1, 1, kernel), None, stride, padding, dilation
        )
        assert y.shape[2] == out
    for (size, kernel, stride, padding, dilation), out in PYTORCH_CEIL.items():
        y = torch.nn.functional.max_pool1d(torch.zeros(1, size), kernel, stride, padding, dilation, ceil_mode=True)
        assert y.shape[1] == out


def test_valid_pads_nothing():
    window = conv_window((5, 7), (3, 2), 2, "valid", 1)
    assert window == Window(5, 7, 3, 2, 2, 2, 0, 0, 0, 0, 1, 1, 2, 3)


@pytest.mark.parametrize(
    "padding",
    [2, (2, 2), [2, 2], ((2, 2), (2, 2)), [[2, 2], [2, 2]], np.int64(2), np.array([2, 2]), np.full((2, 2), 2)],
)
def test_forms_of_the_same_padding(padding):
    assert conv_window((5, 7), 3, 1, padding, 1) == Window(5, 7, 3, 3, 1, 1, 2, 2, 2, 2, 1, 1, 7, 9)


def test_padding_of_every_side():
    window = conv_window((5, 7), 1, 1, ((1, 2), (3, 4)), 1)
    assert (window.pad_top, window.pad_bottom, window.pad_left, window.pad_right) == (1, 2, 3, 4)
    assert (window.out_h, window.out_w) == (8, 14)


def test_pool_stride_is_the_kernel_if_not_given():
    assert pool_window((8, 9), (2, 3), None, 0, 1, False)[4:6] == (2, 3)


@pytest.mark.parametrize("number", [3, np.int64(3), np.int8(3), np.array(3)])
def test_integers_of_any_kind(number):
    assert to_pair("stride", number) == (3, 3)
    assert to_pair("stride", [number, 4]) == (3, 4)
    assert all(type(n) is int for n in to_pair("stride", number))


def test_a_window_reads_what_the_definition_says():
    window = conv_window((9, 11), (3, 2), (2, 3), ((1, 2), (0, 1)), (2, 3))
    for i in range(3):
        rows = range(1 + 9 + 2)[window.rows(i)]
        assert list(rows) == [p * 2 + i * 2 for p in range(window.out_h)]
    for j in range(2):
        columns = range(11 + 1)[window.columns(j)]
        assert list(columns) == [q * 3 + j * 3 for q in range(window.out_w)]
    assert (window.taps, window.positions) == (6, window.out_h * window.out_w)
    assert window.reach == (12, 12)
    assert pool_window((5, 4), 2, 2, 0, 1, True).reach == (6, 4)  # one row beyond the image


# ---- what is wrong is said -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"kernel_size": 0}, ValueError, "kernel_size: must be at least 1, got 0"),
        ({"kernel_size": (3, -1)}, ValueError, "kernel_size: must be at least 1, got -1"),
        (
            {"kernel_size": (1, 2, 3)},
            ValueError,
            r"kernel_size: expected an integer or a pair of integers, got \(1, 2, 3\)",
        ),
        ({"kernel_size": "3"}, TypeError, "kernel_size: expected an integer or a pair of integers, got '3'"),
        ({"kernel_size": np.array([1.5, 2])}, TypeError, "kernel_size: expected an integer or a pair .* got 1.5"),
        ({"kernel_size": None}, TypeError, "kernel_size: expected an integer or a pair of integers, got None"),
        ({"stride": 0}, ValueError, "stride: must be at least 1, got 0"),
        ({"stride": (2, -2)}, ValueError, "stride: must be at least 1, got -2"),
        ({"stride": 1.0}, TypeError, "stride: expected an integer or a pair of integers, got 1.0"),
        ({"stride": True}, TypeError, "stride: expected an integer or a pair of integers, got True"),
        ({"stride": np.True_}, TypeError, "stride: expected an integer or a pair of integers, got np.True_"),
        ({"stride": (1, (1,))}, TypeError, "stride: expected an integer or a pair of integers, got"),
        ({"dilation": 0}, ValueError, "dilation: must be at least 1, got 0"),
        ({"dilation": []}, ValueError, r"dilation: expected an integer or a pair of integers, got \[\]"),
        ({"padding": -1}, ValueError, "padding: must be at least 0, got -1"),
        ({"padding": ((0, 0), (0, -1))}, ValueError, "padding: must be at least 0, got -1"),
        ({"padding": "full"}, ValueError, "padding: expected 'valid', 'same', an integer, .* got 'full'"),
        ({"padding": 0.5}, TypeError, "padding: expected 'valid', 'same', an integer, .* got 0.5"),
        ({"padding": None}, TypeError, "padding: expected 'valid', 'same', an integer, .* got None"),
        ({"padding": (1, 2, 3, 4)}, ValueError, r"padding: expected .* got \(1, 2, 3, 4\)"),
        ({"padding": ((1, 2, 3), (1, 2))}, ValueError, r"padding: expected .* got \(\(1, 2, 3\), \(1, 2\)\)"),
        ({"padding": ((1, 1), 2)}, ValueError, r"padding: expected .* got \(\(1, 1\), 2\)"),
        ({"padding": ()}, ValueError, r"padding: expected .* got \(\)"),
        (
            {"kernel_size": 9},
            ValueError,
            r"kernel_size: kernel height 9 is larger than the padded input's, 6 \+ padding 0",
        ),
        ({"kernel_size": (2, 9), "padding": ((0, 0), (0, 1))}, ValueError, r"kernel width 9 .* 7 \+ padding 0 \+ 1"),
        (
            {"kernel_size": 3, "dilation": 4},
            ValueError,
            r"kernel height 3 \(spread to 9 by dilation 4\) is larger than the padded input's, 6 \+ padding 0 \+ 0",
        ),
        (
            {"image_size": (0, 7), "padding": 5},
            ValueError,
            "x: images need at least one pixel, got height 0 and width 7",
        ),
    ],
)
@pytest.mark.parametrize("kind", ["convolution", "pooling"])
def test_wrong_windows(kind, change, error, message):
    arguments = {"image_size": (6, 7), "kernel_size": 2, "stride": 1, "padding": 0, "dilation": 1, **change}
    with pytest.raises(error, match=message):
        conv_window(**arguments) if kind == "convolution" else pool_window(**arguments, ceil_mode=False)


def test_the_cache_does_not_take_true_or_a_float_for_one():
    assert conv_window((6, 7), 1, 1, 1, 1).out_h == 8
    for wrong in (True, 1.0):
        for name in ("kernel_size", "stride", "padding", "dilation"):
            arguments = {"kernel_size": 1, "stride": 1, "padding": 1, "dilation": 1, name: wrong}
            with pytest.raises(TypeError, match=f"{name}: expected"):
                conv_window((6, 7), **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ((4, 4), 2, 2, 2, 1, False),
            r"padding: window 0 along the height would see nothing but padding \(size 4, kernel 2",
        ),
        (((4, 4), 2, 2, ((0, 0), (0, 2)), 1, False), "padding: window 2 along the width would see nothing but padding"),
        (((1, 1), 2, 1, 1, 2, False), "padding: window 0 along the height would see nothing but padding"),  # astride
        (((9, 9), 1, 1, (0, 1), 1, False), "padding: window 0 along the width would see nothing but padding"),
        (
            ((9, 9), 1, 4, ((0, 4), (0, 0)), 1, False),
            "padding: window 3 along the height would see nothing but padding",
        ),
        # said at the first window, not after listing all
        (((4, 1), (2, 1), 1, ((10**12, 0), (0, 0)), 1, False), "padding: window 0 along the height"),
        (
            ((4, 1), (10**9, 1), 1, ((10**9 - 1, 10**9), (0, 0)), 1, False),
            "padding: window 1000000003 along the height",
        ),
    ],
)
def test_pooling_refuses_windows_in_the_padding(arguments, message):
    with pytest.raises(ValueError, match=message):
        pool_window(*arguments)


def test_pooling_takes_every_other_padding():
    for size in (1, 2, 5):
        for kernel in (1, 2, 3):
            for stride in (1, 2, 4):
                for pads in [(0, 0), (1, 0), (0, 2), (3, 1)]:
                    for dilation in (1, 2):
                        if size + sum(pads) <= (kernel - 1) * dilation:
                            continue
                        starts = range(-pads[0], size + pads[1] - (kernel - 1) * dilation, stride)
                        seen = [any(0 <= s + k * dilation < size for k in range(kernel)) for s in starts]
                        arguments = ((size, 1), (kernel, 1), (stride, 1), (pads, (0, 0)), (dilation, 1), False)
                        if all(seen):
                            assert pool_window(*arguments).out_h == len(seen)
                        else:
                            with pytest.raises(ValueError, match=f"window {seen.index(False)} along the height"):
                                pool_window(*arguments)


def test_pooling_with_ceil_mode_refuses_a_kernel_that_is_larger_by_a_stride():
    assert pool_window((4, 4), 5, 2, 0, 1, True).out_h == 1
    with pytest.raises(ValueError, match="kernel height 6 is larger than the padded input's"):
        pool_window((4, 4), 6, 2, 0, 1, True)


@pytest.mark.parametrize(
    ("x_shape", "w_shape", "groups", "error", "message"),
    [
        ((1, 3, 5, 5), (4, 3, 2, 2), 0, ValueError, "groups: must be at least 1, got 0"),
        ((1, 3, 5, 5), (4, 3, 2, 2), 1.0, TypeError, "groups: expected an integer, got 1.0"),
        (
            (1, 3, 5, 5),
            (4, 1, 2, 2),
            2,
            ValueError,
            "groups: 2 must divide the input channels and the filters, got 3 and 4",
        ),
        (
            (1, 4, 5, 5),
            (3, 2, 2, 2),
            2,
            ValueError,
            "groups: 2 must divide the input channels and the filters, got 4 and 3",
        ),
        (
            (1, 3, 5, 5),
            (4, 2, 2, 2),
            1,
            ValueError,
            r"w: has 2 channels a filter and groups is 1, which takes 2 input channels, but x has 3 \(x \(1, 3, 5, 5\)",
        ),
        ((1, 4, 5, 5), (4, 4, 2, 2), 2, ValueError, "groups is 2, which takes 8 input channels, but x has 4"),
        ((1, 3, 5, 5), (0, 3, 2, 2), 1, ValueError, "w: needs at least one filter, one channel and one tap"),
        ((1, 0, 5, 5), (4, 0, 2, 2), 1, ValueError, "w: needs at least one filter, one channel and one tap"),
        ((1, 3, 5, 5), (4, 3, 0, 2), 1, ValueError, r"w: needs at least .* got shape \(4, 3, 0, 2\)"),
        (
            (1, 3, 5, 5),
            (4, 3, 6, 2),
            1,
            ValueError,
            r"w: kernel height 6 is larger than the padded input's, 5 \+ padding 0",
        ),
    ],
)
def test_wrong_convolutions(x_shape, w_shape, groups, error, message):
    with pytest.raises(error, match=message):
        conv_geometry(x_shape, w_shape, stride=1, padding=0, dilation=1, groups=groups)


def test_empty_batches_are_possible():
    geometry = conv_geometry((0, 2, 5, 6), (4, 1, 2, 3), stride=1, padding=0, dilation=1, groups=2)
    assert (geometry.batch, geometry.in_channels, geometry.out_channels, geometry.groups) == (0, 2, 4, 2)
    assert geometry.window.out_h == 4


def test_layouts_are_checked():
    assert check_layout("layout", "NHWC", ("NCHW", "NHWC")) == "NHWC"
    with pytest.raises(ValueError, match="layout: expected one of NCHW, NHWC, got 'nhwc'"):
        check_layout("layout", "nhwc", ("NCHW", "NHWC"))
    with pytest.raises(ValueError, match=r"layout: expected one of NCHW, NHWC, got \['NHWC'\]"):
        check_layout("layout", ["NHWC"], ("NCHW", "NHWC"))
