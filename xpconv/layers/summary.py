"""What a network is made of, and what it costs: `Layer.summary`.

The shapes are those of a forward pass of one image (two, where a batch normalisation without running statistics needs
them) in evaluation mode, so that layers and networks of one's own are right too. Operations are counted by rule from
the shapes, see `count_operations`; they do not depend on the kernels that run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import singledispatch
from typing import Any, NamedTuple

from .._checks import check_integer
from .._geometry import to_pair
from ..backends import Backend, backend_of, get_backend
from ..backends.protocol import Array
from ._fusion import use_fusion
from ._unchanged import unchanged
from .activation import GELU, Hardtanh, LeakyReLU, ReLU, Sigmoid, SiLU, Tanh
from .base import Layer
from .containers import Concat, Residual, Sequential
from .conv import Conv1d, Conv2d, ConvTranspose2d
from .dropout import Dropout
from .linear import Flatten, Identity, Linear
from .norm import BatchNorm1d, BatchNorm2d, GroupNorm, InstanceNorm2d, LayerNorm
from .pooling import AdaptiveAvgPool2d, AvgPool2d, GlobalAvgPool2d, MaxPool2d

__all__ = ["Operations", "Summary", "SummaryRow", "count_operations", "summarize"]

Shape = tuple[int, ...]


class Operations(NamedTuple):
    """Arithmetic of a forward pass in evaluation mode.

    Attributes
    ----------
    macs
        Multiplications each followed by an addition.
    others
        Single additions, comparisons and function values.
    """

    macs: int
    others: int = 0

    @property
    def flops(self) -> int:
        """Floating-point operations: two for each of `macs`, one for each of `others`."""
        return 2 * self.macs + self.others


# ---- the rules --------------------------------------------------------------------------------------------------


@singledispatch
def count_operations(layer: Layer, inputs: Sequence[Shape], output: Shape) -> Operations | None:
    """Operations of one forward of ``layer`` itself, without those of the layers in it; None if there is no rule.

    =============================  ============================================  ====================================
    layer                          multiply-accumulates                          others
    =============================  ============================================  ====================================
    convolution                    results x (C / groups) x window               results, if there is a bias
    transposed convolution         numbers of x times (F / groups) x window      results, if there is a bias
    linear                         results x in_features                         results, if there is a bias
    batch normalisation            results: one scale and shift each             results for each of ReLU and residual
    layer, group, instance norm    2 x results: squares, scale and shift         2 x results: sums, differences
    activation                     0                                             results, whatever the function
    max and average pooling        0                                             results x window, padding included
    global and adaptive average    0                                             numbers read, each as often as it is
    residual sum                   0                                             results
    Flatten, Dropout, Concat, ...  0                                             0
    =============================  ============================================  ====================================

    For a layer of one's own::

        @xpconv.layers.count_operations.register
        def _(layer: Scale, inputs, output):
            return Operations(0, math.prod(output))

    Parameters
    ----------
    layer
        Any layer.
    inputs
        Shapes of the arrays that its forward was called with, the batch first.
    output
        Shape of its result.

    Returns
    -------
    Operations or None
        None where there is no rule for the layer.
    """
    return None


@count_operations.register(Sequential)
@count_operations.register(Concat)
@count_operations.register(Flatten)
@count_operations.register(Identity)
@count_operations.register(Dropout)
def _nothing(layer: Layer, inputs: Sequence[Shape], output: Shape) -> Operations:
    return Operations(0)


@count_operations.register(Residual)
@count_operations.register(ReLU)
@count_operations.register(LeakyReLU)
@count_operations.register(Hardtanh)
@count_operations.register(GELU)
@count_operations.register(SiLU)
@count_operations.register(Sigmoid)
@count_operations.register(Tanh)
def _each_number(layer: Layer, inputs: Sequence[Shape], output: Shape) -> Operations:
    return Operations(0, math.prod(output))


@count_operations.register(Conv1d)
@count_operations.register(Conv2d)
def _convolution(layer: Conv1d | Conv2d, inputs: Sequence[Shape], output: Shape) -> Operations:
    results = math.prod(output)
    return Operations(results * math.prod(layer.weight.shape[1:]), results * (layer.bias is not None))


@count_operations.register
def _transposed(layer: ConvTranspose2d, inputs: Sequence[Shape], output: Shape) -> Operations:
    return Operations(
        math.prod(inputs[0]) * math.prod(layer.weight.shape[1:]), math.prod(output) * (layer.bias is not None)
    )


@count_operations.register
def _linear(layer: Linear, inputs: Sequence[Shape], output: Shape) -> Operations:
    results = math.prod(output)
    return Operations(results * layer.in_features, results * (layer.bias is not None))


@count_operations.register(BatchNorm1d)
@count_operations.register(BatchNorm2d)
def _batch_norm(layer: BatchNorm1d | BatchNorm2d, inputs: Sequence[Shape], output: Shape) -> Operations:
    results = math.prod(output)
    return Operations(results, results * ((getattr(layer, "activation", None) is not None) + (len(inputs) > 1)))


@count_operations.register(LayerNorm)
@count_operations.register(GroupNorm)
@count_operations.register(InstanceNorm2d)
def _other_norm(layer: Layer, inputs: Sequence[Shape], output: Shape) -> Operations:
    return Operations(2 * math.prod(output), 2 * math.prod(output))


@count_operations.register(MaxPool2d)
@count_operations.register(AvgPool2d)
def _pooling(layer: MaxPool2d | AvgPool2d, inputs: Sequence[Shape], output: Shape) -> Operations:
    return Operations(0, math.prod(output) * math.prod(to_pair("kernel_size", layer.kernel_size)))


@count_operations.register
def _global_pooling(layer: GlobalAvgPool2d, inputs: Sequence[Shape], output: Shape) -> Operations:
    return Operations(0, math.prod(inputs[0]))


@count_operations.register
def _adaptive_pooling(layer: AdaptiveAvgPool2d, inputs: Sequence[Shape], output: Shape) -> Operations:
    read = output[0] * output[layer.layout.index("C")]
    for axis in (layer.layout.index("H"), layer.layout.index("W")):
        before, after = inputs[0][axis], output[axis]
        read *= sum(-(-(i + 1) * before // after) - i * before // after for i in range(after))
    return Operations(0, read)


# ---- the result -------------------------------------------------------------------------------------------------


class SummaryRow(NamedTuple):
    """One use of a layer, without the layers in it.

    Attributes
    ----------
    name
        Path in the network, as in its state_dict; ``""`` for the network itself.
    kind
        Name of the class.
    depth
        In how many layers it is: 0 for the network itself.
    shape
        Of its result, the first if there are several, without the batch; None for a layer that the forward does not
        use.
    parameters
        Numbers that are trained; 0 where an earlier row has counted them.
    operations
        For one image; None where there is no rule for the layer.
    memory
        Bytes of the result for one image; 0 where it is that of another row.
    """

    name: str
    kind: str
    depth: int
    shape: Shape | None
    parameters: int
    operations: Operations | None
    memory: int


class Summary:
    """What a network is made of and what it costs.

    Made by `Layer.summary`, which prints the `table`; ``str`` of it is one line.

    Parameters
    ----------
    rows, input_shape, batch_size, parameter_memory
        See the attributes.
    place
        For the heading of the table: the backend that the network is on.

    Attributes
    ----------
    rows : list of SummaryRow
        In the order of the forward pass, a network before what is in it; then what it does not use.
    input_shape : tuple of int
        Of one image.
    batch_size : int
        Images that `activation_memory` is for.
    parameters : int
        Numbers that are trained, each once.
    parameter_memory : int
        Bytes of parameters and buffers.
    macs, flops : int
        Of a forward pass of one image; see `count_operations`.
    activation_memory : int
        Bytes of the results of all layers for a batch: about what a forward in training keeps for the backward.
    not_counted : list of str
        Kinds of layers without a rule for their operations.
    """

    def __init__(
        self, rows: list[SummaryRow], input_shape: Shape, batch_size: int, parameter_memory: int, place: str
    ) -> None:
        self.rows = rows
        self.input_shape = input_shape
        self.batch_size = batch_size
        self.parameters = sum(row.parameters for row in rows)
        self.parameter_memory = parameter_memory
        self.macs = sum(row.operations.macs for row in rows if row.operations)
        self.flops = sum(row.operations.flops for row in rows if row.operations)
        self.activation_memory = batch_size * sum(row.memory for row in rows)
        self.not_counted = sorted({row.kind for row in rows if row.operations is None})
        self._place = place

    def __repr__(self) -> str:
        return f"Summary(parameters={self.parameters}, macs={self.macs}, flops={self.flops})"

    def table(self, depth: int | None = None) -> str:
        """The rows as text, and sums below.

        Parameters
        ----------
        depth
            How far to go into layers that are made of layers; what is deeper is summed up in one row. None is all.

        Returns
        -------
        str
            Lines, the widest as long as the longest row.
        """
        cells: list[Sequence[str]] = [("layer", "result", "parameters", "MACs", "FLOPs", "memory")]
        around: list[str] = []  # names of the rows that the next one may be in
        for row, inside in _collapsed(self.rows, depth):
            del around[row.depth :]
            cells.append(_cells(row, inside, around[-1] if around else ""))
            around.append(row.name)
        widths = [max(len(row[column]) for row in cells) for column in range(6)]
        lines = [_line(row, widths) for row in cells]
        lines.insert(1, "-" * max(map(len, lines)))
        lines.append(lines[1])
        images = "image" if self.batch_size == 1 else f"batch of {self.batch_size}"
        lines += [
            f"input         {self.input_shape}, {self._place}",
            f"parameters    {self.parameters:,}; with buffers {_bytes(self.parameter_memory)}",
            f"operations    {_with_unit(self.macs, 'MACs')}, {_with_unit(self.flops, 'FLOPs')} for an image, forward",
            f"activations   {_bytes(self.activation_memory)} for {'an' if self.batch_size == 1 else 'a'} {images}",
        ]
        if self.not_counted:
            lines.append(f"not counted   operations of {', '.join(self.not_counted)}")
        return "\n".join(line.rstrip() for line in lines)


def _collapsed(rows: list[SummaryRow], depth: int | None) -> Iterator[tuple[SummaryRow, bool]]:
    """The rows down to ``depth``, those at it with all that is in them; and whether others are shown inside."""
    i = 0
    while i < len(rows):
        row = rows[i]
        stop = i + 1
        while stop < len(rows) and rows[stop].depth > row.depth:
            stop += 1
        inside = rows[i + 1 : stop]
        if depth is not None and row.depth >= depth and inside:
            every = [row, *inside]
            counted = [part.operations for part in every if part.operations]
            row = row._replace(
                parameters=sum(part.parameters for part in every),
                operations=Operations(sum(c.macs for c in counted), sum(c.others for c in counted)),
                memory=sum(part.memory for part in every),
            )
            yield row, False
            i = stop
            continue
        yield row, bool(inside)
        i += 1


def _cells(row: SummaryRow, inside: bool, around: str) -> Sequence[str]:
    own = row.name.removeprefix(f"{around}.") or row.kind
    name = "  " * row.depth + (f"{own} ({row.kind})" if row.name else own)
    if row.shape is None:
        return name, "(not used)", f"{row.parameters:,}" if row.parameters else "", "", "", ""
    operations = row.operations
    flops = "" if operations is None else _short(operations.flops)
    macs = "" if operations is None else _short(operations.macs)
    parameters, memory = f"{row.parameters:,}", _bytes(row.memory)
    if inside:  # the rows in it have the rest
        parameters, macs, flops, memory = (
            "" if text in ("0", "0 B") else text for text in (parameters, macs, flops, memory)
        )
    elif operations is None:
        macs = flops = "?"
    return name, str(row.shape), parameters, macs, flops, memory


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    left = [cell.ljust(width) for cell, width in zip(row[:2], widths[:2], strict=True)]
    right = [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
    return "  ".join(left + right)


def _short(count: int) -> str:
    """Three digits and a unit: 1.82 G."""
    value, units = float(count), ["", " k", " M", " G", " T", " P"]
    while round(value, 3) >= 999.5 and len(units) > 1:
        value /= 1000
        units.pop(0)
    if not units[0]:
        return str(count)
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}{units[0]}"


def _with_unit(count: int, unit: str) -> str:
    text = _short(count)
    return f"{text}{unit}" if " " in text else f"{text} {unit}"


def _bytes(count: int) -> str:
    return _with_unit(count, "B")


# ---- making it --------------------------------------------------------------------------------------------------


class _Call:
    """A forward of a layer, while the network runs."""

    def __init__(self, layer: Layer, inputs: list[Shape]) -> None:
        self.layer = layer
        self.inputs = inputs
        self.inside: list[_Call] = []
        self.output: Shape = ()
        self.memory = 0
        self.results: list[Array] = []  # until the layer around it has ended


def summarize(network: Layer, input_shape: Sequence[int], *, batch_size: int = 1) -> Summary:
    """See `Layer.summary`, which prints the table of this."""
    if isinstance(input_shape, str) or not isinstance(input_shape, Iterable):
        raise TypeError(f"input_shape: expected the lengths of the axes of one image, got {input_shape!r:.200}")
    shape = tuple(check_integer("input_shape", length, 1) for length in input_shape)
    batch_size = check_integer("batch_size", batch_size, 1)
    backend, dtype = get_backend(), "float32"
    parameter = next(network.parameters(), None)
    if parameter is not None:
        backend = backend_of(parameter=parameter.data)
        dtype = backend.dtype_name(parameter.data)
    # one value per channel is none to normalise by
    alone = (BatchNorm1d, BatchNorm2d)
    images = 1 + any(isinstance(x, alone) and not x.track_running_stats for _, x in network.named_layers())
    root = _run(network, backend, backend.full((images, *shape), 1.0, dtype))
    rows = _rows(network, root, images)
    memory = sum(_nbytes(p.data) for p in network.parameters()) + sum(_nbytes(b) for _, b in network.named_buffers())
    return Summary(rows, shape, batch_size, memory, f"{dtype} on {backend.name}")


def _run(network: Layer, backend: Backend, x: Array) -> _Call:
    """Every forward within ``network``; afterwards it is as it was."""
    root: list[_Call] = []
    current: list[list[_Call]] = [root]

    def watched(layer: Layer, forward: Callable[..., Array]) -> Callable[..., Array]:
        def run(*arrays: Any, **more: Any) -> Array:
            given = [array for array in (*arrays, *more.values()) if hasattr(array, "shape")]
            call = _Call(layer, [tuple(array.shape) for array in given])
            current[-1].append(call)
            current.append(call.inside)
            try:
                result = forward(*arrays, **more)
            finally:
                current.pop()
            call.results = list(result) if isinstance(result, (tuple, list)) else [result]
            call.output = tuple(call.results[0].shape)
            others = [*given, *[array for part in call.inside for array in part.results]]
            if not isinstance(layer, Flatten):
                new = [array for array in call.results if not any(array is other for other in others)]
                call.memory = sum(map(_nbytes, new))
            for part in call.inside:
                part.results = []
            return result

        return run

    with unchanged(network), use_fusion(False), backend.running():
        for _, layer in network.named_layers():
            layer.__dict__["forward"] = watched(layer, layer.forward)
        network.forward(x)
    root[0].results = []
    return root[0]


def _rows(network: Layer, root: _Call, images: int) -> list[SummaryRow]:
    names = {id(layer): name for name, layer in network.named_layers()}
    rows: list[SummaryRow] = []
    counted: set[int] = set()

    def own_parameters(layer: Layer) -> int:
        found = [parameter for _, parameter in layer._own(layer._parameter_names) if id(parameter) not in counted]
        counted.update(map(id, found))
        return sum({id(parameter): parameter.size for parameter in found}.values())

    def add(call: _Call, depth: int) -> None:
        layer = call.layer
        operations = count_operations(layer, call.inputs, call.output)
        if operations is None and call.inside:
            operations = Operations(0)  # of layers made of layers, the layers are counted
        if operations is not None:
            operations = Operations(operations.macs // images, operations.others // images)
        name, kind = names.get(id(layer), ""), type(layer).__name__
        rows.append(
            SummaryRow(name, kind, depth, call.output[1:], own_parameters(layer), operations, call.memory // images)
        )
        for part in call.inside:
            add(part, depth + 1)

    add(root, 0)
    used = {row.name for row in rows}
    for name, layer in network.named_layers():
        if name not in used and next(iter(layer._own(layer._parameter_names)), None) is not None:
            rows.append(SummaryRow(name, type(layer).__name__, 1, None, own_parameters(layer), Operations(0), 0))
    return rows


def _nbytes(array: Array) -> int:
    name = backend_of(array=array).dtype_name(array)
    bits = int("".join(filter(str.isdigit, name)) or 8)  # bool has no number in its name
    return math.prod(array.shape) * bits // 8
