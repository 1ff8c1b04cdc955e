from typing import Any

from numpy.typing import NDArray

THREADED: bool

class Block:
    def __init__(self, size: int) -> None: ...
    def __buffer__(self, flags: int) -> memoryview: ...

def trim_memory() -> int: ...
def memory_sizes() -> tuple[int, int]: ...
def set_num_threads(number: int) -> None: ...
def get_num_threads() -> int: ...
def use_blas(getter: int, setter: int) -> None: ...
def release_blas() -> None: ...

class PoolClaim:
    def __enter__(self) -> bool: ...
    def __exit__(self, *error: object) -> None: ...

class BlasAtOneThread:
    def __enter__(self) -> bool: ...
    def __exit__(self, *error: object) -> None: ...

def im2col(
    x: NDArray[Any],
    cols: NDArray[Any],
    stride_h: int,
    stride_w: int,
    pad_top: int,
    pad_left: int,
    dilation_h: int,
    dilation_w: int,
    /,
) -> None: ...
def col2im(
    cols: NDArray[Any],
    x: NDArray[Any],
    stride_h: int,
    stride_w: int,
    pad_top: int,
    pad_left: int,
    dilation_h: int,
    dilation_w: int,
    /,
    accumulate: bool = False,
) -> None: ...
def max_pool(
    x: NDArray[Any],
    y: NDArray[Any],
    argmax: NDArray[Any],
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_top: int,
    pad_left: int,
    dilation_h: int,
    dilation_w: int,
    /,
) -> None: ...
def max_pool_backward(
    dy: NDArray[Any],
    argmax: NDArray[Any],
    dx: NDArray[Any],
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_top: int,
    pad_left: int,
    dilation_h: int,
    dilation_w: int,
    /,
) -> None: ...
def avg_pool(
    x: NDArray[Any],
    y: NDArray[Any],
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_top: int,
    pad_left: int,
    dilation_h: int,
    dilation_w: int,
    count_top: int,
    count_bottom: int,
    count_left: int,
    count_right: int,
    /,
) -> None: ...
def avg_pool_backward(
    dy: NDArray[Any],
    dx: NDArray[Any],
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_top: int,
    pad_left: int,
    dilation_h: int,
    dilation_w: int,
    count_top: int,
    count_bottom: int,
    count_left: int,
    count_right: int,
    /,
) -> None: ...
def adaptive_avg_pool(x: NDArray[Any], y: NDArray[Any], /) -> None: ...
def adaptive_avg_pool_backward(dy: NDArray[Any], dx: NDArray[Any], /) -> None: ...
def batch_norm(
    x: NDArray[Any],
    residual: NDArray[Any] | None,
    y: NDArray[Any],
    weight: NDArray[Any] | None,
    bias: NDArray[Any] | None,
    mean: NDArray[Any],
    variance: NDArray[Any],
    inv_std: NDArray[Any],
    old_mean: NDArray[Any] | None,
    old_variance: NDArray[Any] | None,
    new_mean: NDArray[Any] | None,
    new_variance: NDArray[Any] | None,
    momentum: float,
    eps: float,
    rows: bool,
    given: bool,
    relu: bool,
    /,
) -> None: ...
def batch_norm_backward(
    dy: NDArray[Any],
    y: NDArray[Any] | None,
    x: NDArray[Any],
    dx: NDArray[Any],
    dresidual: NDArray[Any] | None,
    weight: NDArray[Any] | None,
    mean: NDArray[Any],
    inv_std: NDArray[Any],
    dw: NDArray[Any],
    db: NDArray[Any],
    rows: bool,
    given: bool,
    /,
) -> None: ...
def norm_rows(
    x: NDArray[Any],
    y: NDArray[Any],
    weight: NDArray[Any] | None,
    bias: NDArray[Any] | None,
    mean: NDArray[Any],
    inv_std: NDArray[Any],
    groups: int,
    eps: float,
    layer: bool,
    /,
) -> None: ...
def norm_rows_backward(
    dy: NDArray[Any],
    x: NDArray[Any],
    dx: NDArray[Any],
    weight: NDArray[Any] | None,
    mean: NDArray[Any],
    inv_std: NDArray[Any],
    dw: NDArray[Any],
    db: NDArray[Any],
    groups: int,
    layer: bool,
    /,
) -> None: ...
def dropout(
    x: NDArray[Any] | None,
    y: NDArray[Any] | None,
    mask: NDArray[Any],
    seed: int,
    layer: int,
    step: int,
    block: int,
    threshold: int,
    kept: float,
    /,
) -> None: ...
def softmax_cross_entropy(
    scores: NDArray[Any], labels: NDArray[Any], dscores: NDArray[Any], smoothing: float, /
) -> float: ...
def instruction_sets() -> tuple[str, ...]: ...
def instruction_set() -> str | None: ...
def use_instruction_set(name: str) -> None: ...
def direct_bytes(
    channels: int,
    filters: int,
    height: int,
    width: int,
    kernel_h: int,
    kernel_w: int,
    out_h: int,
    out_w: int,
    stride_h: int,
    stride_w: int,
    pad_top: int,
    pad_left: int,
    dilation_h: int,
    dilation_w: int,
    backward: bool,
    itemsize: int,
    most: int,
    /,
) -> int | None: ...
def direct(
    x: NDArray[Any],
    w: NDArray[Any],
    b: NDArray[Any] | None,
    y: NDArray[Any],
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_top: int,
    pad_left: int,
    dilation_h: int,
    dilation_w: int,
    relu: bool,
    most: int,
    /,
) -> None: ...
def direct_backward(
    dy: NDArray[Any],
    x: NDArray[Any] | None,
    w: NDArray[Any] | None,
    dx: NDArray[Any] | None,
    dw: NDArray[Any] | None,
    db: NDArray[Any] | None,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_top: int,
    pad_left: int,
    dilation_h: int,
    dilation_w: int,
    most: int,
    /,
) -> None: ...
def depthwise_bytes(
    channels: int,
    filters: int,
    height: int,
    width: int,
    kernel_h: int,
    kernel_w: int,
    out_h: int,
    out_w: int,
    stride_h: int,
    stride_w: int,
    pad_top: int,
    pad_left: int,
    dilation_h: int,
    dilation_w: int,
    itemsize: int,
    most: int,
    /,
) -> int | None: ...
def depthwise(
    x: NDArray[Any],
    w: NDArray[Any],
    b: NDArray[Any] | None,
    y: NDArray[Any],
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_top: int,
    pad_left: int,
    dilation_h: int,
    dilation_w: int,
    relu: bool,
    most: int,
    /,
) -> None: ...
def depthwise_input_gradient(
    dy: NDArray[Any],
    w: NDArray[Any],
    dx: NDArray[Any],
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_top: int,
    pad_left: int,
    dilation_h: int,
    dilation_w: int,
    most: int,
    /,
) -> None: ...
def depthwise_gradients(
    dy: NDArray[Any],
    x: NDArray[Any],
    w: NDArray[Any] | None,
    dx: NDArray[Any] | None,
    dw: NDArray[Any],
    db: NDArray[Any] | None,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_top: int,
    pad_left: int,
    dilation_h: int,
    dilation_w: int,
    most: int,
    /,
) -> None: ...
def blocked_forward(
    x: NDArray[Any],
    w: NDArray[Any],
    b: NDArray[Any] | None,
    y: NDArray[Any],
    stride_h: int,
    stride_w: int,
    pad_top: int,
    pad_left: int,
    dilation_h: int,
    dilation_w: int,
    groups: int,
    relu: bool,
    limit: int,
    /,
) -> None: ...
def blocked_input_gradient(
    dy: NDArray[Any],
    w: NDArray[Any],
    b: NDArray[Any] | None,
    dx: NDArray[Any],
    stride_h: int,
    stride_w: int,
    pad_top: int,
    pad_left: int,
    dilation_h: int,
    dilation_w: int,
    groups: int,
    limit: int,
    /,
) -> None: ...
def blocked_weight_gradient(
    dy: NDArray[Any],
    x: NDArray[Any],
    dw: NDArray[Any],
    db: NDArray[Any] | None,
    stride_h: int,
    stride_w: int,
    pad_top: int,
    pad_left: int,
    dilation_h: int,
    dilation_w: int,
    groups: int,
    limit: int,
    /,
) -> None: ...
def winograd(
    x: NDArray[Any],
    w: NDArray[Any],
    b: NDArray[Any] | None,
    y: NDArray[Any],
    pad_top: int,
    pad_left: int,
    tile: int,
    rotated: bool,
    relu: bool,
    most: int,
    /,
) -> None: ...
def winograd_weights(
    dy: NDArray[Any],
    x: NDArray[Any],
    dw: NDArray[Any],
    db: NDArray[Any],
    pad_top: int,
    pad_left: int,
    tile: int,
    most: int,
    /,
) -> None: ...

RELU: int
RELU_BACKWARD: int
LEAKY_RELU: int
LEAKY_RELU_BACKWARD: int
SIGMOID: int
SIGMOID_BACKWARD: int
TANH_BACKWARD: int
SILU: int
SILU_BACKWARD: int
GELU: int
GELU_BACKWARD: int
SUM: int
PRODUCT: int

def activate(
    function: int, kept: NDArray[Any], dy: NDArray[Any] | None, result: NDArray[Any], slope: float = 0, /
) -> None: ...
def sgd_steps(
    params: list[NDArray[Any]],
    grads: list[NDArray[Any]],
    velocities: list[NDArray[Any]] | None,
    lr: float,
    momentum: float,
    dampening: float,
    nesterov: bool,
    weight_decay: float,
    /,
) -> None: ...
def rmsprop_steps(
    params: list[NDArray[Any]],
    grads: list[NDArray[Any]],
    square_avgs: list[NDArray[Any]],
    buffers: list[NDArray[Any]] | None,
    lr: float,
    alpha: float,
    eps: float,
    momentum: float,
    weight_decay: float,
    /,
) -> None: ...
def adam_steps(
    params: list[NDArray[Any]],
    grads: list[NDArray[Any]],
    ms: list[NDArray[Any]],
    vs: list[NDArray[Any]],
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    correction1: float,
    correction2: float,
    decoupled: bool,
    /,
) -> None: ...
def squared_norm(grads: list[NDArray[Any]], /) -> float: ...
def linear_forward(
    x: NDArray[Any], w: NDArray[Any], b: NDArray[Any] | None, y: NDArray[Any], batch: int, inputs: int, outputs: int, /
) -> None: ...
def linear_backward(
    dy: NDArray[Any],
    x: NDArray[Any] | None,
    w: NDArray[Any] | None,
    dx: NDArray[Any] | None,
    dw: NDArray[Any] | None,
    db: NDArray[Any] | None,
    batch: int,
    inputs: int,
    outputs: int,
    /,
) -> None: ...
