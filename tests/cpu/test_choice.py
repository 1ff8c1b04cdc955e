"""Which engine a convolution gets: settings, forced algorithms and their errors, estimates."""

import io

import numpy as np
import pytest

import xpconv
import xpconv.functional as F
from xpconv import _algorithm
from xpconv._cpu import _kernels
from xpconv._cpu.conv import choice
from xpconv._geometry import conv_geometry

vectors = pytest.mark.skipif(
    not _kernels.instruction_sets(), reason="the kernels were built by a compiler without vectors"
)

SHAPES = [
    ((8, 64, 32, 32), (64, 64, 3, 3), {"padding": 1}),
    ((8, 3, 32, 32), (16, 3, 3, 3), {"padding": 1}),
    ((2, 3, 64, 64), (32, 3, 7, 7), {"stride": 2, "padding": 3}),
    ((8, 64, 16, 16), (32, 64, 1, 1), {}),
    ((8, 32, 16, 16), (32, 1, 3, 3), {"padding": 1, "groups": 32}),
    ((8, 32, 16, 16), (32, 16, 3, 3), {"padding": 1, "groups": 2}),
    ((3, 4, 9, 20), (6, 4, 2, 3), {"stride": (1, 3), "padding": ((0, 2), (1, 0)), "dilation": (2, 1)}),
    ((1, 512, 4, 4), (512, 512, 3, 3), {"padding": 1}),
]


def geometry(x, w, **arguments):
    return conv_geometry(x, w, **({"stride": 1, "padding": 0, "dilation": 1, "groups": 1} | arguments))


def name(engine):
    return engine.__name__.rpartition(".")[2]


@pytest.fixture(autouse=True)
def _settings_of_the_start(monkeypatch):
    monkeypatch.setattr(_algorithm.setting, "_value", None)
    monkeypatch.delenv("XPCONV_CONV", raising=False)


def test_the_setting():
    assert xpconv.get_conv_algorithm() == "auto"
    xpconv.set_conv_algorithm("direct")
    assert xpconv.get_conv_algorithm() == "direct"
    with xpconv.use_conv_algorithm("im2col"):
        assert xpconv.get_conv_algorithm() == "im2col"
    assert xpconv.get_conv_algorithm() == "direct"


def test_the_environment(monkeypatch):
    monkeypatch.setenv("XPCONV_CONV", "im2col")
    assert xpconv.get_conv_algorithm() == "im2col"
    monkeypatch.setattr(_algorithm.setting, "_value", None)
    monkeypatch.setenv("XPCONV_CONV", "fft")
    with pytest.raises(ValueError, match="XPCONV_CONV: expected one of auto, winograd, direct, im2col, got 'fft'"):
        xpconv.get_conv_algorithm()


@pytest.mark.parametrize("call", [xpconv.set_conv_algorithm, lambda a: xpconv.use_conv_algorithm(a).__enter__()])
@pytest.mark.parametrize("wrong", ["fft", "", None, 3])
def test_an_unknown_algorithm_is_named(call, wrong):
    with pytest.raises(ValueError, match="algorithm: expected one of auto, winograd, direct, im2col, got "):
        call(wrong)
    assert xpconv.get_conv_algorithm() == "auto"


@vectors
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("x", "w", "arguments"), SHAPES)
def test_direct_and_im2col_do_every_convolution(x, w, arguments, dtype):
    for algorithm in ("direct", "im2col"):
        with xpconv.use_conv_algorithm(algorithm):
            for operation in choice.OPERATIONS:
                engine = choice.engine_for(operation, dtype, geometry(x, w, **arguments))
                assert (name(engine) == "im2col") == (algorithm == "im2col")


@vectors
@pytest.mark.parametrize(("x", "w", "arguments"), SHAPES)
def test_winograd_does_3x3_of_stride_1_and_says_why_nothing_else(x, w, arguments, rng):
    can = w[2:] == (3, 3) and not {"stride", "dilation", "groups"} & set(arguments)
    for operation in choice.OPERATIONS:
        with xpconv.use_conv_algorithm("winograd"):
            if can:
                assert "winograd" in name(choice.engine_for(operation, "float32", geometry(x, w, **arguments)))
                continue
            with pytest.raises(ValueError, match=r"conv algorithm .winograd. .* cannot do the .* here: winograd: "):
                choice.engine_for(operation, "float32", geometry(x, w, **arguments))


@vectors
def test_a_forced_algorithm_that_cannot_is_an_error_of_the_call(rng):
    x, w = rng.standard_normal((1, 2, 8, 8)), rng.standard_normal((3, 2, 5, 5))
    with xpconv.use_conv_algorithm("winograd"), pytest.raises(ValueError, match="XPCONV_CONV"):
        F.conv2d(x, w)


@vectors
def test_the_highest_precision_rules_winograd_out():
    shape = geometry((128, 64, 32, 32), (64, 64, 3, 3), padding=1)
    for operation in choice.OPERATIONS:
        assert "winograd" in name(choice.engine_for(operation, "float32", shape))
        with xpconv.use_matmul_precision("highest"):
            assert "winograd" not in name(choice.engine_for(operation, "float32", shape))
            with xpconv.use_conv_algorithm("winograd"), pytest.raises(ValueError, match="'highest' rules it out"):
                choice.engine_for(operation, "float32", shape)


@pytest.mark.parametrize("algorithm", ["auto", "winograd", "direct", "im2col"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_no_images(algorithm, dtype):
    x, w, b = np.zeros((0, 3, 8, 8), dtype), np.ones((4, 3, 3, 3), dtype), np.ones(4, dtype)
    with xpconv.use_conv_algorithm(algorithm):
        y, cache = F.conv2d(x, w, b, padding=1)
        dx, dw, db = F.conv2d_backward(y, cache)
    assert y.shape == (0, 4, 8, 8)
    assert dx.shape == x.shape
    np.testing.assert_array_equal(dw, np.zeros_like(w))
    np.testing.assert_array_equal(db, np.zeros_like(b))


@vectors
def test_every_engine_has_an_estimate_wherever_it_can_do_the_work(isa):
    """Without one it would never be compared with the others."""
    for dtype in ("float32", "float64"):
        for operation in choice.OPERATIONS:
            for x, w, arguments in SHAPES:
                for found in choice.candidates(operation, dtype, geometry(x, w, **arguments)):
                    assert (found.reason is None) == (found.seconds is not None), found
                    assert found.seconds is None or found.seconds > 0


@vectors
@pytest.mark.parametrize("algorithm", ["auto", "direct", "im2col"])
@pytest.mark.parametrize(("x_shape", "w_shape", "arguments"), SHAPES)
def test_every_choice_computes_the_convolution(
    engine_results, generic_results, algorithm, x_shape, w_shape, arguments, rng
):
    x, w, b = (rng.standard_normal(shape) for shape in (x_shape, w_shape, w_shape[:1]))
    expected = generic_results(x, w, b, None, geometry(x_shape, w_shape, **arguments))
    with xpconv.use_conv_algorithm(algorithm):
        y, cache = F.conv2d(x, w, b, **arguments)
        results = [y, *F.conv2d_backward(np.ascontiguousarray(expected[0][::-1]), cache)]
    for mine, want in zip(results, expected, strict=True):
        np.testing.assert_allclose(mine, want, rtol=0, atol=1e-11 * np.abs(want).max())


def test_an_explanation_names_the_engine_that_runs():
    for x, w, arguments in SHAPES:
        out = io.StringIO()
        xpconv.explain_convolution(x, w, **arguments, file=out)
        chosen = [line.split()[1] for line in out.getvalue().splitlines() if line.startswith("  -> ")]
        shape = geometry(x, w, **arguments)
        assert chosen == [name(choice.engine_for(operation, "float32", shape)) for operation in choice.OPERATIONS]


def test_an_explanation_of_what_is_no_convolution():
    with pytest.raises(ValueError, match="dtype: expected float32 or float64, got 'float16'"):
        xpconv.explain_convolution((1, 1, 3, 3), (1, 1, 3, 3), dtype="float16")
    with pytest.raises(ValueError, match="w: has 2 channels"):
        xpconv.explain_convolution((1, 1, 3, 3), (1, 2, 3, 3))
    with pytest.raises(ValueError, match=r"x_shape: expected four integers, got \(1, 3, 3\)"):
        xpconv.explain_convolution((1, 3, 3), (1, 2, 3, 3))
    with pytest.raises(ValueError, match="w_shape: must be at least 0, got -1"):
        xpconv.explain_convolution((1, 1, 3, 3), (-1, 1, 3, 3))
    for wrong in (None, (1, 1, 3.5, 3)):
        with pytest.raises(TypeError, match=r"x_shape: expected .*integer"):
            xpconv.explain_convolution(wrong, (1, 1, 3, 3))
