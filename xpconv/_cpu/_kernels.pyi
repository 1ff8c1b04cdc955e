from numpy.typing import NDArray

THREADED: bool

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
def dropout_mask(mask: NDArray, seed: int, layer: int, step: int, threshold: int, kept: float) -> None: ...
