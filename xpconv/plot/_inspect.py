"""What happens inside of a network for some images: results of layers, and gradients to them.

Networks have an explicit backward and no tape. For the time of a call the ``forward`` and ``backward`` of the layer in
question are wrapped, and note what passes through; layers are run one by one, without fusion, so that each is called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from .. import functional
from .._checks import check_integer
from .._geometry import check_layout
from ..backends import Backend, asarray, backend_of, compute, get_backend, to_numpy
from ..backends.protocol import Array
from ..layers import BatchNorm1d, Conv2d, Layer
from ..layers._fusion import use_fusion
from ..layers._unchanged import unchanged

__all__ = ["find_layer", "find_layout", "grad_cam", "input_gradient", "layer_output", "predict_classes"]

_LAYOUTS = ("NCHW", "NHWC")


# ---- arguments --------------------------------------------------------------------------------------------------


def _check_model(model: object) -> Layer:
    if not isinstance(model, Layer):
        raise TypeError(f"model: expected a Layer, got {model!r:.200}")
    return model


def find_layer(model: Layer, layer: object) -> Layer:
    """The layer of ``model`` that is meant by its path, or by itself.

    Raises
    ------
    TypeError, ValueError
        Neither, or no layer of the model.
    """
    layers = dict(_check_model(model)._walk("", None))  # under all their names
    if isinstance(layer, str):
        if layer not in layers:
            names = ", ".join(repr(name) for name in layers if name)
            raise ValueError(f"layer: the model has no layer {layer!r}; it has {names or 'none inside'}")
        return layers[layer]
    if not isinstance(layer, Layer):
        raise TypeError(f"layer: expected the path of a layer, such as 'conv1', or a Layer, got {layer!r:.200}")
    if not any(layer is inside for inside in layers.values()):
        raise ValueError(f"layer: {type(layer).__name__} is not a layer of the model")
    return layer


def find_layout(model: Layer, layout: str | None) -> str:
    """``layout``, or where it is None that of the layers of ``model``.

    Raises
    ------
    ValueError
        An unknown one, or None and layers of both.
    """
    if layout is not None:
        return check_layout("layout", layout, _LAYOUTS)
    found = {
        getattr(layer, "layout", None)
        for _, layer in _check_model(model).named_layers()
        if not isinstance(layer, BatchNorm1d)  # its features have no layout
    }.intersection(_LAYOUTS)
    if len(found) > 1:
        raise ValueError("layout: the model has layers of NCHW and of NHWC; say which is that of the images")
    return next((name for name in _LAYOUTS if name in found), "NCHW")


def _on_model(model: Layer, images: Any, *, rank: int | None = None) -> tuple[Array, Backend]:
    """``images`` on the backend of ``model``, where NumPy arrays are moved to, as `Trainer.predict` does it."""
    parameter = next(_check_model(model).parameters(), None)
    if isinstance(images, np.ndarray):
        backend = get_backend() if parameter is None else backend_of(parameter=parameter.data)
        images = asarray(images, backend=backend)
    else:
        backend = backend_of(images=images)
    shape = tuple(images.shape)
    if len(shape) < 2 or (rank is not None and len(shape) != rank):
        axes = "(N, ...)" if rank is None else "(N, C, H, W) or (N, H, W, C)"
        raise ValueError(f"images: expected a batch {axes}, got shape {shape}")
    if 0 in shape:
        raise ValueError(f"images: expected at least one image with pixels, got shape {shape}")
    return images, backend


def _chosen_classes(scores: Array, target: Any) -> np.ndarray:
    """The class to explain for each row of scores (N, K): ``target``, or that of the largest score."""
    if len(scores.shape) != 2:
        raise ValueError(f"model: expected scores (N, classes), its result has shape {tuple(scores.shape)}")
    count, classes = scores.shape
    if target is None:
        scores = to_numpy(scores)
        missing = np.isnan(scores).any(axis=1)
        if missing.any():
            raise ValueError(f"images: the scores of image {missing.argmax()} have a NaN; name the class by target")
        return scores.argmax(axis=1)
    chosen = np.asarray(to_numpy(target) if hasattr(target, "shape") else target)
    if chosen.ndim == 0:
        return np.full(
            count, check_integer("target", chosen.item(), 0, classes - 1, takes="a class or one for each image")
        )
    if chosen.shape != (count,):
        raise ValueError(f"target: expected a class or one for each of {count} images, got shape {chosen.shape}")
    return np.array([check_integer("target", label, 0, classes - 1) for label in chosen])


# ---- running ----------------------------------------------------------------------------------------------------

Note = Callable[[Layer, Any], None]


def _watch(layer: Layer, on_result: Note, on_gradient: Note) -> None:
    """Make the layer tell what its forwards give, and what its backwards get."""
    forward, backward = layer.forward, layer.backward

    def watched_forward(*arrays: Any, **more: Any) -> Any:
        y = forward(*arrays, **more)
        on_result(layer, y)
        return y

    def watched_backward(dy: Any) -> Any:
        on_gradient(layer, dy)
        return backward(dy)

    layer.__dict__.update(forward=watched_forward, backward=watched_backward)


def _ignore(layer: Layer, array: Any) -> None:
    pass


def _forward(model: Layer, images: Array, backend: Backend, watched: Iterable[Layer], on_result: Note) -> Array:
    """The result of the model in evaluation mode."""
    with unchanged(model), use_fusion(False), backend.running():
        for layer in watched:
            _watch(layer, on_result, _ignore)
        return model.forward(images)


def _forward_and_back(
    model: Layer,
    images: Array,
    backend: Backend,
    target: Any,
    watched: Iterable[Layer] = (),
    on_result: Note = _ignore,
    on_gradient: Note = _ignore,
) -> Array | None:
    """Gradient of the scores of the target, or of the predicted classes, to the images; in evaluation mode."""
    with unchanged(model, keeps=True), use_fusion(False), backend.running():
        for _, layer in model.named_layers():
            if "need_dx" in layer.__dict__:
                layer.__dict__["need_dx"] = True  # the way back leads through it
        for layer in watched:
            _watch(layer, on_result, on_gradient)
        scores = model.forward(images)
        chosen = _chosen_classes(scores, target)
        one_hot = np.zeros(tuple(scores.shape), np.float32)
        one_hot[np.arange(len(chosen)), chosen] = 1
        return model.backward(backend.asarray(one_hot, backend.dtype_name(scores)))


def predict_classes(model: Layer, images: Any, target: Any = None) -> np.ndarray:
    """The classes that `input_gradient` and `grad_cam` explain, (N,)."""
    images, backend = _on_model(model, images)
    return _chosen_classes(_forward(model, images, backend, (), _ignore), target)


# ---- what is there to see ---------------------------------------------------------------------------------------


def layer_output(model: Layer, images: Any, layer: str | Layer) -> Array:
    """What a layer inside of a network gives for some images, in evaluation mode.

    Parameters
    ----------
    model : Layer
        The network; it is left as it was, whichever mode it is in.
    images : array (N, ...)
        A batch as the network takes it; of its backend, or a NumPy array, which is moved there.
    layer : str or Layer
        Path of the layer, as in the names of the state_dict (``"0"``, ``"layer1.0.conv2"``), or the layer itself.

    Returns
    -------
    array (N, ...)
        Result of the layer, on the backend of the network; of the last use of a layer that is used several times.

    Raises
    ------
    TypeError, ValueError
        ``images`` is no batch, or ``layer`` no layer of the network, or not one that its forward uses.
    """
    watched = find_layer(model, layer)
    images, backend = _on_model(model, images)
    results: list[Array] = []
    _forward(model, images, backend, [watched], lambda _, y: results.append(y))
    if not results:
        raise ValueError(f"layer: the forward of the model does not use {layer!r:.100}")
    return results[-1]


def input_gradient(model: Layer, images: Any, target: Any = None) -> Array:
    """Gradient of the score of a class with respect to the images: which pixels it hangs on.

    The score is the number that the network gives, before any softmax (Simonyan, Vedaldi, Zisserman 2013, *Deep inside
    convolutional networks*, arXiv:1312.6034, section 3).

    Parameters
    ----------
    model : Layer
        Gives scores (N, classes). It is run in evaluation mode and left as it was: its mode, gradients, statistics.
    images : array (N, ...)
        As for `layer_output`.
    target : int or array (N,), optional
        The class, one for all images or one for each; None is that of the largest score.

    Returns
    -------
    array (N, ...)
        Of the shape and dtype of the images, on the backend of the network.

    Raises
    ------
    TypeError, ValueError
        Arguments that do not fit, named; or scores with a NaN and no target.
    """
    images, backend = _on_model(model, images)
    gradient = _forward_and_back(model, images, backend, target)
    if gradient is None:
        raise ValueError("model: its backward gave no gradient to the images")
    return gradient


def grad_cam(
    model: Layer,
    images: Any,
    layer: str | Layer | None = None,
    *,
    target: Any = None,
    relu: bool = True,
    layout: str | None = None,
) -> Array:
    r"""Where in the images a layer sees what speaks for a class: Grad-CAM.

    With the feature maps :math:`A^k` of the layer and the score :math:`s` of the class,

    .. math:: M = \max\Bigl(0, \sum_k \alpha_k A^k\Bigr), \qquad
              \alpha_k = \frac{1}{H W} \sum_{i,j} \frac{\partial s}{\partial A^k_{ij}}

    (Selvaraju et al. 2017, *Grad-CAM*, arXiv:1610.02391, equations 1 and 2). For a network that ends in global average
    pooling and a linear layer with weights :math:`w`, the map of the layer before the pooling is, without the maximum
    (``relu=False``), :math:`\frac{1}{HW} \sum_k w_k A^k`: the class activation map of Zhou et al. 2016
    (arXiv:1512.04150) divided by the number of pixels.

    Parameters
    ----------
    model, images, target
        As for `input_gradient`; the images are (N, C, H, W) or (N, H, W, C).
    layer : str or Layer, optional
        Whose feature maps; its path or itself. None takes the last convolution with what follows at the same size, such
        as normalisation, ReLU and the sum of a residual block.
    relu : bool
        Whether negative numbers, what speaks against the class, become 0.
    layout : str, optional
        "NCHW" or "NHWC"; None takes that of the layers of the network.

    Returns
    -------
    array (N, h, w)
        On the backend of the network, of the size of the feature maps; float32 for images of 16 bits.

    Raises
    ------
    TypeError, ValueError
        Arguments that do not fit, named; or the layer gives no maps, or the way back does not pass through it.
    """
    layout = find_layout(model, layout)
    images, backend = _on_model(model, images, rank=4)
    watched = [found for _, found in model.named_layers()] if layer is None else [find_layer(model, layer)]
    results: list[tuple[Layer, Any]] = []
    gradients: list[tuple[Layer, Array]] = []
    _forward_and_back(
        model,
        images,
        backend,
        target,
        watched,
        lambda of, y: results.append((of, y)),
        lambda of, dy: gradients.append((of, dy)),
    )
    if not results:
        raise ValueError(f"layer: the forward of the model does not use {layer!r:.100}")
    place = _last_maps(results, layout) if layer is None else len(results) - 1
    chosen, maps = results[place]
    described = type(chosen).__name__ if layer is None else f"{layer!r:.100}"
    if len(getattr(maps, "shape", ())) != 4:
        raise ValueError(f"layer: expected one that gives maps of 4 dimensions, not {described}")
    # the way back goes through the uses of a layer in reverse
    earlier, uses = (sum(of is chosen for of, _ in part) for part in (results[:place], results))
    back = [dy for of, dy in gradients if of is chosen][::-1]
    if len(back) != uses:
        raise ValueError(
            f"layer: the forward of the model uses {described} {uses} times, its backward {len(back)} times; choose a "
            "layer that it is in"
        )
    gradient = back[earlier]
    return compute(backend, "grad_cam", _weighted_sum, backend, maps, gradient, layout, relu)


def _weighted_sum(backend: Backend, maps: Array, gradient: Array, layout: str, relu: bool) -> Array:
    xp = backend.xp
    channels = layout.index("C")
    pixels = (layout.index("H"), layout.index("W"))
    with backend.running():
        wide = backend.accumulator(maps)
        weights = xp.mean(backend.astype(gradient, wide), axis=pixels, keepdims=True)
        result = xp.sum(weights * backend.astype(maps, wide), axis=channels)
        return functional.relu(result)[0] if relu else result


def _last_maps(results: Sequence[tuple[Layer, Any]], layout: str) -> int:
    """Index of the last result that has the size of that of the last convolution."""

    def size(y: Any) -> tuple[int, int] | None:
        shape = getattr(y, "shape", ())
        return (shape[layout.index("H")], shape[layout.index("W")]) if len(shape) == 4 else None

    sizes = [size(y) for of, y in results if isinstance(of, Conv2d)]
    # those within squeeze-and-excitation blocks see one pixel
    wanted = [found for found in sizes if found != (1, 1)] or sizes
    if not wanted:
        raise ValueError("layer: the model uses no Conv2d; name the layer whose maps are meant")
    return max(i for i, (_, y) in enumerate(results) if size(y) == wanted[-1])
