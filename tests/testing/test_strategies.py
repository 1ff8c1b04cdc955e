import subprocess
import sys

from hypothesis import given

from xpconv._geometry import conv_geometry, pool_window
from xpconv.testing import LAYOUTS, naive, strategies


@given(strategies.convolutions(max_batch=2, max_channels=4))
def test_every_convolution_is_possible_and_its_size_is_that_of_the_definition(case):
    assert case.x_shape[0] <= 2
    assert max(case.w_shape[:2]) <= 12
    window = conv_geometry(case.x_shape, case.w_shape, **case.arguments).window
    axes = zip(case.x_shape[2:], case.kernel_size, case.stride, case.padding, case.dilation, strict=True)
    assert (window.out_h, window.out_w) == tuple(len(naive.starts(*axis)) for axis in axes)


@given(strategies.poolings(max_dilation=2))
def test_every_pooling_is_possible_and_its_size_is_that_of_the_definition(case):
    window = pool_window(case.x_shape[2:], *case[1:])
    axes = zip(case.x_shape[2:], case.kernel_size, case.stride, case.padding, case.dilation, strict=True)
    assert (window.out_h, window.out_w) == tuple(len(naive.starts(*axis, case.ceil_mode)) for axis in axes)
    assert max(case.dilation) <= 2


def test_the_odd_cases_do_come_up():
    seen = set()

    @given(strategies.convolutions(), strategies.layouts())
    def collect(case, layout):
        (n, _, height, width), (kh, kw) = case.x_shape, case.kernel_size
        (top, bottom), (left, right) = case.padding
        seen.add(layout)
        seen.update(
            name
            for name, true in {
                "empty batch": n == 0,
                "kernel not square": kh != kw,
                "image not square": height != width,
                "stride > kernel": case.stride[0] > kh,
                "left-over pixels": (height + top + bottom - (kh - 1) * case.dilation[0] - 1) % case.stride[0] > 0,
                "asymmetric padding": top != bottom and left != right,
                "dilation": case.dilation[0] > 1 and kh > 1,
                "groups": case.groups > 1,
            }.items()
            if true
        )

    for _ in range(4):
        collect()
    assert seen >= {
        *("empty batch", "kernel not square", "image not square", "stride > kernel", "left-over pixels"),
        *("asymmetric padding", "dilation", "groups"),
    }
    assert len(seen & set(LAYOUTS)) > len(LAYOUTS) // 2


def test_the_module_says_what_it_needs():
    code = """
import sys
sys.modules["hypothesis"] = None
import xpconv.testing
try:
    import xpconv.testing.strategies
except ImportError as error:
    print(error)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "xpconv.testing.strategies needs Hypothesis: pip install hypothesis"
