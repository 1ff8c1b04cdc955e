from numpy.typing import NDArray

THREADED: bool

def set_num_threads(number: int) -> None: ...
def get_num_threads() -> int: ...
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
