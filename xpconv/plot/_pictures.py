"""Filters, feature maps, and what in an image an answer hangs on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from .._checks import check_integer
from .._extras import require
from ..backends import to_numpy
from ..layers import Layer
from ._axes import class_names_of, figure_of, given_axes, new_figure, plain, show_picture
from ._inspect import find_layer, find_layout, grad_cam, input_gradient, layer_output, predict_classes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["class_activation_map", "feature_maps", "filters", "saliency"]

Colour = tuple[float, float, float]

_MISSING = (0.85, 0.2, 0.55)  # NaN: a colour that none of the maps and few pictures have
_WHITE, _PALE_BLUE = (1.0, 1.0, 1.0), (0.62, 0.77, 0.90)  # between tiles in colours, and in shades of grey
_SCALES = ("each", "all")


# ---- numbers to colours -----------------------------------------------------------------------------------------


def _stretched(values: np.ndarray, axes: tuple[int, ...] | None = None) -> np.ndarray:
    """Finite numbers linearly to 0 to 1, for each index of the axes that are not named; equal numbers to 0.

    Infinities become the ends, NaN stays.
    """
    values = values.astype(np.float64)
    finite = np.isfinite(values)
    low = np.min(values, axis=axes, keepdims=True, where=finite, initial=np.inf)
    high = np.max(values, axis=axes, keepdims=True, where=finite, initial=-np.inf)
    empty = low > high  # nothing finite
    low, high = np.where(empty, 0.0, low), np.where(empty, 0.0, high)
    # halves: the difference of two large numbers may be more than there are
    width = high / 2 - low / 2
    with np.errstate(invalid="ignore"):
        result = np.where(width > 0, (values / 2 - low / 2) / np.where(width > 0, width, 1.0), 0.0 * np.sign(values))
    result = np.where(np.isposinf(values), 1.0, np.where(np.isneginf(values), 0.0, result))
    return np.clip(result, 0, 1)


def _coloured(values: np.ndarray, cmap: str) -> np.ndarray:
    """Numbers from 0 to 1 (...) as colours (..., 3); NaN in a colour of its own."""
    from matplotlib import colormaps

    colours = colormaps[cmap](np.nan_to_num(values))[..., :3]
    return np.where(np.isnan(values)[..., None], _MISSING, colours)


def _visible(image: np.ndarray) -> np.ndarray:
    """An image (H, W, C) as colours (H, W, 3).

    Integers are taken as 0 to 255, other numbers as they are if all lie within 0 and 1, else stretched. Other than 3
    channels are averaged.
    """
    if image.dtype.kind in "iub":
        image = image / (1.0 if image.dtype.kind == "b" else 255.0)
    with np.errstate(invalid="ignore"):
        if image.size and (np.nanmin(image, initial=0.0) < 0 or np.nanmax(image, initial=1.0) > 1):
            image = _stretched(image)
    if image.shape[2] != 3:
        image = np.repeat(image.mean(axis=2, keepdims=True), 3, axis=2)
    missing = np.isnan(image).any(axis=2, keepdims=True)
    return np.where(missing, _MISSING, np.nan_to_num(image))


def _mosaic(tiles: np.ndarray, columns: int, gap: Colour) -> np.ndarray:
    """Colours (N, H, W, 3) as one picture with ``columns`` beside each other and lines of a colour between."""
    count, height, width, _ = tiles.shape
    rows = -(-count // columns)
    picture = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1, 3), gap)
    for n, tile in enumerate(tiles):
        top, left = n // columns * (height + 1), n % columns * (width + 1)
        picture[top : top + height, left : left + width] = tile
    return picture


def _draw_mosaic(tiles: np.ndarray, columns: int, gap: Colour, title: str, ax: Axes | None) -> Figure:
    picture = _mosaic(tiles, columns, gap)
    if ax is None:
        # a tile is about half an inch, and the whole fits a page
        width = min(max(0.5 * columns, 3.2), 10.0)
        height = min(max(width * picture.shape[0] / picture.shape[1], 0.5), 12.0)
        figure, (ax,) = new_figure(width, height + 0.4)
    else:
        (ax,) = given_axes("ax", ax, 1, "for one picture")
        figure = figure_of(ax)
    show_picture(ax, picture)
    plain(ax.set_title("", fontsize=9), title)
    for spine in ax.spines.values():
        spine.set_visible(False)
    return figure


def _columns(columns: int | None, count: int) -> int:
    if columns is None:
        return max(1, math.ceil(math.sqrt(count)))
    return min(check_integer("columns", columns, 1, takes="an integer or None"), count)


def _check_scale(scale: str) -> str:
    if scale not in _SCALES:
        raise ValueError(f"scale: expected one of {', '.join(_SCALES)}, got {scale!r}")
    return scale


def _check_cmap(cmap: str) -> str:
    require("matplotlib", "pictures", extra="plot")
    from matplotlib import colormaps

    if not isinstance(cmap, str) or cmap not in colormaps:
        raise ValueError(f"cmap: expected the name of a colour map of matplotlib, such as 'viridis', got {cmap!r:.200}")
    return cmap


# ---- weights and activations ------------------------------------------------------------------------------------


def filters(
    weights: Any,
    *,
    columns: int | None = None,
    scale: str = "each",
    cmap: str = "gray",
    ax: Axes | None = None,
) -> Figure:
    """Draw the filters of a convolution as small pictures.

    Filters of three channels are pictures in colour, those of one channel in shades. Of other numbers of channels each
    channel is a picture: a row for each filter, a column for each channel.

    Parameters
    ----------
    weights : Conv2d, or array (F, C, kh, kw)
        A layer with filters, or their numbers on any backend. Slices show a part: ``layer.weight.data[:16, :8]``.
    columns : int, optional
        How many pictures stand side by side; None makes about a square, or a column for each channel.
    scale : str
        ``"each"`` stretches the numbers of each picture to the whole range from dark to light, ``"all"`` those of all
        pictures together, so that large numbers can be told from small ones.
    cmap : str
        Colour map of matplotlib for pictures without colours.
    ax : matplotlib.axes.Axes, optional
        Where to draw; None makes a figure of its own.

    Returns
    -------
    matplotlib.figure.Figure
        That has the axes; it is not shown: ``figure.savefig("filters.png")``. NaN is drawn in magenta.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that is wrong.
    MissingExtraError
        matplotlib is not installed.
    """
    _check_scale(scale)
    _check_cmap(cmap)
    if isinstance(weights, Layer):
        found = weights.filters() if hasattr(weights, "filters") else getattr(weights, "weight", None)
        array = getattr(found, "data", None) if hasattr(found, "grad") and hasattr(found, "accumulate_grad") else found
        if array is None or len(array.shape) != 4:
            raise TypeError(
                f"weights: expected a layer with filters, such as a Conv2d, or an array, got {weights!r:.200}"
            )
        weights = array
    values = to_numpy(weights)
    if values.ndim != 4 or 0 in values.shape:
        raise ValueError(f"weights: expected a non-empty array (F, C, kh, kw), got shape {values.shape}")
    count, channels, height, width = values.shape
    if channels == 3:
        tiles = _visible_filters(values, scale)
        columns = _columns(columns, count)
    else:
        planes = values.reshape(count * channels, height, width)
        tiles = _coloured(_stretched(planes, (1, 2) if scale == "each" else None), cmap)
        columns = _columns(columns, count) if channels == 1 else _columns(columns or channels, count * channels)
    kind = f"{count} filter{'s' * (count != 1)}, {height} × {width}" + f" × {channels}" * (channels != 1)  # noqa: RUF001
    return _draw_mosaic(tiles, columns, _PALE_BLUE, kind, ax)


def _visible_filters(values: np.ndarray, scale: str) -> np.ndarray:
    colours = np.moveaxis(_stretched(values, (1, 2, 3) if scale == "each" else None), 1, 3)
    return np.where(np.isnan(colours).any(axis=3, keepdims=True), _MISSING, np.nan_to_num(colours))


def feature_maps(
    model: Layer,
    image: Any,
    layer: str | Layer,
    *,
    channels: Sequence[int] | None = None,
    columns: int | None = None,
    scale: str = "each",
    cmap: str = "viridis",
    layout: str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Draw what a layer makes of an image: a small picture for each channel.

    Parameters
    ----------
    model : Layer
        The network; it runs in evaluation mode and is left as it was.
    image : array (C, H, W), or (1, C, H, W)
        As the network takes it, channels last where its layers want that; of its backend or of NumPy.
    layer : str or Layer
        Path of a layer that gives maps, such as ``"conv1"``, or the layer itself.
    channels : sequence of int, optional
        Which channels to draw; None is all.
    columns, scale, cmap, ax
        As for `filters`.
    layout : str, optional
        "NCHW" or "NHWC"; None takes that of the layers of the network.

    Returns
    -------
    matplotlib.figure.Figure
        As `filters`. `layer_output` gives the numbers.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that is wrong.
    MissingExtraError
        matplotlib is not installed.
    """
    _check_scale(scale)
    _check_cmap(cmap)
    layout = find_layout(model, layout)
    batch = _as_batch("image", image)
    if batch.shape[0] != 1:
        raise ValueError(f"image: expected one image, got {batch.shape[0]}: shape {tuple(batch.shape)}")
    found = find_layer(model, layer)
    result = to_numpy(layer_output(model, batch, layer))
    if result.ndim != 4:
        raise ValueError(f"layer: expected one that gives maps of 4 dimensions, {layer!r:.100} gives {result.shape}")
    maps = result[0] if layout == "NCHW" else np.moveaxis(result[0], 2, 0)
    if channels is not None:
        chosen = [check_integer("channels", channel, 0, len(maps) - 1) for channel in channels]
        maps = maps[chosen]
    if not maps.size:
        raise ValueError(f"{'layer' if channels is None else 'channels'}: expected at least one map, got none")
    tiles = _coloured(_stretched(maps, (1, 2) if scale == "each" else None), cmap)
    title = layer if isinstance(layer, str) and layer else type(found).__name__
    size = f"{maps.shape[1]} × {maps.shape[2]}"  # noqa: RUF001
    shown = f"{len(maps)} map{'s' * (len(maps) != 1)} of {size}"
    return _draw_mosaic(tiles, _columns(columns, len(maps)), _WHITE, f"{title}: {shown}", ax)


# ---- what an answer hangs on ------------------------------------------------------------------------------------


def _as_batch(name: str, images: Any) -> Any:
    """Images (N, ., ., .), of one image (., ., .) a batch."""
    shape = tuple(getattr(images, "shape", ()))
    if len(shape) == 3:
        images = images[None, ...]
    elif len(shape) != 4:
        raise ValueError(f"{name}: expected (C, H, W) or a batch of such images, got {_described(images)}")
    if 0 in shape:
        raise ValueError(f"{name}: expected at least one image with pixels, got shape {shape}")
    return images


def _described(value: Any) -> str:
    return f"shape {tuple(value.shape)}" if hasattr(value, "shape") else f"{value!r:.200}"


def _explained(
    model: Layer, images: Any, target: Any, class_names: Any, layout: str
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """The images as colours (N, H, W, 3), their classes and the names of those."""
    labels = predict_classes(model, images, target)
    names = None if class_names is None else class_names_of(class_names, len(class_names))
    if names is not None and labels.max() >= len(names):
        raise ValueError(f"class_names: expected a name for each class, got {len(names)} and class {labels.max()}")
    pixels = to_numpy(images)
    pixels = pixels if layout == "NHWC" else np.moveaxis(pixels, 1, 3)
    shown = np.stack([_visible(image) for image in pixels])
    return shown, labels, [f"class {k}" if names is None else names[k] for k in labels]


def _draw_explained(shown: np.ndarray, over: np.ndarray, titles: list[str], axes: Any) -> Figure:
    """Images above what explains them, or that alone in axes that were given."""
    count = len(shown)
    if axes is not None:
        places = given_axes("axes", axes, count, "one for each image")
        figure = figure_of(places[0])
        above: list[Axes] = []
    else:
        width = min(1.4 * count, 14.0)
        figure, places = new_figure(
            max(width, 1.6), 2 * width / count * shown.shape[1] / shown.shape[2] + 0.4, 2, count
        )
        above, places = places[:count], places[count:]
    for i in range(count):
        if above:
            show_picture(above[i], shown[i], titles[i])
        show_picture(places[i], over[i], None if above else titles[i])
    return figure


def saliency(
    model: Layer,
    images: Any,
    target: Any = None,
    *,
    class_names: Sequence[str] | None = None,
    cmap: str = "inferno",
    layout: str | None = None,
    axes: Any = None,
) -> Figure:
    """Draw how much the score of a class hangs on each pixel: the size of its gradient.

    It is the largest absolute value of `input_gradient` over the channels (Simonyan, Vedaldi, Zisserman 2013,
    arXiv:1312.6034, section 3.1), stretched to the whole range of the colour map for each image.

    Parameters
    ----------
    model : Layer
        Gives scores (N, classes). It runs in evaluation mode and is left as it was: mode, gradients, statistics.
    images : array (N, C, H, W) or (C, H, W)
        As the network takes them, channels last where its layers want that; of its backend or of NumPy. Shown as they
        are if they lie within 0 and 1, else stretched.
    target : int or array (N,), optional
        The class, one for all images or one for each; None is that of the largest score.
    class_names : sequence of str, optional
        For the titles.
    cmap : str
        Colour map of matplotlib.
    layout : str, optional
        "NCHW" or "NHWC"; None takes that of the layers of the network.
    axes : matplotlib.axes.Axes, or sequence or array of them, optional
        Where to draw the gradients, one for each image. None makes a figure that has the images above them.

    Returns
    -------
    matplotlib.figure.Figure
        That has the axes; it is not shown: ``figure.savefig("saliency.png")``.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that is wrong.
    MissingExtraError
        matplotlib is not installed.
    """
    _check_cmap(cmap)
    layout = find_layout(model, layout)
    batch = _as_batch("images", images)
    shown, labels, titles = _explained(model, batch, target, class_names, layout)
    sizes = np.abs(to_numpy(input_gradient(model, batch, labels))).max(axis=layout.index("C"))
    return _draw_explained(shown, _coloured(_stretched(sizes, (1, 2)), cmap), titles, axes)


def class_activation_map(
    model: Layer,
    images: Any,
    layer: str | Layer | None = None,
    *,
    target: Any = None,
    class_names: Sequence[str] | None = None,
    cmap: str = "turbo",
    layout: str | None = None,
    axes: Any = None,
) -> Figure:
    """Draw over the images where a layer sees what speaks for a class, by `grad_cam`.

    The map of each image is stretched to the range from 0 to its largest number, brought to the size of the image by
    linear interpolation, and drawn the more opaque the larger it is.

    Parameters
    ----------
    model, images, target, class_names, cmap, layout
        As for `saliency`.
    layer : str or Layer, optional
        Whose maps; None is the last convolution with what follows at the same size, see `grad_cam`.
    axes
        As for `saliency`.

    Returns
    -------
    matplotlib.figure.Figure
        As `saliency`.

    Raises
    ------
    TypeError, ValueError
        Naming the argument that is wrong.
    MissingExtraError
        matplotlib is not installed.
    """
    _check_cmap(cmap)
    layout = find_layout(model, layout)
    batch = _as_batch("images", images)
    shown, labels, titles = _explained(model, batch, target, class_names, layout)
    maps = to_numpy(grad_cam(model, batch, layer, target=labels, layout=layout)).astype(np.float64)
    # from 0, which is no evidence, and not from the smallest number
    highest = np.max(maps, axis=(1, 2), keepdims=True, where=np.isfinite(maps), initial=0.0)
    maps = np.clip(maps / np.where(highest > 0, highest, 1.0), 0, 1)
    maps = np.stack([_resized(each, shown.shape[1], shown.shape[2]) for each in maps])
    grey = shown.mean(axis=3, keepdims=True)
    opacity = 0.75 * np.sqrt(np.nan_to_num(maps, nan=1.0))[..., None]
    return _draw_explained(shown, (1 - opacity) * grey + opacity * _coloured(maps, cmap), titles, axes)


def _resized(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Linear interpolation between the centres of pixels, constant beyond the outermost ones."""
    for axis, length in enumerate((height, width)):
        old = values.shape[axis]
        place = np.clip((np.arange(length) + 0.5) * old / length - 0.5, 0, old - 1)
        low = np.floor(place).astype(int)
        high = np.minimum(low + 1, old - 1)
        share = (place - low).reshape((-1, 1) if axis == 0 else (1, -1))
        values = np.take(values, low, axis) * (1 - share) + np.take(values, high, axis) * share
    return values
