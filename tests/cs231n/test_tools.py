"""Numerical gradients, data and pictures."""

import pickle

import numpy as np
import pytest

from xpconv.backends import backend_of
from xpconv.cs231n import gradient_check
from xpconv.cs231n.data_utils import get_CIFAR10_data, load_CIFAR10
from xpconv.cs231n.gradient_check import (
    eval_numerical_gradient,
    eval_numerical_gradient_array,
    grad_check_sparse,
    rel_error,
)
from xpconv.cs231n.vis_utils import visualize_grid
from xpconv.data import DataError

# ---- gradients --------------------------------------------------------------------------------------------------


def test_numerical_gradients(float64):
    values = np.array([[1.0, -2.0], [0.5, 3.0]])
    x, weights = float64.asarray(values), float64.asarray(np.array([[1.0, 2.0], [3.0, 4.0]]))
    xp = backend_of(x=x).xp
    gradient = eval_numerical_gradient(lambda x: xp.sum(x * x * weights), x, verbose=False)
    np.testing.assert_allclose(float64.to_numpy(gradient), 2 * values * [[1, 2], [3, 4]], rtol=1e-8)
    gradient = eval_numerical_gradient_array(lambda x: x * x, x, weights)
    np.testing.assert_allclose(float64.to_numpy(gradient), 2 * values * [[1, 2], [3, 4]], rtol=1e-8)
    np.testing.assert_array_equal(float64.to_numpy(x), values)  # as it was


def test_the_array_itself_is_moved(capsys):
    x = np.array([1.0, 2.0])
    gradient = eval_numerical_gradient(lambda _: float(np.sum(x**3)), x)  # reads x, not its argument
    np.testing.assert_allclose(gradient, [3, 12], rtol=1e-8)
    assert capsys.readouterr().out.splitlines()[1].startswith("(1,) 12.0")
    # a function whose result is a view of what is moved
    np.testing.assert_allclose(eval_numerical_gradient_array(lambda x: x[::-1], x, np.array([5.0, 7.0])), [7, 5])


def test_x_is_restored_after_an_error():
    x = np.array([1.0, 2.0])
    with pytest.raises(ZeroDivisionError):
        eval_numerical_gradient(lambda _: 1 / 0, x)
    np.testing.assert_array_equal(x, [1, 2])


def test_integers_cannot_move_by_a_step():
    with pytest.raises(TypeError, match=r"x: expected floating-point numbers, .* got int64"):
        eval_numerical_gradient(lambda x: float(np.sum(x**2)), np.arange(3), verbose=False)


def test_relative_error_of_unsigned_integers():
    assert rel_error(np.array([1], np.uint8), np.array([2], np.uint8)) == pytest.approx(1 / 3)


def test_grad_check_sparse_prints_both(capsys, monkeypatch):
    monkeypatch.setattr(gradient_check.random, "randrange", lambda length: length - 1)
    x = np.array([[1.0, 2.0, 3.0]])
    grad_check_sparse(lambda x: float(np.sum(x**2)), x, 2 * x, num_checks=2)
    grad_check_sparse(lambda x: float(np.sum(x**2)), x, 4 * x, num_checks=1)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("numerical: 6.000000 analytic: 6.000000, relative error: ")
    assert float(lines[0].rpartition(" ")[2]) < 1e-9
    assert float(lines[2].rpartition(" ")[2]) == pytest.approx(1 / 3)


def test_rel_error(on):
    assert rel_error(on.asarray(np.array([1.0, 2.0], "float32")), np.array([1.0, 3.0])) == pytest.approx(0.2)
    assert rel_error(0.0, 1e-9) == pytest.approx(0.1)  # never divided by less than 1e-8
    assert rel_error(3, 3) == 0


# ---- CIFAR-10 ---------------------------------------------------------------------------------------------------


@pytest.fixture
def cifar(tmp_path, rng):
    """Files of 4 images each in the course's layout; returns all images (N, 3, 32, 32) and labels, test set last."""
    pixels = rng.integers(256, size=(6, 4, 3072), dtype=np.uint8)
    labels = rng.integers(10, size=(6, 4))
    folder = tmp_path / "cs231n/datasets/cifar-10-batches-py"
    folder.mkdir(parents=True)
    names = [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]
    for name, part, classes in zip(names, pixels, labels, strict=True):
        (folder / name).write_bytes(pickle.dumps({b"data": part, b"labels": classes.tolist()}, protocol=2))
    return folder, pixels.reshape(24, 3, 32, 32).astype(float), labels.reshape(24)


def test_get_cifar10_data(cifar, on):
    folder, images, labels = cifar
    dtype = on.dtypes[-1]
    data = get_CIFAR10_data(15, 4, 3, cifar10_dir=folder, dtype=dtype)
    mean = images[:15].mean(axis=0)
    for name, part in {"train": slice(0, 15), "val": slice(15, 19), "test": slice(20, 23)}.items():
        X, y = on.to_numpy(data[f"X_{name}"]), on.to_numpy(data[f"y_{name}"])
        assert X.dtype == dtype
        np.testing.assert_allclose(X, images[part] - mean, rtol=0, atol=1e-12 if dtype == "float64" else 1e-4)
        np.testing.assert_array_equal(y, labels[part])
    plain = get_CIFAR10_data(15, 4, 3, subtract_mean=False, cifar10_dir=folder, dtype=dtype)
    np.testing.assert_array_equal(on.to_numpy(plain["X_train"]), images[:15])


def test_the_folder_of_the_course_is_found(cifar, monkeypatch, tmp_path):
    folder, images, labels = cifar
    monkeypatch.chdir(tmp_path)
    np.testing.assert_array_equal(get_CIFAR10_data(10, 5, 1)["y_val"], labels[10:15])
    Xtr, Ytr, Xte, Yte = load_CIFAR10(folder)
    np.testing.assert_array_equal(Xtr, images[:20].transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(Xte, images[20:].transpose(0, 2, 3, 1))
    assert (Xtr.dtype, Ytr.shape, Yte.shape) == (np.float64, (20,), (4,))
    monkeypatch.chdir(folder.parent.parent.parent / "cs231n")
    assert get_CIFAR10_data(10, 5, 1)["X_test"].shape == (1, 3, 32, 32)
    monkeypatch.chdir(folder)
    with pytest.raises(DataError, match=r"get_CIFAR10_data\(cifar10_dir=\.\.\.\)"):
        get_CIFAR10_data()


def test_a_folder_that_is_not_there(tmp_path):
    for read in (load_CIFAR10, lambda path: get_CIFAR10_data(cifar10_dir=path)):
        with pytest.raises(DataError, match="nowhere: not found; expected the folder cifar-10-batches-py"):
            read(tmp_path / "nowhere")


def test_more_images_than_there_are(cifar):
    with pytest.raises(ValueError, match=r"num_training 49000 \+ num_validation 1000: the training set has 20 images"):
        get_CIFAR10_data(cifar10_dir=cifar[0])
    with pytest.raises(ValueError, match="num_test 1000: the test set has 4 images"):
        get_CIFAR10_data(10, 5, cifar10_dir=cifar[0])


def test_pickled_code_does_not_run(cifar):
    (cifar[0] / "data_batch_2").write_bytes(pickle.dumps({b"data": print}))
    with pytest.raises(DataError, match=r"refused builtins\.print"):
        get_CIFAR10_data(1, 1, 1, cifar10_dir=cifar[0])


# ---- pictures ---------------------------------------------------------------------------------------------------


def test_visualize_grid(on):
    images = np.arange(3 * 2 * 4 * 1, dtype="float32").reshape(3, 2, 4, 1)
    images[1] = 7  # of one value
    grid = visualize_grid(on.asarray(images), ubound=70.0, padding=1)
    assert type(grid) is np.ndarray
    assert grid.shape == (5, 9, 1)
    ramp = np.arange(8).reshape(2, 4) * 10
    np.testing.assert_allclose(grid[:2, :4, 0], ramp, rtol=1e-6)
    np.testing.assert_allclose(grid[3:, :4, 0], ramp, rtol=1e-6)
    grid[:2, :4] = grid[3:, :4] = 0
    assert not grid.any()
    with pytest.raises(ValueError, match=r"Xs: expected 4 dimensions \(N, H, W, C\), got shape \(2, 3\)"):
        visualize_grid(np.ones((2, 3)))
