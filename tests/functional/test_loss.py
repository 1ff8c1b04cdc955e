"""Losses against their definitions in float64 and PyTorch, on every backend; and what they say about bad labels."""

import math

import numpy as np
import pytest

from xpconv import functional as F
from xpconv.backends import BackendMismatchError, get_backend, load_backend, run
from xpconv.testing import LAYOUTS, check_gradients

INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


def problem(rng, count=6, classes=4):
    return rng.normal(0, 3, size=(count, classes)), rng.integers(0, classes, size=count)


def cross_entropy(scores, labels, smoothing=0.0):
    """From the definition: loss and gradient."""
    count, classes = scores.shape
    p = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    target = np.full((count, classes), smoothing / classes)
    target[np.arange(count), labels] += 1 - smoothing
    return -(target * np.log(p)).sum() / count, (p - target) / count


def hinge(scores, labels, margin):
    loss, gradient = 0.0, np.zeros(scores.shape)
    for i, label in enumerate(labels):
        for k in range(scores.shape[1]):
            excess = scores[i, k] - scores[i, label] + margin
            if k != label and excess > 0:
                loss += excess
                gradient[i, k] += 1
                gradient[i, label] -= 1
    return loss / len(labels), gradient / len(labels)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_softmax_cross_entropy(on, sparing, close, rng, smoothing):
    sparing(smoothing == 0.1)
    scores, labels = problem(rng)
    loss, gradient = cross_entropy(scores, labels, smoothing)
    for dtype in on.dtypes:
        got, dscores = F.softmax_cross_entropy(on.asarray(scores, dtype), on.asarray(labels), label_smoothing=smoothing)
        close(got, loss, dtype, 4)
        close(dscores, gradient, dtype, 2)


@pytest.mark.parametrize("margin", [1.0, 0, 2.5])
def test_multiclass_hinge(on, sparing, close, rng, margin):
    sparing(margin == 1)
    scores, labels = problem(rng)
    loss, gradient = hinge(scores, labels, margin)
    for dtype in on.dtypes:
        got, dscores = F.multiclass_hinge(on.asarray(scores, dtype), on.asarray(labels), margin=margin)
        close(got, loss, dtype, 4)
        close(dscores, gradient, dtype, 2)


@pytest.mark.parametrize("shape", [(6,), (3, 4), (2, 3, 2, 2), ()])
def test_mse(on, close, sparing, rng, shape):
    sparing(shape == (3, 4))
    pred, target = rng.normal(size=shape), rng.normal(size=shape)
    for dtype in on.dtypes:
        loss, dpred = F.mse(on.asarray(pred, dtype), on.asarray(target, dtype))
        close(loss, ((pred - target) ** 2).mean(), dtype, 2)
        close(dpred, 2 * (pred - target) / pred.size, dtype, 2)


def test_gradients(on, rng):
    if "float64" not in on.dtypes:
        pytest.skip("gradients are checked in float64")
    scores, labels = problem(rng)
    labels = on.asarray(labels)
    target = on.asarray(rng.normal(size=scores.shape))
    for loss in (
        lambda s: F.softmax_cross_entropy(s, labels),
        lambda s: F.softmax_cross_entropy(s, labels, label_smoothing=0.2),
        lambda s: F.multiclass_hinge(s, labels),
        lambda s: F.mse(s, target),
    ):
        check_gradients(loss, lambda dy, dscores: dscores * dy, [on.asarray(scores)])


@pytest.mark.parametrize("dtype", INTEGERS)
def test_labels_of_any_integer_dtype(on, close, sparing, rng, dtype):
    sparing(False)
    scores, labels = problem(rng, classes=130)
    labels %= 128
    loss, gradient = cross_entropy(scores, labels)
    got, dscores = F.softmax_cross_entropy(on.asarray(scores, "float32"), on.asarray(labels, dtype))
    close(got, loss, "float32", 4)
    close(dscores, gradient, "float32", 2)


def test_more_classes_than_the_labels_can_name(on, sparing, close, rng):
    """Column 256 must not be taken for column 0 of a byte."""
    sparing(False)
    scores, labels = rng.normal(size=(5, 600)), np.asarray([0, 3, 88, 127, 44])
    loss, gradient = cross_entropy(scores, labels)
    for dtype in ("int8", "uint8"):
        got, dscores = F.softmax_cross_entropy(on.asarray(scores, "float32"), on.asarray(labels, dtype))
        close(got, loss, "float32", 4)
        close(dscores, gradient, "float32", 2)


def test_large_scores(on, sparing):
    """±1e4 in float32: the probabilities are 0 and 1, the losses the differences of the scores."""
    sparing(False)
    scores = on.asarray([[1e4, -1e4, 0.0], [-1e4, -1e4, 1e4], [1e4, 1e4, -1e4]], "float32")
    labels = on.asarray(np.asarray([0, 0, 1]))
    loss, dscores = F.softmax_cross_entropy(scores, labels)
    np.testing.assert_allclose(on.to_numpy(loss), (0 + 2e4 + math.log(2)) / 3, rtol=1e-6)
    want = np.asarray([[0, 0, 0], [-1, 0, 1], [0.5, -0.5, 0]]) / 3
    np.testing.assert_allclose(on.to_numpy(dscores), want, rtol=1e-6, atol=1e-12)
    smooth, dscores = F.softmax_cross_entropy(scores, labels, label_smoothing=0.3)
    assert np.isfinite(on.to_numpy(smooth))
    assert np.isfinite(on.to_numpy(dscores)).all()
    loss, _ = F.multiclass_hinge(scores, labels)
    np.testing.assert_allclose(on.to_numpy(loss), (0 + 1 + 20001 + 1) / 3, rtol=1e-6)


def test_a_score_of_minus_infinity_excludes_its_class(on, sparing):
    sparing(False)
    scores = np.asarray([[1.0, 2.0, -math.inf], [0.5, -math.inf, 0.1]])
    loss, dscores = F.softmax_cross_entropy(on.asarray(scores, "float32"), on.asarray(np.asarray([0, 2])))
    want, gradient = cross_entropy(np.asarray([[1.0, 2.0], [0.5, 0.1]]), np.asarray([0, 1]))
    np.testing.assert_allclose(on.to_numpy(loss), want, rtol=1e-6)
    gradient = np.stack([[*gradient[0], 0], [gradient[1, 0], 0, gradient[1, 1]]])
    np.testing.assert_allclose(on.to_numpy(dscores), gradient, rtol=1e-5, atol=1e-7)


def test_nan_scores_give_nan(on, sparing):
    sparing(False)
    scores = np.asarray([[1.0, math.nan], [0.0, 1.0]])
    labels = on.asarray(np.asarray([0, 1]))
    for loss_of in (F.softmax_cross_entropy, F.multiclass_hinge):
        loss, dscores = loss_of(on.asarray(scores, "float32"), labels)
        assert np.isnan(on.to_numpy(loss))
        assert np.isfinite(on.to_numpy(dscores)[1]).all()
    _, dscores = F.softmax_cross_entropy(on.asarray(scores, "float32"), labels)
    assert np.isnan(on.to_numpy(dscores)[0]).all()
    loss, _ = F.mse(on.asarray(scores, "float32"), on.asarray(np.zeros((2, 2)), "float32"))
    assert np.isnan(on.to_numpy(loss))


def test_perfect_and_single_class(on, sparing):
    sparing(False)
    loss, dscores = F.softmax_cross_entropy(on.asarray(np.ones((3, 1)), "float32"), on.asarray(np.zeros(3, dtype=int)))
    assert on.to_numpy(loss) == 0
    assert not on.to_numpy(dscores).any()
    loss, dscores = F.multiclass_hinge(on.asarray([[5.0, 0.0]], "float32"), on.asarray(np.asarray([0])))
    assert on.to_numpy(loss) == 0
    assert not on.to_numpy(dscores).any()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_memory_layouts(rng, layout):
    scores, labels = problem(rng)
    lay = LAYOUTS[layout]
    for loss_of, other in ((F.softmax_cross_entropy, labels), (F.multiclass_hinge, labels), (F.mse, scores * 2)):
        want, gradient = loss_of(scores, other)
        got, dscores = loss_of(lay(scores), lay(other))
        np.testing.assert_allclose(got, want, rtol=1e-14)
        np.testing.assert_allclose(dscores, gradient, rtol=1e-13, atol=1e-16)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_agrees_with_torch(rng, smoothing):
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    scores, labels = problem(rng, 9, 5)
    leaf, target = torch.tensor(scores, requires_grad=True), torch.tensor(labels)
    want = functional.cross_entropy(leaf, target, label_smoothing=smoothing)
    loss, dscores = F.softmax_cross_entropy(scores, labels, label_smoothing=smoothing)
    np.testing.assert_allclose(loss, want.item(), rtol=1e-14)
    np.testing.assert_allclose(dscores, torch.autograd.grad(want, leaf)[0].numpy(), rtol=1e-12, atol=1e-16)
    want = functional.multi_margin_loss(leaf, target, margin=1.5) * 5  # which divides by the number of classes
    loss, dscores = F.multiclass_hinge(scores, labels, margin=1.5)
    np.testing.assert_allclose(loss, want.item(), rtol=1e-14)
    np.testing.assert_allclose(dscores, torch.autograd.grad(want, leaf)[0].numpy(), rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_adds_up_in_float32(rng, dtype):
    torch = pytest.importorskip("torch")
    scores = torch.tensor(rng.normal(0, 3, size=(50, 20))).to(getattr(torch, dtype))
    labels = torch.tensor(rng.integers(0, 20, size=50))
    exact = scores.double().numpy()
    unit = torch.finfo(scores.dtype).eps
    for got, want in (
        (F.softmax_cross_entropy(scores, labels), cross_entropy(exact, labels.numpy())),
        (F.multiclass_hinge(scores, labels), hinge(exact, labels.numpy(), 1.0)),
    ):
        assert got[0].dtype == got[1].dtype == scores.dtype
        np.testing.assert_allclose(float(got[0]), want[0], rtol=unit)
        np.testing.assert_allclose(got[1].double().numpy(), want[1], rtol=unit, atol=1e-6)
    # the sum of the squares, 90000, is beyond float16
    loss, _ = F.mse(torch.full((90000,), 1.0, dtype=scores.dtype), torch.zeros(90000, dtype=scores.dtype))
    assert float(loss) == 1


LOSSES = [F.softmax_cross_entropy, F.multiclass_hinge]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        ([0, 4, 1], ValueError, "labels: expected integers from 0 to 3, the columns of scores, got 4 at index 1"),
        ([0, 1, -1], ValueError, "labels: expected integers from 0 to 3, the columns of scores, got -1 at index 2"),
        ([0.0, 1.0, 2.0], TypeError, "labels: expected integers from 0 to 3, got float64$"),
        (
            [0.0, math.nan, math.nan],
            TypeError,
            "labels: expected integers from 0 to 3, got float64 with 2 NaN, the first at index 1",
        ),
        ([True, False, True], TypeError, "labels: expected integers from 0 to 3, got bool"),
        ([0, 1], ValueError, r"labels: expected shape \(3\) \(N,\), one for each row of scores, got \(2,\)"),
        ([[0], [1], [2]], ValueError, "labels: expected 1 dimensions"),
    ],
)
def test_bad_labels(loss, labels, error, message):
    with pytest.raises(error, match=message):
        loss(np.ones((3, 4)), np.asarray(labels))


def test_bad_labels_on_every_host_backend(on):
    scores = on.asarray(np.ones((3, 4)), "float32")
    labels = on.asarray(np.asarray([1, 2, 9]))
    if get_backend().on_host:
        for loss in LOSSES:
            with pytest.raises(ValueError, match=r"labels: expected integers from 0 to 3, .* got 9 at index 2"):
                loss(scores, labels)
    else:
        for loss in LOSSES:  # not read, which would stall the device, but not silently wrong either
            value, dscores = loss(scores, labels)
            assert np.isnan(on.to_numpy(value))
            np.testing.assert_array_equal(np.isnan(on.to_numpy(dscores)).any(axis=1), [False, False, True])


def test_operators_make_invalid_labels_nan(on, sparing):
    """What the check of the labels cannot see on a device, the operator shows."""
    sparing(False)
    for operator, argument in (("softmax_cross_entropy", 0.0), ("multiclass_hinge", 1.0)):
        for bad in (-1, 4):
            labels = on.asarray(np.asarray([1, bad]))
            scores = on.asarray(np.ones((2, 4)), "float32")
            loss, dscores = run(get_backend(), operator, scores, labels, argument)
            assert np.isnan(on.to_numpy(loss))
            np.testing.assert_array_equal(np.isnan(on.to_numpy(dscores)).all(axis=1), [False, True])


SCORES, LABELS = np.ones((3, 4)), np.zeros(3, dtype=int)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: F.softmax_cross_entropy(SCORES[:0], LABELS[:0]),
            ValueError,
            r"scores: the mean over an empty batch is undefined, got shape \(0, 4\)",
        ),
        (lambda: F.multiclass_hinge(SCORES[:0], LABELS[:0]), ValueError, "scores: the mean over an empty batch"),
        (lambda: F.mse(SCORES[:0], SCORES[:0]), ValueError, "pred: the mean over an empty array is undefined"),
        (lambda: F.softmax_cross_entropy(SCORES[:, :0], LABELS), ValueError, "scores: expected at least one class"),
        (lambda: F.softmax_cross_entropy(SCORES[0], LABELS), ValueError, r"scores: expected 2 dimensions \(N, K\)"),
        (lambda: F.softmax_cross_entropy(SCORES.astype(int), LABELS), TypeError, "scores: expected float32 or float64"),
        (lambda: F.softmax_cross_entropy(SCORES, [0, 1, 2]), TypeError, "labels: expected an array, got builtins.list"),
        (lambda: F.softmax_cross_entropy(SCORES, None), TypeError, r"labels: expected an array \(N,\)"),
        (
            lambda: F.softmax_cross_entropy(SCORES, LABELS, label_smoothing=1.5),
            ValueError,
            "label_smoothing: expected a number between 0 and 1, got 1.5",
        ),
        (
            lambda: F.multiclass_hinge(SCORES, LABELS, margin=math.nan),
            ValueError,
            "margin: expected a finite number, got nan",
        ),
        (lambda: F.mse(SCORES, SCORES[:1]), ValueError, r"target: expected shape \(3, 4\) like pred, got \(1, 4\)"),
        (lambda: F.mse(SCORES, SCORES.astype("float32")), TypeError, "target: expected float64 like pred, got float32"),
        (lambda: F.mse(SCORES, None), TypeError, "target: expected an array like pred, got None"),
        (lambda: F.mse(None, SCORES), TypeError, "pred: expected an array, got None"),
    ],
)
def test_bad_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_mixed_backends():
    pytest.importorskip("array_api_strict")
    labels = load_backend("array_api_strict").asarray(LABELS)
    with pytest.raises(BackendMismatchError, match="labels is an array of array_api_strict but scores is one of numpy"):
        F.softmax_cross_entropy(SCORES, labels)


def test_inside_jit(rng):
    """Traced labels cannot be checked, and are not."""
    jax = pytest.importorskip("jax")
    scores, labels = problem(rng)
    scores = scores.astype("float32")
    loss, dscores = jax.jit(F.softmax_cross_entropy)(jax.numpy.asarray(scores), jax.numpy.asarray(labels))
    want, gradient = cross_entropy(scores.astype("float64"), labels)
    np.testing.assert_allclose(loss, want, rtol=1e-5)
    np.testing.assert_allclose(dscores, gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("bad", [0, 1])
def test_a_nan_score_gives_a_nan_row_of_the_hinge_gradient(on, bad):
    scores = np.array([[1.0, 3.0, 0.0], [1.0, 3.0, 0.0]], dtype="float32")
    scores[0, bad] = np.nan
    loss, dscores = F.multiclass_hinge(on.asarray(scores), on.asarray(np.array([0, 0])))
    assert np.isnan(on.to_numpy(loss))
    np.testing.assert_array_equal(on.to_numpy(dscores), [[np.nan] * 3, [-0.5, 0.5, 0]])


# ---- class weights and probabilities ------------------------------------------------------------------------


def _soft_problem(rng, kind):
    """Scores (7, 5), and labels or rows of probabilities of one class, some of which are exactly 0."""
    scores, labels = rng.normal(0, 3, (7, 5)), rng.integers(0, 5, 7)
    if kind == "labels":
        return scores, labels
    rows = rng.dirichlet(np.ones(5), 7) * (rng.random((7, 5)) < 0.7)
    rows[0] = np.eye(5)[2]
    return scores, rows


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", ["labels", "rows"])
def test_weights_and_probabilities_are_those_of_pytorch(on, sparing, close, rng, kind, weighted, smoothing):
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle")
    sparing(kind == "rows" and weighted and smoothing)
    scores, labels = _soft_problem(rng, kind)
    weight = np.array([0.5, 2.0, 0.0, 1.0, 3.0]) if weighted else None
    wanted = torch.tensor(scores, requires_grad=True)
    loss = torch.nn.functional.cross_entropy(
        wanted,
        torch.tensor(labels),
        weight=None if weight is None else torch.tensor(weight),
        label_smoothing=smoothing,
    )
    loss.backward()
    for dtype in on.dtypes:
        targets = on.asarray(labels) if kind == "labels" else on.asarray(labels, dtype)
        got, dscores = F.softmax_cross_entropy(
            on.asarray(scores, dtype),
            targets,
            label_smoothing=smoothing,
            weight=None if weight is None else on.asarray(weight, dtype),
        )
        assert got.dtype == dscores.dtype == on.asarray(scores, dtype).dtype
        close(got, loss.item(), dtype, 4)
        close(dscores, wanted.grad.numpy(), dtype, 4)


def test_one_hot_rows_are_labels(rng):
    scores, labels = problem(rng)
    want, gradient = F.softmax_cross_entropy(scores, labels, label_smoothing=0.1)
    got, dscores = F.softmax_cross_entropy(scores, np.eye(4)[labels].astype(np.float32), label_smoothing=0.1)
    np.testing.assert_allclose(got, want, rtol=1e-14)
    np.testing.assert_allclose(dscores, gradient, rtol=1e-12, atol=1e-15)


def test_a_class_that_is_excluded_has_no_part_in_a_row():
    scores = np.array([[0.0, -np.inf, 1.0]])
    loss, dscores = F.softmax_cross_entropy(scores, np.array([[0.5, 0.0, 0.5]]))
    p = 1 / (1 + np.e)
    assert loss == pytest.approx(-0.5 * (np.log(p) + np.log(1 - p)))
    np.testing.assert_allclose(dscores, [[p - 0.5, 0, 0.5 - p]])


def test_weights_of_labels_out_of_range_make_their_row_nan():
    operands = np.zeros((3, 2)), np.array([0, 5, 1]), np.array([1.0, 2.0])
    loss, dscores = run(get_backend(), "weighted_cross_entropy", *operands, 0.0)
    assert np.isnan(loss)
    assert np.isnan(dscores).any(axis=1).tolist() == [False, True, False]


def test_a_list_of_weights(rng):
    scores, labels = problem(rng)
    weight = [1.0, 2, 0.5, 0]
    got = F.softmax_cross_entropy(scores, labels, weight=weight)
    want = F.softmax_cross_entropy(scores, labels, weight=np.array(weight))
    assert got[0] == want[0]
    np.testing.assert_array_equal(got[1], want[1])


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"weight": np.ones(3)}, ValueError, r"weight: expected shape \(2\) \(K,\), one for each class, got \(3,\)"),
        ({"weight": np.ones(2, int)}, TypeError, "weight: expected floating-point weights of the classes, got int64"),
        ({"weight": [1.0, -1.0]}, ValueError, r"weight: expected finite numbers of at least 0, got \[1.0, -1.0\]"),
        ({"weight": [1.0, math.nan]}, ValueError, "weight: expected finite"),
        ({"weight": 3.0}, TypeError, "weight: expected an array"),
        (
            {"labels": np.ones((3, 3))},
            ValueError,
            r"labels: expected shape \(3, 2\) \(N, K\) like scores, got \(3, 3\)",
        ),
        ({"labels": np.ones((3, 2), int)}, ValueError, r"labels: expected 1 dimensions \(N,\), one for each row"),
        ({"labels": np.array([[1, 0], [0.5, 0.5], [1.5, -0.5]])}, ValueError, r"at least 0, got .* in row 2"),
        ({"labels": np.array([[1, 0], [np.nan, 0.5], [1, 0]])}, ValueError, r"at least 0, got \[nan, 0.5\] in row 1"),
    ],
)
def test_wrong_weights_and_rows(options, error, match):
    labels = options.pop("labels", np.array([0, 1, 0]))
    with pytest.raises(error, match=match):
        F.softmax_cross_entropy(np.zeros((3, 2)), labels, **options)
