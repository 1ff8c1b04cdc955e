"""Networks and the Solver: training on every backend, histories, the same run everywhere, errors."""

import numpy as np
import pytest

import xpconv
from xpconv import BackendMismatchError
from xpconv.cs231n import optim
from xpconv.cs231n.classifiers import FullyConnectedNet, ThreeLayerConvNet, TwoLayerNet
from xpconv.cs231n.solver import Solver

# ruff: noqa: NPY002 - the course draws its numbers from NumPy's global generator


def images(count=50, shape=(3, 4, 4), seed=0):
    """Random images with random labels: to be learned by heart."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((count, *shape)).astype("float32"), rng.integers(10, size=count)


def as_data(on, X, y):
    X, y = on.asarray(X), on.asarray(y)
    return {"X_train": X, "y_train": y, "X_val": X[:10, ...], "y_val": y[:10]}


@pytest.fixture
def small(on):
    """``small(**arguments)``: a Solver with a small net, seeded."""

    def make(**arguments):
        np.random.seed(1)
        net = TwoLayerNet(input_dim=48, hidden_dim=20, weight_scale=0.1, dtype=np.float32)
        return Solver(net, as_data(on, *images()), **{"verbose": False, "batch_size": 25, **arguments})

    return make


def test_a_fully_connected_net_learns_fifty_images_by_heart(on):
    if on.id not in ("numpy", "torch", "strict", "cuda-host"):
        pytest.skip("some backends are enough")
    np.random.seed(231)
    net = FullyConnectedNet([30, 30], input_dim=48, weight_scale=0.1, normalization="batchnorm")
    solver = Solver(
        net, as_data(on, *images()), update_rule="adam", optim_config={"learning_rate": 1e-2}, num_epochs=25,
        batch_size=25, verbose=False,
    )  # fmt: skip
    solver.train()
    assert len(solver.loss_history) == 50
    assert len(solver.train_acc_history) == len(solver.val_acc_history) == 26  # after the first step, and every epoch
    assert max(solver.train_acc_history) >= 0.98
    assert solver.best_val_acc == max(solver.val_acc_history)
    assert all(on.to_numpy(w).dtype == "float32" for w in net.params.values())


def test_a_convolutional_net_learns_fifty_images_by_heart():
    np.random.seed(231)
    X, y = images(shape=(3, 8, 8))
    net = ThreeLayerConvNet((3, 8, 8), num_filters=8, filter_size=3, hidden_dim=40, weight_scale=0.1)
    data = {"X_train": X, "y_train": y, "X_val": X, "y_val": y}
    solver = Solver(net, data, update_rule="adam", optim_config={"learning_rate": 5e-3}, num_epochs=50, batch_size=25,
                    verbose=False)  # fmt: skip
    solver.train()
    assert solver.best_val_acc >= 0.98
    assert solver.check_accuracy(X, y) == solver.best_val_acc  # the net has the best parameters


def test_one_seed_gives_one_run_on_every_backend(small, on):
    if on.backend == "jax":
        pytest.skip("JAX compiles for seconds; it has the functions' own tests")
    solver = small(update_rule="sgd_momentum", optim_config={"learning_rate": 1e-2}, lr_decay=0.5, num_epochs=2)
    solver.train()
    with xpconv.use_backend("numpy"):
        X, y = images()
        np.random.seed(1)
        net = TwoLayerNet(input_dim=48, hidden_dim=20, weight_scale=0.1, dtype=np.float32)
        other = Solver(
            net, {"X_train": X, "y_train": y, "X_val": X[:10], "y_val": y[:10]}, update_rule="sgd_momentum",
            optim_config={"learning_rate": 1e-2}, lr_decay=0.5, num_epochs=2, batch_size=25, verbose=False,
        )  # fmt: skip
        other.train()
    np.testing.assert_allclose(solver.loss_history, other.loss_history, rtol=1e-4)
    assert solver.val_acc_history == other.val_acc_history
    assert all(config["learning_rate"] == pytest.approx(1e-2 * 0.25) for config in solver.optim_configs.values())


def test_what_is_printed(small, capsys, on):
    if on.id != "numpy":
        pytest.skip("the same everywhere")
    small(verbose=True, print_every=3, num_epochs=2, num_train_samples=20).train()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" loss")[0].split(" train")[0] for line in lines] == [
        "(Iteration 1 / 4)", "(Epoch 0 / 2)", "(Epoch 1 / 2)", "(Iteration 4 / 4)", "(Epoch 2 / 2)",
    ]  # fmt: skip


def test_the_loss_falls_by_a_rule_of_ones_own():
    def half_step(w, dw, config):
        calls.append(config)
        return w - 0.25 * dw, config

    calls = []
    X, y = images()
    np.random.seed(2)
    net = TwoLayerNet(input_dim=48, hidden_dim=20, weight_scale=0.1)
    data = {"X_train": X, "y_train": y, "X_val": X, "y_val": y}
    solver = Solver(net, data, update_rule=half_step, lr_decay=0.5, batch_size=50, verbose=False)
    solver.train()
    assert len(calls) == 10 * 4
    assert solver.loss_history[-1] < solver.loss_history[0]


def test_checkpoints_are_files_of_plain_arrays(small, tmp_path, on):
    if on.id not in ("numpy", "torch", "strict-device1"):
        pytest.skip("some backends are enough")
    solver = small(num_epochs=2, checkpoint_name=tmp_path / "net")
    solver.train()
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"net_epoch_{n}.npz" for n in range(3)]
    with np.load(tmp_path / "net_epoch_2.npz", allow_pickle=False) as file:
        assert file["epoch"] == 2
        np.testing.assert_array_equal(file["loss_history"], solver.loss_history)
        assert {name for name in file if name.startswith("params/")} == {f"params/{n}" for n in solver.model.params}
        assert file["params/W1"].dtype == "float32"


def test_a_net_that_is_never_right_keeps_its_parameters():
    class Wrong:
        def __init__(self):
            self.params = {"w": np.zeros(3)}

        def loss(self, X, y=None):
            scores = np.tile([1.0, 0.0], (len(X), 1))
            return scores if y is None else (1.0, {"w": np.ones(3)})

    data = {name: np.ones((4, 2)) for name in ("X_train", "X_val")}
    solver = Solver(Wrong(), {**data, "y_train": np.ones(4, int), "y_val": np.ones(4, int)}, verbose=False)
    solver.train()
    assert solver.val_acc_history == [0.0] * 10
    assert solver.model.params["w"].shape == (3,)


def test_accuracy_of_a_part():
    class Counts:
        params = {}  # noqa: RUF012

        def loss(self, X):
            sizes.append(len(X))
            return X

    sizes = []
    scores = np.eye(5)[np.arange(250) % 5]
    data = {"X_train": scores, "y_train": np.zeros(250, int), "X_val": scores, "y_val": np.zeros(250, int)}
    solver = Solver(Counts(), data, verbose=False)
    assert solver.check_accuracy(scores, np.zeros(250, int)) == 0.2
    assert sizes == [100, 100, 50]
    sizes.clear()
    assert 0 < solver.check_accuracy(scores, np.zeros(250, int), num_samples=200, batch_size=150) < 0.4
    assert sizes == [150, 50]
    with pytest.raises(ValueError, match=r"y \(N,\), .* got \(250, 5\) and \(250, 1\)"):
        solver.check_accuracy(scores, np.zeros((250, 1), int))  # compared with each other they are 250 x 250
    with pytest.raises(ValueError, match="N at least 1"):
        solver.check_accuracy(scores[:0], np.zeros(0, int))
    with pytest.raises(ValueError, match="num_val_samples: must be at least 1, got 0"):
        Solver(Counts(), data, num_val_samples=0)


@pytest.mark.parametrize("normalization", [None, "batchnorm", "layernorm"])
def test_the_mode_follows_from_labels(normalization):
    np.random.seed(0)
    net = FullyConnectedNet([20], 48, normalization=normalization, dropout_keep_ratio=0.5, weight_scale=0.1)
    X, y = images(6)
    first, second = net.loss(X), net.loss(X)
    np.testing.assert_array_equal(first, second)  # no dropout in test mode
    assert net.loss(X, y)[0] != net.loss(X, y)[0]  # another mask
    assert first.dtype == np.float32
    gradients = net.loss(X.astype("float64"), y)[1]  # inputs of another dtype are converted
    assert {g.dtype for g in gradients.values()} == {np.dtype("float32")}
    assert set(net.params) == set(gradients)
    assert len(net.params) == (4 if normalization is None else 6)


def test_settings_that_are_numbers_of_numpy_leave_float32_as_it_is():
    np.random.seed(0)
    X, y = images(6)
    net = FullyConnectedNet([20], 48, reg=np.float64(0.1), weight_scale=np.float64(0.1))
    _, grads = net.loss(X, y)
    for name, w in net.params.items():
        for rule in optim.__all__:
            next_w, config = getattr(optim, rule)(w, grads[name], {"learning_rate": np.float64(0.1)})
            assert next_w.dtype == np.float32
            assert all(a.dtype == np.float32 for a in config.values() if isinstance(a, np.ndarray))


# ---- bad input --------------------------------------------------------------------------------------------------


def test_unknown_arguments_and_rules_are_named():
    X, y = images(4)
    data = {"X_train": X, "y_train": y, "X_val": X, "y_val": y}
    net = TwoLayerNet(48, 4)
    with pytest.raises(ValueError, match="Unrecognized arguments 'batchsize', 'epochs'"):
        Solver(net, data, batchsize=3, epochs=2)
    with pytest.raises(ValueError, match="Invalid update_rule 'momentum', expected adam, rmsprop, sgd, sgd_momentum"):
        Solver(net, data, update_rule="momentum")
    with pytest.raises(ValueError, match="batch_size: must be at least 1, got 0"):
        Solver(net, data, batch_size=0)
    with pytest.raises(KeyError, match="y_val"):
        Solver(net, {"X_train": X, "y_train": y, "X_val": X})
    with pytest.raises(ValueError, match=r"dw: expected the shape of w, \(2,\), got \(3,\)"):
        optim.sgd(np.ones(2), np.ones(3))


def test_labels_of_another_number_are_found_before_training(on):
    data = as_data(on, *images(10, (2,)))
    net = TwoLayerNet(2, 3, dtype=np.float32)
    for name in ("train", "val"):
        wrong = {**data, f"y_{name}": data[f"y_{name}"][:9]}
        with pytest.raises(ValueError, match=rf"X_{name} \(N, ...\) and y_{name} .* got \(10, 2\) and \(9,\)"):
            Solver(net, wrong)
    with pytest.raises(ValueError, match=r"X_train .* N at least 1, got \(0, 2\) and \(0,\)"):
        Solver(net, {**data, "X_train": data["X_train"][:0, ...], "y_train": data["y_train"][:0]})
    with pytest.raises(TypeError, match="y_val"):
        Solver(net, {**data, "y_val": [0] * 10})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"normalization": "batch"}, "normalization: .*got 'batch'"),
        ({"dropout_keep_ratio": 1.5}, r"dropout_keep_ratio: expected a probability in \(0, 1\], got 1.5"),
        ({"dropout_keep_ratio": 0}, "dropout_keep_ratio: .*got 0"),
        ({"dropout": -1}, "dropout_keep_ratio: .*got -1"),
    ],
)
def test_what_a_fully_connected_net_does_not_take(arguments, message):
    with pytest.raises(ValueError, match=message):
        FullyConnectedNet([3], 4, **arguments)


def test_the_oldest_way_to_say_no_dropout():
    assert not FullyConnectedNet([3], 4, dropout=0).use_dropout
    assert FullyConnectedNet([3], 4, dropout=0.25).dropout_param["p"] == 0.25


def test_what_a_convolutional_net_does_not_take():
    with pytest.raises(ValueError, match=r"filter_size: must be odd, .* got 4"):
        ThreeLayerConvNet(filter_size=4)
    with pytest.raises(ValueError, match=r"input_dim: .* got 1 x 8"):
        ThreeLayerConvNet((3, 1, 8))


def test_data_elsewhere_than_the_parameters_is_an_error():
    pytest.importorskip("array_api_strict")
    with xpconv.use_backend("array_api_strict"):
        net = TwoLayerNet(48, 4)
    X, _ = images(2)
    with pytest.raises(BackendMismatchError, match="move one with xpconv"):
        net.loss(X)
