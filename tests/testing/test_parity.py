"""Every backend that runs here against NumPy, case by case; and that the comparison itself finds what is wrong."""

import math

import numpy as np
import pytest

import xpconv.functional as F
from xpconv import data, optim
from xpconv.backends import load_backend
from xpconv.testing import CASES, Case, parity
from xpconv.testing.parity import bounds
from xpconv.testing.parity.cases import on_backend, on_host
from xpconv.testing.parity.comparison import _finding

TABLE = {case.name: case for case in parity.cases()}
NUMPY = Case("numpy", "numpy")
# JAX runs every operator op by op and takes minutes; the operators it shares with others are tested one by one.
SUBJECTS = [
    pytest.param(case, dtype, id=f"{case.id}-{dtype}")
    for case in CASES
    for dtype in ("float32", "float64")
    if case.id in ("numpy-generic", "strict", "torch", "cuda-host", "cupy")
]


def skip_unless_available(case):
    reason = case.why_unavailable()
    if reason is not None:
        pytest.skip(reason)


@pytest.mark.parametrize(("subject", "dtype"), SUBJECTS)
def test_every_case(subject, dtype):
    """As one test for each backend: a hundred cases of milliseconds are no hundred tests."""
    skip_unless_available(subject)
    findings = [finding for case in TABLE.values() for finding in parity.compare(case, subject, NUMPY, dtype)]
    assert parity.is_ok(findings, dtype), parity.table(findings, dtype)
    assert len({finding.case for finding in findings}) == len(TABLE)


@pytest.mark.parametrize(
    ("backend", "dtype"),
    [("numpy", "float16"), ("torch", "bfloat16"), ("cuda-host", "float16"), ("cupy", "float16"), ("cupy", "bfloat16")],
)
def test_half_precision_against_float32_of_the_same_inputs(backend, dtype):
    subject = Case(backend, backend)
    skip_unless_available(subject)
    if (backend, dtype) == ("cupy", "bfloat16"):
        pytest.importorskip("ml_dtypes")
    # the stand-in is slow, and its kernels are compared with others in float16 elsewhere
    some = ("conv2d, 1x1", "batch_norm_relu, images", "softmax_cross_entropy, 10", "dropout, p 0.3", "AdamW")
    cases = [case for case in TABLE.values() if case.in_half and (backend != "cuda-host" or case.name.startswith(some))]
    findings = [finding for case in cases for finding in parity.compare(case, subject, NUMPY, dtype)]
    assert parity.is_ok(findings, dtype), parity.table(findings, dtype)
    assert len({finding.case for finding in findings}) == len(cases) >= len(some)


def test_every_public_operator_is_in_the_table():
    called = {operator for case in TABLE.values() for operator, _ in case.bounds(host(case))}
    assert set(F.__all__) <= called
    assert {"Batches", "Normalize", "RandomFlip", "ShiftCrop"} <= called & set(data.__all__)
    optimizers = {
        name
        for name in optim.__all__
        if isinstance(getattr(optim, name), type)
        and issubclass(getattr(optim, name), optim.Optimizer)
        and name != "Optimizer"
    }
    assert optimizers <= called


def host(case):
    return on_host(case.name, "float32")


def test_names_of_cases_are_unique():
    assert len(TABLE) == len(parity.cases())


def test_equal_results_are_demanded_where_they_are_promised():
    exact = {key for case in TABLE.values() for key, bound in case.bounds(host(case)).items() if bound.length == 0}
    assert exact >= {
        ("dropout", "mask"),
        ("im2col", "columns"),
        ("max_pool2d", "y"),
        ("max_pool2d", "argmax"),
        ("ShiftCrop", "images"),
        ("RandomFlip", "images"),
    }


# ---- the bounds ---------------------------------------------------------------------------------------------------


def test_gamma_is_the_rigorous_bound_for_short_sums_and_grows_with_the_root_of_long_ones():
    u = 2.0**-24
    assert bounds.gamma(9, "float32") == pytest.approx(9 * u)
    assert bounds.gamma(10_000, "float32") == pytest.approx(bounds.LAMBDA * 100 * u, rel=1e-4)
    assert bounds.gamma(9, "float64") == pytest.approx(9 * 2.0**-53)


@pytest.mark.parametrize("length", [5, 100, 3000])
def test_sums_in_the_worst_order_stay_within_the_bound(length, rng):
    """One term after the other, which no kernel does for long sums."""
    for _ in range(20):
        a, b = rng.normal(size=(2, length)).astype(np.float32)
        computed = np.float32(0)
        for product in a * b:
            computed += product
        exact = float(np.dot(a.astype(float), b.astype(float)))
        assert abs(float(computed) - exact) <= bounds.gamma(length, "float32") * float(np.sum(np.abs(a * b)))


def test_bounds_do_not_depend_on_what_backends_return():
    """Nor on the dtype of the run beyond the rounding of the inputs: they are computed on the host, in float64."""
    case = TABLE["conv2d, 3x3, padding 1"]
    bound = case.bounds(host(case))["conv2d", "y"]
    assert bound.length == 3 * 9 + 1
    assert bound.scale.dtype == np.float64


def test_numbers_are_rounded_to_the_nearest_of_a_half_type():
    torch = pytest.importorskip("torch")
    values = np.random.default_rng(1).normal(size=500).astype(np.float32)
    values[:5] = 1 + 2.0**-8, 1 + 3 * 2.0**-8, np.nan, -np.inf, 0  # two ties
    want = torch.asarray(values).to(torch.bfloat16).to(torch.float32).numpy()
    np.testing.assert_array_equal(bounds.rounded(values, "bfloat16"), want)
    np.testing.assert_array_equal(bounds.rounded(values, "float16"), values.astype(np.float16).astype(np.float32))
    assert bounds.rounded(values, "float16").dtype == bounds.rounded(values, "bfloat16").dtype == np.float32


def test_the_roundings_to_a_half_type_come_on_top_of_those_of_float32():
    bound = parity.Bound(9, 1.0, stored=2)
    assert bounds.tolerance(bound, "float32") == pytest.approx(18 * 2.0**-24)
    assert bounds.tolerance(bound, "bfloat16") == pytest.approx(2 * 2.0**-8, rel=1e-3)
    assert bounds.tolerance(parity.EXACT, "float16") == 0


# ---- wrong results are found --------------------------------------------------------------------------------------


def plant(monkeypatch, backend, operator, spoil):
    """Make an engine of a backend wrong."""
    backend = load_backend(backend)
    (engine, *rest) = backend.engines[operator]

    def wrong(*arguments):
        return spoil(engine.function(*arguments))

    monkeypatch.setattr(backend, "engines", {**backend.engines, operator: (engine._replace(function=wrong), *rest)})


@pytest.mark.parametrize("size", [1e-4, 1e-5])
def test_a_planted_error_in_an_engine_is_found(monkeypatch, size):
    subject = Case("cuda-host", "cuda-host")
    skip_unless_available(subject)
    case = TABLE["avg_pool2d, 2x2"]
    (before, _) = parity.compare(case, subject, NUMPY)
    assert not before.problem
    plant(monkeypatch, "cuda-host", "avg_pool2d", lambda y: y * np.float32(1 + size))
    spoilt, other = parity.compare(case, subject, NUMPY)
    assert (spoilt.operator, other.operator) == ("avg_pool2d", "avg_pool2d_backward")
    assert "times what rounding explains" in spoilt.problem
    assert spoilt.of_largest == pytest.approx(size, rel=0.1)
    assert not other.problem
    assert not parity.is_ok([spoilt, other])
    assert "<-- out" in parity.table([spoilt, other])


def test_an_error_of_a_few_units_in_the_last_place_is_found_in_half_precision():
    """Averages of pixels have one rounding to float16, and the bound has room for two."""
    case = TABLE["avg_pool2d, 2x2"]
    bound = case.bounds(on_host(case.name, "float16"))["avg_pool2d", "y"]
    want = np.full(bound.scale.shape, 1.0)
    bound = bound._replace(scale=1.0)
    near, far = (want + units * 2.0**-11 for units in (1, 3))
    assert not _finding(case.name, ("avg_pool2d", "y"), near, want, bound, "float16").problem
    assert _finding(case.name, ("avg_pool2d", "y"), far, want, bound, "float16").problem


def test_one_bit_is_found_where_results_must_be_equal(monkeypatch):
    def one_bit(result):
        y, argmax = result
        y = np.array(y)
        y.flat[3] = np.nextafter(y.flat[3], np.inf)
        return y, argmax

    plant(monkeypatch, "numpy", "max_pool2d", one_bit)
    findings = parity.compare(TABLE["max_pool2d, 2x2"], NUMPY, Case("generic", "numpy", "generic"))
    (y,) = (finding for finding in findings if finding.result == "y")
    assert "they must be equal" in y.problem
    assert math.isinf(y.of_tolerance)
    assert "at index (0, 0, 0, 3)" in y.problem


def test_a_wrong_gradient_is_found_in_the_training_run(monkeypatch):
    """A hundredth of batch norm's dx lands on the wrong image; scaling it would be nothing to Adam."""
    subject = Case("cuda-host", "cuda-host")
    skip_unless_available(subject)
    plant(
        monkeypatch,
        "cuda-host",
        "batch_norm_relu_backward",
        lambda r: (r[0] + np.roll(r[0], 1, 0) * np.float32(0.01), *r[1:]),
    )
    (case,) = (case for case in TABLE.values() if case.name.startswith("training run"))
    findings = parity.compare(case, subject, NUMPY)
    assert not findings[0].problem  # the first loss sees no gradient
    assert any(finding.problem for finding in findings)


def test_an_operator_that_raises_is_a_finding(monkeypatch):
    def broken(result):
        raise RuntimeError("no such kernel")

    plant(monkeypatch, "numpy", "im2col", broken)
    (finding,) = parity.compare(TABLE["im2col, 3x3, padding 1"], NUMPY, Case("generic", "numpy", "generic"))
    assert finding.problem == "RuntimeError: no such kernel"
    assert "RuntimeError: no such kernel" in parity.table([finding])


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda y: y[:1], "shape"),
        (lambda y: np.where(np.arange(y.shape[-1]) == 1, np.nan, y), "got nan"),
        (lambda y: y.astype(np.int64), "values of kind 'i'"),
    ],
)
def test_shapes_kinds_and_nan(spoil, problem):
    case = TABLE["linear, a batch"]
    tolerances = case.bounds(host(case))
    for key, array in case.call(on_numpy(case)).items():
        finding = _finding(case.name, key, spoil(array), array, tolerances[key], "float32")
        assert problem in finding.problem


def on_numpy(case):
    return on_backend(case.name, "float32", load_backend("numpy"))


def test_nan_on_both_sides_is_no_difference():
    a = np.array([np.nan, np.inf, -np.inf, 1.0])
    finding = _finding("case", ("op", "y"), a, a.copy(), parity.EXACT, "float32")
    assert (finding.problem, finding.difference) == ("", 0.0)


def test_the_limit_of_the_largest_value_counts_besides_the_tolerance():
    finding = parity.Finding("case", "conv2d", "y", 1e-3, 2e-5, 0.5, False)
    assert not parity.is_ok([finding])
    assert parity.is_ok([finding], "float64")
    assert parity.is_ok([finding._replace(operator="training run")])


def test_the_table_fits_a_terminal():
    findings = [
        finding
        for name in ("adaptive_avg_pool2d, bins that overlap", "max_pool2d, 2x2", "im2col, 1x1, stride 3")
        for finding in parity.compare(TABLE[name], Case("generic", "numpy", "generic"), NUMPY)
    ]
    text = parity.table(findings)
    assert max(map(len, text.splitlines())) <= 80
    assert "bit-equal" in text
    assert "all within tolerance" in text
