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
    x: NDArray,
    cols: NDArray,
    stride_h: int,
    stride_w: int,
    pad_top: int,
    pad_left: int,
    dilation_h: int,
    dilation_w: int,
) -> None: ...
def col2im(
    cols: NDArray,
    x: NDArray,
    stride_h: int,
    stride_w: int,
    pad_top: int,
    pad_left: int,
    dilation_h: int,
    dilation_w: int,
    accumulate: bool = False,
) -> None: ...
def max_pool(
    x: NDArray,
    y: NDArray,
    argmax: NDArray,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_top: int,
    pad_left: int,
    dilation_h: int,
    dilation_w: int,
) -> None: ...
def max_pool_backward(
    dy: NDArray,
    argmax: NDArray,
    dx: NDArray,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_top: int,
    pad_left: int,
    dilation_h: int,
    dilation_w: int,
) -> None: ...
def avg_pool(
    x: NDArray,
    y: NDArray,
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
) -> None: ...
def avg_pool_backward(
    dy: NDArray,
    dx: NDArray,
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
) -> None: ...
def adaptive_avg_pool(x: NDArray, y: NDArray) -> None: ...
def adaptive_avg_pool_backward(dy: NDArray, dx: NDArray) -> None: ...
def batch_norm(
    x: NDArray,
    residual: NDArray | None,
    y: NDArray,
    weight: NDArray | None,
    bias: NDArray | None,
    mean: NDArray,
    variance: NDArray,
    inv_std: NDArray,
    old_mean: NDArray | None,
    old_variance: NDArray | None,
    new_mean: NDArray | None,
    new_variance: NDArray | None,
    momentum: float,
    eps: float,
    rows: bool,
    given: bool,
    relu: bool,
) -> None: ...
def batch_norm_backward(
    dy: NDArray,
    y: NDArray | None,
    x: NDArray,
    dx: NDArray,
    dresidual: NDArray | None,
    weight: NDArray | None,
    mean: NDArray,
    inv_std: NDArray,
    dw: NDArray,
    db: NDArray,
    rows: bool,
    given: bool,
) -> None: ...
def norm_rows(
    x: NDArray,
    y: NDArray,
    weight: NDArray | None,
    bias: NDArray | None,
    mean: NDArray,
    inv_std: NDArray,
    groups: int,
    eps: float,
    layer: bool,
) -> None: ...
def norm_rows_backward(
    dy: NDArray,
    x: NDArray,
    dx: NDArray,
    weight: NDArray | None,
    mean: NDArray,
    inv_std: NDArray,
    dw: NDArray,
    db: NDArray,
    groups: int,
    layer: bool,
) -> None: ...
def dropout(
    x: NDArray | None,
    y: NDArray | None,
    mask: NDArray,
    seed: int,
    layer: int,
    step: int,
    block: int,
    threshold: int,
    kept: float,
) -> None: ...
def softmax_cross_entropy(scores: NDArray, labels: NDArray, dscores: NDArray, smoothing: float) -> float: ...
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
) -> int | None: ...
def direct(
    x: NDArray,
    w: NDArray,
    b: NDArray | None,
    y: NDArray,
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
) -> None: ...
def direct_backward(
    dy: NDArray,
    x: NDArray | None,
    w: NDArray | None,
    dx: NDArray | None,
    dw: NDArray | None,
    db: NDArray | None,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_top: int,
    pad_left: int,
    dilation_h: int,
    dilation_w: int,
    most: int,
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
) -> int | None: ...
def depthwise(
    x: NDArray,
    w: NDArray,
    b: NDArray | None,
    y: NDArray,
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
) -> None: ...
def depthwise_input_gradient(
    dy: NDArray,
    w: NDArray,
    dx: NDArray,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_top: int,
    pad_left: int,
    dilation_h: int,
    dilation_w: int,
    most: int,
) -> None: ...
def depthwise_weight_gradient(
    dy: NDArray,
    x: NDArray,
    dw: NDArray,
    db: NDArray | None,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_top: int,
    pad_left: int,
    dilation_h: int,
    dilation_w: int,
    most: int,
) -> None: ...
def blocked_forward(
    x: NDArray,
    w: NDArray,
    b: NDArray | None,
    y: NDArray,
    stride_h: int,
    stride_w: int,
    pad_top: int,
    pad_left: int,
    dilation_h: int,
    dilation_w: int,
    groups: int,
    relu: bool,
    limit: int,
) -> None: ...
def blocked_input_gradient(
    dy: NDArray,
    w: NDArray,
    b: NDArray | None,
    dx: NDArray,
    stride_h: int,
    stride_w: int,
    pad_top: int,
    pad_left: int,
    dilation_h: int,
    dilation_w: int,
    groups: int,
    limit: int,
) -> None: ...
def blocked_weight_gradient(
    dy: NDArray,
    x: NDArray,
    dw: NDArray,
    db: NDArray | None,
    stride_h: int,
    stride_w: int,
    pad_top: int,
    pad_left: int,
    dilation_h: int,
    dilation_w: int,
    groups: int,
    limit: int,
) -> None: ...
def winograd(
    x: NDArray,
    w: NDArray,
    b: NDArray | None,
    y: NDArray,
    pad_top: int,
    pad_left: int,
    tile: int,
    rotated: bool,
    relu: bool,
    most: int,
) -> None: ...
def winograd_weights(
    dy: NDArray, x: NDArray, dw: NDArray, db: NDArray, pad_top: int, pad_left: int, tile: int, most: int
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

def activate(function: int, kept: NDArray, dy: NDArray | None, result: NDArray, slope: float = 0) -> None: ...
def sgd_steps(
    params: list[NDArray],
    grads: list[NDArray],
    velocities: list[NDArray] | None,
    lr: float,
    momentum: float,
    dampening: float,
    nesterov: bool,
    weight_decay: float,
) -> None: ...
def rmsprop_steps(
    params: list[NDArray],
    grads: list[NDArray],
    square_avgs: list[NDArray],
    buffers: list[NDArray] | None,
    lr: float,
    alpha: float,
    eps: float,
    momentum: float,
    weight_decay: float,
) -> None: ...
def adam_steps(
    params: list[NDArray],
    grads: list[NDArray],
    ms: list[NDArray],
    vs: list[NDArray],
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    correction1: float,
    correction2: float,
    decoupled: bool,
) -> None: ...
def squared_norm(grads: list[NDArray]) -> float: ...
def linear_forward(
    x: NDArray, w: NDArray, b: NDArray | None, y: NDArray, batch: int, inputs: int, outputs: int
) -> None: ...
def linear_backward(
    dy: NDArray,
    x: NDArray | None,
    w: NDArray | None,
    dx: NDArray | None,
    dw: NDArray | None,
    db: NDArray | None,
    batch: int,
    inputs: int,
    outputs: int,
) -> None: ...
