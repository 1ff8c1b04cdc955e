"""Every operator against PyTorch, forward and all gradients, for any combination of arguments that Hypothesis draws.

`OPERATORS` has an entry for each public operator, which must draw every argument of its signature; `WITHOUT` says why
one has none. Reference values are PyTorch's in float64, of the same inputs rounded to the dtype, so that the errors are
those of xpconv alone. Sizes, strides, kernels and layouts are drawn as users write them: as int, pair, list, word.
"""

import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from xpconv import functional as F
from xpconv._geometry import pool_window
from xpconv.backends import use_kernels
from xpconv.testing import LAYOUTS

torch = pytest.importorskip("torch", reason="PyTorch is the oracle here")
TF = torch.nn.functional

TOLERANCE = {"float32": 1e-5, "float64": 1e-10}  # of the largest value
MEMORY = ("contiguous", "fortran", "transposed", "channels-last", "sliced", "negative")
WITHOUT = {"dropout": "its masks are Philox's, PyTorch draws its own; test_dropout compares with those of Random123"}
LOSSES = ("mse", "multiclass_hinge", "softmax_cross_entropy")


class Call(NamedTuple):
    """One call of an operator.

    Attributes
    ----------
    arrays
        Array arguments by name, in float64 or integers; None where an optional one is left out.
    arguments
        All other arguments.
    theirs
        The same by PyTorch: ``theirs(**tensors)`` gives the result, or the result and what `extras` gives.
    extras
        Other results, from our cache.
    backward
        Keyword arguments of the backward function.
    """

    arrays: dict[str, np.ndarray | None]
    arguments: dict[str, Any]
    theirs: Callable[..., Any]
    extras: Callable[[Any], tuple] = lambda cache: ()
    backward: Mapping[str, Any] = MappingProxyType({})


OPERATORS: dict[str, tuple[tuple[str, ...], Any]] = {}


def entry(*gradients):
    """Register the strategy of calls of an operator, and the order in which its backward function gives gradients."""

    def register(function):
        OPERATORS[function.__name__] = gradients, st.composite(function)()
        return function

    return register


# ---- arguments as users write them ----------------------------------------------------------------------------------


def pair(draw, low, high):
    return draw(st.tuples(st.integers(low, high), st.integers(low, high)))


def written(draw, values):
    """A pair as a tuple, as a list, or as an integer if both are equal."""
    return draw(st.sampled_from([values, list(values), *([values[0]] if values[0] == values[1] else [])]))


def generator(draw):
    return np.random.default_rng(draw(st.integers(0, 2**32 - 1)))


def same(size, extent, stride):
    """TensorFlow's SAME along one axis."""
    total = max((-(-size // stride) - 1) * stride + extent - size, 0)
    return total // 2, total - total // 2


class Window(NamedTuple):
    size: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    pads: tuple[tuple[int, int], tuple[int, int]]
    dilation: tuple[int, int]
    padding: Any  # as it is written


def window(draw, most_padding=3, most_dilation=3):
    """A sliding window that fits into its image."""
    kernel, stride, dilation = pair(draw, 1, 4), pair(draw, 1, 4), pair(draw, 1, most_dilation)
    extent = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True))
    form = draw(st.sampled_from(["symmetric", "sides", "valid", "same", "SAME"]))
    if form == "symmetric":
        padding = pair(draw, 0, most_padding)
        pads = tuple((p, p) for p in padding)
        padding = written(draw, padding)
    else:
        pads = (pair(draw, 0, most_padding), pair(draw, 0, most_padding)) if form == "sides" else ((0, 0), (0, 0))
        padding = pads if form == "sides" else form
    least = (1, 1) if form in ("same", "SAME") else tuple(e - sum(p) for e, p in zip(extent, pads, strict=True))
    size = tuple(max(1, n) + draw(st.integers(0, 6)) for n in least)
    if form in ("same", "SAME"):
        pads = tuple(same(*axis) for axis in zip(size, extent, stride, strict=True))
    return Window(size, kernel, stride, pads, dilation, padding)


def padded(x, pads, value=0.0):
    (top, bottom), (left, right) = pads
    return TF.pad(x, (left, right, top, bottom), value=value)


def placed(draw, images):
    """Images (N, C, H, W) in a layout, its name, and the permutations of tensors to NCHW and back."""
    if draw(st.booleans()):
        return images, "NCHW", lambda t: t, lambda t: t
    last = images.transpose(0, 2, 3, 1)
    return last, "NHWC", lambda t: t.permute(0, 3, 1, 2), lambda t: t.permute(0, 2, 3, 1)


def optional(draw, array):
    return array if draw(st.booleans()) else None


def distinct(rng, shape):
    """Values that differ by more than rounding: the largest is never in doubt."""
    return rng.permutation(int(np.prod(shape))).reshape(shape) / 8 - 3


def common(drawn):
    """Stride and dilation, as PyTorch takes them."""
    return {"stride": drawn.stride, "dilation": drawn.dilation}


# ---- convolutions ---------------------------------------------------------------------------------------------------


@entry("x", "w", "b")
def conv2d(draw):
    drawn, rng = window(draw), generator(draw)
    n, groups, channels, filters = (draw(st.integers(low, 3)) for low in (0, 1, 1, 1))
    x, layout, to_nchw, from_nchw = placed(draw, rng.normal(size=(n, channels * groups, *drawn.size)))
    w = rng.normal(size=(filters * groups, channels, *drawn.kernel))
    weight_layout = draw(st.sampled_from(["OIHW", "HWIO"]))
    swapped = weight_layout == "HWIO"

    def theirs(x, w, b):
        w = w.permute(3, 2, 0, 1) if swapped else w
        return from_nchw(TF.conv2d(padded(to_nchw(x), drawn.pads), w, b, groups=groups, **common(drawn)))

    return Call(
        {
            "x": x,
            "w": w.transpose(2, 3, 1, 0) if swapped else w,
            "b": optional(draw, rng.normal(size=filters * groups)),
        },
        {
            "stride": written(draw, drawn.stride),
            "padding": drawn.padding,
            "dilation": written(draw, drawn.dilation),
            "groups": groups,
            "layout": layout,
            "weight_layout": weight_layout,
        },
        theirs,
        backward={"need_dx": draw(st.booleans())},
    )


@entry("x", "w", "b")
def conv1d(draw):
    drawn, rng = window(draw), generator(draw)
    groups, channels, filters = (draw(st.integers(1, 3)) for _ in range(3))
    # of the two axes that were drawn, the second
    padding, sides = drawn.padding, drawn.pads[1]
    if not isinstance(padding, (str, int)):
        padding = draw(st.sampled_from([sides, list(sides)]))

    def theirs(x, w, b):
        x = TF.pad(x, sides)
        return TF.conv1d(x, w, b, stride=drawn.stride[1], dilation=drawn.dilation[1], groups=groups)

    return Call(
        {
            "x": rng.normal(size=(draw(st.integers(0, 3)), channels * groups, drawn.size[1])),
            "w": rng.normal(size=(filters * groups, channels, drawn.kernel[1])),
            "b": optional(draw, rng.normal(size=filters * groups)),
        },
        {"stride": drawn.stride[1], "padding": padding, "dilation": drawn.dilation[1], "groups": groups},
        theirs,
        backward={"need_dx": draw(st.booleans())},
    )


@entry("x", "w", "b")
def conv_transpose2d(draw):
    drawn, rng = window(draw), generator(draw)
    n, groups, channels, filters = (draw(st.integers(low, 3)) for low in (0, 1, 1, 1))
    size, more, crop, extra = pair(draw, 1, 5), (), [], []
    for axis, (n_in, kernel, stride, dilation) in enumerate(zip(size, *drawn[1:3], drawn.dilation, strict=True)):
        extent = (kernel - 1) * dilation + 1
        if drawn.padding in ("same", "SAME"):
            more += (0,)
            extra.append(max(stride - extent, 0))
            crop.append(same(n_in * stride, extent, stride))
        else:
            more += (draw(st.integers(0, max(stride, dilation) - 1)),)
            extra.append(more[-1])
            crop.append(drawn.pads[axis])
        assume((n_in - 1) * stride + extent + extra[-1] > sum(crop[-1]))
    x, layout, to_nchw, from_nchw = placed(draw, rng.normal(size=(n, channels * groups, *size)))

    def theirs(x, w, b):
        y = TF.conv_transpose2d(to_nchw(x), w, b, output_padding=tuple(extra), groups=groups, **common(drawn))
        (top, bottom), (left, right) = crop
        return from_nchw(y[:, :, top : y.shape[2] - bottom, left : y.shape[3] - right])

    return Call(
        {
            "x": x,
            "w": rng.normal(size=(channels * groups, filters, *drawn.kernel)),
            "b": optional(draw, rng.normal(size=filters * groups)),
        },
        {
            "stride": written(draw, drawn.stride),
            "padding": drawn.padding,
            "output_padding": written(draw, more),
            "dilation": written(draw, drawn.dilation),
            "groups": groups,
            "layout": layout,
        },
        theirs,
        backward={"need_dx": draw(st.booleans())},
    )


@entry()
def im2col(draw):
    drawn, rng = window(draw), generator(draw)

    def theirs(x):
        return TF.unfold(padded(x, drawn.pads), drawn.kernel, **common(drawn))

    return Call(
        {"x": rng.normal(size=(draw(st.integers(1, 3)), draw(st.integers(1, 3)), *drawn.size))},
        {
            "kernel_size": written(draw, drawn.kernel),
            "stride": written(draw, drawn.stride),
            "padding": drawn.padding,
            "dilation": written(draw, drawn.dilation),
        },
        theirs,
    )


@entry()
def col2im(draw):
    drawn, rng = window(draw), generator(draw)
    (top, bottom), (left, right) = drawn.pads
    frame = (top + drawn.size[0] + bottom, left + drawn.size[1] + right)
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 3)), *frame)
    columns = TF.unfold(torch.zeros(shape), drawn.kernel, **common(drawn)).shape

    def theirs(cols):
        images = TF.fold(cols, frame, drawn.kernel, **common(drawn))
        return images[:, :, top : top + drawn.size[0], left : left + drawn.size[1]]

    return Call(
        {"cols": rng.normal(size=columns)},
        {
            "image_size": draw(st.sampled_from([drawn.size, list(drawn.size)])),
            "kernel_size": written(draw, drawn.kernel),
            "stride": written(draw, drawn.stride),
            "padding": drawn.padding,
            "dilation": written(draw, drawn.dilation),
        },
        theirs,
    )


# ---- pooling --------------------------------------------------------------------------------------------------------


def pooling(draw, most_dilation):
    """A window for pooling, whether it is in ceil_mode, the stride as written, and the arguments that share names.

    PyTorch knows ceil_mode only with its own padding, the same on both sides and of half a kernel at most.
    """
    drawn = window(draw, most_padding=2, most_dilation=most_dilation)
    ceil_mode = draw(st.booleans())
    stride = written(draw, drawn.stride)
    if ceil_mode:
        halves = tuple(min(sides[0], k // 2) for sides, k in zip(drawn.pads, drawn.kernel, strict=True))
        drawn = drawn._replace(pads=tuple((p, p) for p in halves), padding=written(draw, halves))
        grown = [max(n, (k - 1) * d + 1) for n, k, d in zip(drawn.size, drawn.kernel, drawn.dilation, strict=True)]
        drawn = drawn._replace(size=tuple(grown))
    if draw(st.integers(0, 4)) == 0:  # the default
        drawn, stride = drawn._replace(stride=drawn.kernel), None
        if drawn.padding in ("same", "SAME"):
            extents = [(k - 1) * d + 1 for k, d in zip(drawn.kernel, drawn.dilation, strict=True)]
            drawn = drawn._replace(pads=tuple(same(*a) for a in zip(drawn.size, extents, drawn.stride, strict=True)))
    try:
        pool_window(drawn.size, drawn.kernel, drawn.stride, drawn.pads, drawn.dilation, ceil_mode)
    except ValueError:  # a window that sees nothing but padding
        assume(False)
    arguments = {
        "kernel_size": written(draw, drawn.kernel),
        "stride": stride,
        "padding": drawn.padding,
        "ceil_mode": ceil_mode,
    }
    return drawn, ceil_mode, arguments


@entry("x")
def max_pool2d(draw):
    drawn, ceil_mode, arguments = pooling(draw, 3)
    rng = generator(draw)
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 3)), *drawn.size)
    ties = draw(st.booleans())
    values = rng.integers(0, 4, size=shape).astype(float) if ties else distinct(rng, shape)
    x, layout, to_nchw, from_nchw = placed(draw, values)

    def theirs(x):
        if ceil_mode:
            pads = tuple(sides[0] for sides in drawn.pads)
            y = TF.max_pool2d(to_nchw(x), drawn.kernel, drawn.stride, pads, drawn.dilation, ceil_mode=True)
        else:
            x = padded(to_nchw(x), drawn.pads, -float("inf"))
            y = TF.max_pool2d(x, drawn.kernel, drawn.stride, 0, drawn.dilation)
        return from_nchw(y)

    return Call({"x": x}, {**arguments, "dilation": written(draw, drawn.dilation), "layout": layout}, theirs)


@entry("x")
def avg_pool2d(draw):
    drawn, ceil_mode, arguments = pooling(draw, 1)
    rng, include = generator(draw), draw(st.booleans())
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 3)), *drawn.size)
    x, layout, to_nchw, from_nchw = placed(draw, rng.normal(size=shape))

    def theirs(x):
        if ceil_mode:
            pads = tuple(sides[0] for sides in drawn.pads)
            return from_nchw(TF.avg_pool2d(to_nchw(x), drawn.kernel, drawn.stride, pads, True, include))
        y = TF.avg_pool2d(padded(to_nchw(x), drawn.pads), drawn.kernel, drawn.stride)
        if not include:
            y = y / TF.avg_pool2d(padded(torch.ones_like(to_nchw(x)), drawn.pads), drawn.kernel, drawn.stride)
        return from_nchw(y)

    return Call({"x": x}, {**arguments, "count_include_pad": include, "layout": layout}, theirs)


@entry("x")
def global_avg_pool2d(draw):
    rng, keepdims = generator(draw), draw(st.booleans())
    shape = (draw(st.integers(0, 3)), draw(st.integers(1, 3)), *pair(draw, 1, 40))
    x, layout, to_nchw, from_nchw = placed(draw, rng.normal(size=shape))

    def theirs(x):
        y = to_nchw(x).mean(dim=(2, 3), keepdim=True)
        return from_nchw(y) if keepdims else y[:, :, 0, 0]

    return Call({"x": x}, {"keepdims": keepdims, "layout": layout}, theirs)


@entry("x")
def adaptive_avg_pool2d(draw):
    rng, size = generator(draw), pair(draw, 1, 9)
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 3)), *pair(draw, 1, 12))
    x, layout, to_nchw, from_nchw = placed(draw, rng.normal(size=shape))
    return Call(
        {"x": x},
        {"output_size": written(draw, size), "layout": layout},
        lambda x: from_nchw(TF.adaptive_avg_pool2d(to_nchw(x), size)),
    )


# ---- normalisation: with few values the gradient cancels to rounding, so there are four or more ---------------------

EPS = st.sampled_from([1e-5, 1e-3, 0.1])


def batch(draw, residual):
    rng = generator(draw)
    c, training, eps, momentum = draw(st.integers(1, 4)), draw(st.booleans()), draw(EPS), draw(st.floats(0, 1))
    if draw(st.booleans()):
        x, layout = rng.normal(size=(draw(st.integers(4, 9)), c)), draw(st.sampled_from(["NCHW", "NHWC"]))
        to_nchw = from_nchw = lambda t: t
    else:
        x = rng.normal(size=(draw(st.integers(1, 4)), c, draw(st.integers(2, 5)), draw(st.integers(2, 6))))
        x, layout, to_nchw, from_nchw = placed(draw, x)
    arrays = {
        "x": x + draw(st.sampled_from([0, 5])),
        "weight": optional(draw, rng.normal(size=c)),
        "bias": optional(draw, rng.normal(size=c)),
    }
    statistics = not training or draw(st.booleans())
    arrays["running_mean"] = rng.normal(size=c) if statistics else None
    arrays["running_var"] = rng.uniform(0.5, 2, size=c) if statistics else None
    if residual:
        arrays["residual"] = optional(draw, rng.normal(size=x.shape))

    def theirs(x, weight, bias, running_mean, running_var, residual=None):
        statistics = [None if s is None else s.detach().clone() for s in (running_mean, running_var)]
        y = from_nchw(TF.batch_norm(to_nchw(x), *statistics, weight, bias, training, momentum, eps))
        y = y if residual is None else y + residual
        return (y, *statistics)

    return Call(
        arrays,
        {"training": training, "momentum": momentum, "eps": eps, "layout": layout},
        theirs,
        lambda cache: (cache.running_mean, cache.running_var),
    )


@entry("x", "weight", "bias")
def batch_norm(draw):
    return batch(draw, residual=False)


@entry("x", "weight", "bias", "residual")
def batch_norm_relu(draw):
    call = batch(draw, residual=True)

    def theirs(**tensors):
        y, *statistics = call.theirs(**tensors)
        return (TF.relu(y), *statistics)

    return call._replace(theirs=theirs)


@entry("x", "weight", "bias")
def layer_norm(draw):
    rng, eps = generator(draw), draw(EPS)
    axes = draw(st.sampled_from([(4,), (7,), (2, 3), (1, 5), (2, 2, 2)]))
    lead = draw(st.sampled_from([(), (1,), (3,), (2, 3), (0,)]))
    arrays = {"x": rng.normal(size=lead + axes)}
    arrays["weight"], arrays["bias"] = (optional(draw, rng.normal(size=axes)) for _ in range(2))
    given = draw(st.booleans()) or (arrays["weight"] is None and arrays["bias"] is None)
    return Call(
        arrays,
        {"normalized_shape": axes if given else None, "eps": eps},
        lambda x, weight, bias: TF.layer_norm(x, axes, weight, bias, eps),
    )


@entry("x", "weight", "bias")
def group_norm(draw):
    rng, eps, groups = generator(draw), draw(EPS), draw(st.integers(1, 3))
    channels = groups * draw(st.integers(1, 3))
    shape = (draw(st.integers(1, 3)), channels, *draw(st.sampled_from([(5,), (2, 3), (4, 1), (2, 2, 2)])))
    arrays = {"x": rng.normal(size=shape)}
    arrays["weight"], arrays["bias"] = (optional(draw, rng.normal(size=channels)) for _ in range(2))

    def theirs(x, weight, bias):
        if weight is None and bias is not None:  # which PyTorch cannot differentiate
            weight = torch.ones(channels, dtype=x.dtype)
        return TF.group_norm(x, groups, weight, bias, eps)

    return Call(arrays, {"num_groups": groups, "eps": eps}, theirs)


@entry("x", "weight", "bias")
def instance_norm(draw):
    rng, eps, channels = generator(draw), draw(EPS), draw(st.integers(1, 4))
    shape = (draw(st.integers(1, 3)), channels, *draw(st.sampled_from([(5,), (2, 3), (4, 1), (7, 6)])))
    arrays = {"x": rng.normal(size=shape)}
    arrays["weight"], arrays["bias"] = (optional(draw, rng.normal(size=channels)) for _ in range(2))
    return Call(arrays, {"eps": eps}, lambda x, weight, bias: TF.instance_norm(x, weight=weight, bias=bias, eps=eps))


# ---- the rest -------------------------------------------------------------------------------------------------------


@entry("x", "w", "b")
def linear(draw):
    rng = generator(draw)
    lead = draw(st.sampled_from([(1,), (3,), (2, 3), (0,), (2, 1, 2)]))
    features, out = pair(draw, 1, 6)
    return Call(
        {
            "x": rng.normal(size=(*lead, features)),
            "w": rng.normal(size=(out, features)),
            "b": optional(draw, rng.normal(size=out)),
        },
        {},
        lambda x, w, b: TF.linear(x, w, b),
        backward={"need_dx": draw(st.booleans())},
    )


def elementwise(name, theirs, **choices):
    """An activation of arrays of any rank, with zeros, and values where it saturates; ``choices`` of its arguments."""

    def calls(draw):
        rng, shape = generator(draw), draw(st.sampled_from([(), (7,), (3, 5), (2, 3, 2), (0, 3), (2, 2, 2, 3)]))
        x = np.array(rng.normal(size=shape) * draw(st.sampled_from([1, 4, 30])))
        x[rng.random(size=shape) < 0.1] = 0
        x[(0,) * x.ndim if x.size else ...] = 0.5  # not all saturated: the errors are compared with the largest value
        arguments = {key: draw(values) for key, values in choices.items()}
        return Call({"x": x}, arguments, lambda x: theirs(x, **arguments))

    calls.__name__ = name
    entry("x")(calls)


elementwise("relu", TF.relu)
elementwise("hardtanh", TF.hardtanh, min_val=st.sampled_from([-1, 0.0, -30.0]), max_val=st.sampled_from([1, 6.0, 30.0]))
elementwise("leaky_relu", TF.leaky_relu, negative_slope=st.sampled_from([0.01, 0.0, 0.3, 1.5]))
elementwise("gelu", TF.gelu)
elementwise("silu", TF.silu)
elementwise("sigmoid", torch.sigmoid)
elementwise("tanh", torch.tanh)


def labelled(draw):
    rng, (count, classes) = generator(draw), pair(draw, 1, 7)
    scores = rng.normal(size=(count, classes)) * draw(st.sampled_from([1, 10, 1000]))
    scores[0] = rng.uniform(-1, 1, size=classes)  # not all sure: the errors are compared with the largest value
    labels = rng.integers(0, classes, size=count).astype(draw(st.sampled_from(["int64", "int32", "uint8"])))
    return {"scores": scores, "labels": labels}


@entry("scores")
def softmax_cross_entropy(draw):
    smoothing = draw(st.sampled_from([0.0, 0.1, 0.7, 1.0]))
    arrays = labelled(draw)
    weight = draw(st.sampled_from([None, np.linspace(0.5, 2, arrays["scores"].shape[1]).tolist()]))

    def theirs(scores, labels):
        weights = None if weight is None else torch.tensor(weight, dtype=scores.dtype)
        return TF.cross_entropy(scores, labels.long(), weights, label_smoothing=smoothing)

    return Call(arrays, {"label_smoothing": smoothing, "weight": weight}, theirs)


@entry("scores")
def multiclass_hinge(draw):
    margin = draw(st.sampled_from([1.0, 0.5, 3, 0.0]))

    def theirs(scores, labels):
        return TF.multi_margin_loss(scores, labels.long(), margin=margin) * scores.shape[1]

    return Call(labelled(draw), {"margin": margin}, theirs)


@entry("pred")
def mse(draw):
    rng, shape = generator(draw), draw(st.sampled_from([(), (7,), (3, 5), (2, 3, 2)]))
    return Call(
        {"pred": rng.normal(size=shape), "target": rng.normal(size=shape) + 1},
        {},
        lambda pred, target: TF.mse_loss(pred, target),
    )


# ---- the comparison -------------------------------------------------------------------------------------------------


def ours(operator, arrays, dy, call):
    """Results by name: y, what the cache has, gradients."""
    result = getattr(F, operator)(**arrays, **call.arguments)
    gradients = OPERATORS[operator][0]
    if operator in LOSSES:
        return {"loss": result[0], f"d{gradients[0]}": result[1]}
    if not gradients:
        return {"y": result}
    y, cache = result
    found = getattr(F, f"{operator}_backward")(dy, cache, **call.backward)
    found = found if isinstance(found, tuple) else (found,)
    extras = {f"extra {i}": extra for i, extra in enumerate(call.extras(cache))}
    return {"y": y, **extras, **{f"d{name}": grad for name, grad in zip(gradients, found, strict=True)}}


def reference(operator, arrays, call, make_dy):
    """The same by PyTorch in float64, and the dy that was used."""
    tensors = {
        name: None if a is None else torch.tensor(a.astype("float64") if a.dtype.kind == "f" else a)
        for name, a in arrays.items()
    }
    gradients = OPERATORS[operator][0]
    leaves = [tensors[name].requires_grad_() for name in gradients if tensors.get(name) is not None]
    y, *extras = results if isinstance(results := call.theirs(**tensors), tuple) else (results,)
    dy = make_dy(tuple(y.shape))
    found = {"loss" if operator in LOSSES else "y": y.detach().numpy()}
    for i, extra in enumerate(extras):
        found[f"extra {i}"] = None if extra is None else extra.numpy()
    computed = iter(torch.autograd.grad(y, leaves, torch.tensor(dy.astype("float64"))) if leaves else ())
    for name in gradients:
        found[f"d{name}"] = None if tensors.get(name) is None else next(computed).numpy()
    if call.backward.get("need_dx") is False:
        found["dx"] = None
    return found, dy


def compare(operator, dtype, call, memory, seed):
    """Assert that ours are theirs; the places of our arrays in memory are drawn from ``memory``."""
    rounded = {name: a if a is None or a.dtype.kind != "f" else np.asarray(a, dtype) for name, a in call.arrays.items()}
    rng = np.random.default_rng([seed, 1])  # not the stream of the inputs: gradients along them may vanish

    def make_dy(shape):
        return np.ones(shape, dtype) if operator in LOSSES else rng.normal(size=shape).astype(dtype)

    want, dy = reference(operator, rounded, call, make_dy)
    places = iter(memory)
    placed = {name: None if a is None else LAYOUTS[next(places)](a) for name, a in rounded.items()}
    got = ours(operator, placed, LAYOUTS[next(places)](dy), call)
    assert list(got) == list(want)
    for name, expected in want.items():
        if expected is None:
            assert got[name] is None, name
            continue
        assert got[name].dtype == dtype, name
        assert got[name].shape == expected.shape, name
        error = np.abs(got[name] - expected).max(initial=0)
        scale = np.abs(expected).max(initial=0)
        if name in ("dweight", "dbias"):  # sums over the batch, whose terms of about one may cancel
            scale = max(scale, 0.1)
        assert error <= TOLERANCE[dtype] * scale, f"{name}: {error}"
    for name, array in placed.items():
        assert array is None or np.array_equal(array, rounded[name]), f"{name} was modified"


@pytest.mark.parametrize("kernels", ["auto", "generic"])
@pytest.mark.parametrize("operator", OPERATORS)
def test_forward_and_gradients_are_pytorchs(operator, kernels):
    @settings(
        max_examples=settings.default.max_examples * (2 if kernels == "auto" else 1),
        suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
    )
    @given(
        call=OPERATORS[operator][1],
        memory=st.lists(st.sampled_from(MEMORY), min_size=7, max_size=7),
        seed=st.integers(0, 2**32 - 1),
    )
    def check(call, memory, seed):
        with use_kernels(kernels):
            for dtype in TOLERANCE:
                compare(operator, dtype, call, memory, seed)

    check()


@pytest.mark.parametrize("operator", [name for name in F.__all__ if not name.endswith("_backward")])
def test_every_operator_and_every_argument_is_drawn(operator):
    if operator in WITHOUT:
        assert operator not in OPERATORS
        return
    calls = []
    settings(max_examples=1, database=None)(given(OPERATORS[operator][1])(lambda call: calls.append(call)))()
    assert {*calls[0].arrays, *calls[0].arguments} == set(inspect.signature(getattr(F, operator)).parameters)
    backward = getattr(F, f"{operator}_backward", None)
    if backward is None:
        assert operator in (*LOSSES, "im2col", "col2im")
    else:
        assert {"dy", "cache", *calls[0].backward} == set(inspect.signature(backward).parameters)


def test_what_is_compared_can_fail():
    """An error of the size of the tolerance is seen."""

    def wrong(x, w, b):
        return TF.linear(x, w, b) * (1 + 2e-5)

    x, w = np.arange(6.0).reshape(2, 3), np.ones((2, 3))
    call = Call({"x": x, "w": w, "b": None}, {}, wrong, backward={"need_dx": True})
    with pytest.raises(AssertionError, match="y: "):
        compare("linear", "float32", call, ["contiguous"] * 7, 0)
