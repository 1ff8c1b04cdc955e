"""Several ranks train as one process does: threads are the ranks here."""

import copy
import functools
import pickle

import numpy as np
import pytest

import xpconv
import xpconv.training.ranks
from xpconv import data, layers, optim
from xpconv.backends import to_numpy
from xpconv.distributed import DistributedError
from xpconv.distributed.gradients import GradientMean
from xpconv.functional import multiclass_hinge, softmax_cross_entropy
from xpconv.training import Trainer, TrainingError, top_k_accuracy

CLASSES = 5


def make_data(count, dtype="float64", seed=3):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, count)
    return (rng.normal(size=(count, 2, 6, 6)) + labels[:, None, None, None] / 2).astype(dtype), labels


def make_net(dtype="float64", norm=False, dropout=0.0):
    parts = [layers.Conv2d(2, 4, 3, padding=1, rng=1, dtype=dtype)]
    if norm:
        parts.append(layers.BatchNorm2d(4, dtype=dtype))
    parts += [layers.ReLU(), layers.Flatten()]
    if dropout:
        parts.append(layers.Dropout(dropout, rng=4))
    return layers.Sequential(*parts, layers.Linear(144, CLASSES, rng=2, dtype=dtype))


def train(comm, *, count=70, batch_size=16, epochs=20, dtype="float64", optimizer="sgd", net=None, source=None, **more):
    """A trainer after its run; 70 examples in batches of 16 leave a last batch of 6."""
    net = make_net(dtype) if net is None else net()
    kinds = {
        "sgd": lambda: optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3),
        "adam": lambda: optim.Adam(net.parameters(), lr=0.01),
    }
    trainer = Trainer(net, softmax_cross_entropy, kinds[optimizer](), comm=comm, seed=7, **more)
    pair = make_data(count, dtype) if source is None else source()
    trainer.fit(pair, epochs=epochs, batch_size=batch_size, validation=make_data(23, dtype, seed=5))
    return trainer


def curves(trainer):
    return np.array([[r["loss"], r["accuracy"], r["val_loss"], r["val_accuracy"]] for r in trainer.history])


def weights(trainer):
    return {name: to_numpy(array) for name, array in trainer.model.state_dict().items()}


def assert_same_bits(trainers):
    first = weights(trainers[0])
    for trainer in trainers[1:]:
        other = weights(trainer)
        assert all(np.array_equal(first[name], other[name]) for name in first)
        assert trainer.history[-1]["val_loss"] == trainers[0].history[-1]["val_loss"]


@pytest.mark.parametrize("ranks", [2, 3, 4])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"optimizer": "adam"},
        {"clip_norm": np.float32(0.5)},
        {"accumulate": 2},
        {"accumulate": 3, "ema": 0.9},
        {"net": lambda: make_net(dropout=0.4)},
    ],
    ids=["sgd", "adam", "clipped", "accumulated", "accumulated-averaged", "dropout"],
)
def test_the_run_is_that_of_one_process(run_ranks, ranks, options):
    alone = train(None, **options)
    together = run_ranks(ranks, lambda comm: train(comm, check_ranks=1, **options))
    assert alone.step == together[0].step == 100
    for trainer in together:
        np.testing.assert_allclose(curves(trainer), curves(alone), rtol=1e-10, atol=1e-10)
    assert_same_bits(together)
    for name, array in weights(alone).items():
        np.testing.assert_allclose(weights(together[0])[name], array, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_in_float32_to_its_rounding(run_ranks, ranks):
    alone = train(None, dtype="float32")
    together = run_ranks(ranks, lambda comm: train(comm, dtype="float32"))
    np.testing.assert_allclose(curves(together[0]), curves(alone), rtol=0, atol=1e-5)
    assert_same_bits(together)


@pytest.mark.parametrize("ranks", [2, 3])
def test_on_every_backend(on, sparing, run_ranks, ranks):
    sparing(ranks == 2)
    options = {"dtype": "float32", "epochs": 2, "count": 30}
    together = run_ranks(ranks, lambda comm: train(comm, **options))
    np.testing.assert_allclose(curves(together[0]), curves(train(None, **options)), rtol=0, atol=1e-5)
    assert_same_bits(together)


def test_batch_norm_of_its_own_share_averages_running_statistics(run_ranks):
    together = run_ranks(3, lambda comm: train(comm, net=lambda: make_net(norm=True), epochs=3, check_ranks=1))
    assert_same_bits(together)  # buffers among them
    state = weights(together[0])
    assert state["1.num_batches_tracked"] == 15
    assert not np.array_equal(state["1.running_mean"], np.zeros(4))


@pytest.mark.parametrize("ranks", [2, 3])
def test_synchronised_batch_norm_is_that_of_one_process(run_ranks, ranks):
    options = {"net": lambda: make_net(norm=True), "epochs": 10}
    alone = train(None, **options)
    together = run_ranks(ranks, lambda comm: train(comm, sync_batch_norm=True, check_ranks=1, **options))
    np.testing.assert_allclose(curves(together[0]), curves(alone), rtol=1e-9, atol=1e-10)
    for name, array in weights(alone).items():
        np.testing.assert_allclose(weights(together[0])[name], array, rtol=1e-8, atol=1e-10)
    assert all(layer.comm is None for layer in (together[0].model[1],))


def test_synchronised_residual_net(run_ranks):
    """Batch normalisation fused with ReLU and a residual, and its gradients."""

    def run(comm, **more):
        net = xpconv.models.CifarResNet(8, 2, CLASSES, rng=1, dtype="float64")
        trainer = Trainer(net, softmax_cross_entropy, optim.SGD(net.parameters(), lr=0.05), comm=comm, **more)
        trainer.fit(make_data(24), epochs=3, batch_size=8)
        return [record["loss"] for record in trainer.history]

    together = run_ranks(2, lambda comm: run(comm, sync_batch_norm=True))
    np.testing.assert_allclose(together[0], run(None), rtol=1e-9)


@pytest.mark.parametrize("sync", [False, True])
def test_a_rank_without_examples(run_ranks, sync):
    """66 examples leave a last batch of 2 for 4 ranks."""
    options = {"count": 66, "epochs": 6, "net": lambda: make_net(norm=sync)}
    alone = train(None, **options)
    together = run_ranks(4, lambda comm: train(comm, sync_batch_norm=sync, check_ranks=1, **options))
    np.testing.assert_allclose(curves(together[0]), curves(alone), rtol=1e-9, atol=1e-10)
    assert_same_bits(together)


@pytest.mark.parametrize("mixup", [0.0, 0.4])
def test_augmented_images(run_ranks, mixup):
    """Each image is augmented, and mixed, as it is in one process."""

    def source():
        rng = np.random.default_rng(0)
        labels = rng.integers(0, CLASSES, 50)
        images = rng.integers(0, 256, (50, 2, 6, 6), dtype=np.uint8)
        transform = data.Compose([data.ShiftCrop(1), data.RandomFlip()])
        return data.Batches(
            data.ArrayDataset(images, labels), 12, seed=1, transform=transform, dtype="float64", mixup=mixup
        )

    alone = train(None, source=source, epochs=4)
    together = run_ranks(3, lambda comm: train(comm, source=source, epochs=4))
    np.testing.assert_allclose(curves(together[0]), curves(alone), rtol=1e-9, atol=1e-10)


def test_metrics_scores_and_evaluation_are_of_all_examples(run_ranks):
    metrics = {"top2": lambda scores, labels: top_k_accuracy(scores, labels, k=2)}
    x, labels = make_data(23, seed=5)

    def run(comm):
        trainer = train(comm, epochs=2, metrics=metrics)
        return (
            trainer.report((x, labels), batch_size=4),
            trainer.evaluate((x, labels)),
            trainer.predict(x, batch_size=4),
        )

    report, metrics_alone, scores = run(None)
    for ranks in (2, 5):
        for theirs in run_ranks(ranks, run):
            assert theirs[0] == pytest.approx(report, rel=1e-9)
            assert theirs[1] == pytest.approx(metrics_alone, rel=1e-9)
            np.testing.assert_allclose(theirs[2], scores, rtol=1e-8, atol=1e-9)


def test_few_examples_on_many_ranks(run_ranks):
    x, labels = make_data(2)

    def run(comm):
        trainer = Trainer(make_net(), softmax_cross_entropy, None, comm=comm)
        return trainer.predict(x), trainer.predict(x[:0]).shape, trainer.evaluate((x, labels)).loss

    alone, theirs = run(None), run_ranks(3, run)
    for scores, empty, loss in theirs:
        np.testing.assert_allclose(scores, alone[0], rtol=1e-12)
        assert empty == (0, CLASSES)
        assert loss == pytest.approx(alone[2])


def test_a_checkpoint_goes_on_with_another_number_of_ranks(run_ranks, tmp_path):
    path = tmp_path / "net.safetensors"
    whole = train(None, epochs=6)

    def first(comm):
        trainer = train(comm, epochs=3)
        trainer.save(path if comm.rank == 0 else tmp_path / "never.safetensors")

    def second(comm):
        net = make_net()
        trainer = Trainer.resume(path, net, softmax_cross_entropy, optim.SGD(net.parameters(), lr=0.05), comm=comm)
        trainer.fit(make_data(70), epochs=6, batch_size=16, validation=make_data(23, seed=5))
        return trainer

    run_ranks(3, first)
    assert not (tmp_path / "never.safetensors").exists()
    for resumed in (second(None), *run_ranks(2, second)):
        np.testing.assert_allclose(curves(resumed), curves(whole), rtol=1e-9, atol=1e-10)


def test_weights_start_from_those_of_rank_0(run_ranks):
    def run(comm):
        net = layers.Sequential(layers.Flatten(), layers.Linear(72, CLASSES, rng=comm.rank, dtype="float64"))
        trainer = Trainer(net, softmax_cross_entropy, optim.SGD(net.parameters(), lr=0.1), comm=comm)
        trainer.fit(make_data(20), epochs=0)
        return to_numpy(net[1].weight.data)

    first = layers.Linear(72, CLASSES, rng=0, dtype="float64")
    for theirs in run_ranks(3, run):
        assert np.array_equal(theirs, to_numpy(first.weight.data))


def differing(comm, what):
    """A run that is another one on rank 1."""
    odd = comm.rank == 1
    net = make_net(norm=what == "the model" and odd)
    lr = 0.1 if what == "the optimizer" and odd else 0.05
    only_last = what == "the trained parameters" and odd
    smooth = functools.partial(softmax_cross_entropy, label_smoothing=0.1 if odd else 0.2)
    other = {"the loss": multiclass_hinge if odd else softmax_cross_entropy, "partial": smooth}
    trainer = Trainer(
        net,
        other.get(what, softmax_cross_entropy),
        optim.SGD(net[-1:].parameters() if only_last else net.parameters(), lr=lr, momentum=0.9),
        seed=int(what == "seed" and odd),
        clip_norm=1.0 if what == "clip_norm" and odd else None,
        schedule=lambda step: 0.1 if what == "the learning rates" and odd and step > 3 else 0.05,
        comm=comm,
        sync_batch_norm=what == "sync_batch_norm" and odd,
    )
    if what == "the state of the optimizer" and odd:
        trainer.optimizer.load_state_dict(trained_optimizer())
    if what == "the frozen layers" and odd:
        net[-1].eval()
    count = 41 if what == "the number of training examples" and odd else 40
    trainer.fit(
        make_data(count, seed=4 if what == "the training data" and odd else 3),
        validation=make_data(9) if what == "the number of validation examples" and not odd else None,
        epochs=2 if what == "the number of epochs" and odd else 1,
        batch_size=10 if what == "the batch size" and odd else 8,
    )


def trained_optimizer():
    net = make_net()
    trainer = Trainer(net, softmax_cross_entropy, optim.SGD(net.parameters(), lr=0.05, momentum=0.9))
    trainer.fit(make_data(4), epochs=1)
    return trainer.optimizer.state_dict()


@pytest.mark.parametrize(
    "what",
    [
        "the model",
        "the optimizer",
        "the state of the optimizer",
        "the frozen layers",
        "the trained parameters",
        "the loss",
        "partial",
        "the learning rates",
        "sync_batch_norm",
        "the training data",
        "the number of validation examples",
        "seed",
        "clip_norm",
        "the number of training examples",
        "the batch size",
    ],
)
def test_ranks_that_do_not_do_the_same(run_ranks, what):
    says = "the loss" if what == "partial" else what
    with pytest.raises(
        DistributedError, match=rf"^the ranks do not do the same: .*{says} is .* on rank 0 and .* on rank 1"
    ):
        run_ranks(3, lambda comm: differing(comm, what))


class Scaled(layers.Layer):
    """Its words have an address in memory, as those of many functions and objects."""

    def __init__(self):
        self.how = lambda x: x * 0.5

    def forward(self, x):
        return self.how(x)

    def backward(self, dy):
        return self.how(dy)

    def extra_repr(self):
        return repr(self.how)


def test_ranks_that_do_the_same_with_objects_of_their_own(run_ranks):
    """Nothing differs but places in memory; and the schedule cannot be asked for a later step than the next."""

    class Schedule:
        asked = 0

        def __call__(self, step):
            assert step == self.asked
            self.asked += 1
            return 0.05

    def run(comm):
        loss = functools.partial(lambda scores, labels, how: softmax_cross_entropy(scores, labels), how=Scaled())
        net = layers.Sequential(Scaled(), *make_net())
        trainer = Trainer(net, loss, optim.SGD(net.parameters(), lr=0.05), comm=comm, schedule=Schedule())
        trainer.fit(make_data(16), epochs=3, batch_size=4)
        return trainer.step

    assert run_ranks(2, run) == [12, 12]


@pytest.fixture
def small_buckets(monkeypatch):
    """Every gradient is sent as soon as it is ready."""
    small = functools.partial(GradientMean, bucket_bytes=8)
    monkeypatch.setattr(xpconv.training.ranks, "GradientMean", small)


class Masked(layers.Linear):
    """Changes its gradient after it was added."""

    in_place = False
    changes = True

    def backward(self, dy):
        dx = super().backward(dy)
        mask = np.arange(self.weight.shape[1]) % 2
        if self.changes and self.in_place:
            self.weight.grad *= mask
        elif self.changes:
            self.weight.grad = self.weight.grad * mask
        return dx


def masked_net(**settings):
    last = Masked(144, CLASSES, rng=2, dtype="float64")
    vars(last).update(settings)
    return layers.Sequential(*list(make_net())[:-1], last)


@pytest.mark.parametrize("in_place", [False, True])
def test_a_gradient_that_is_changed_after_it_was_added(run_ranks, small_buckets, in_place):
    options = {"epochs": 2, "net": lambda: masked_net(in_place=in_place)}
    together = run_ranks(2, lambda comm: train(comm, **options))
    np.testing.assert_allclose(curves(together[0]), curves(train(None, **options)), rtol=1e-10)


def test_a_gradient_that_is_changed_after_it_was_sent(run_ranks, small_buckets):
    """In the second step, unlike in the first: an error, after which the run goes on without sending early."""

    def run(comm, error=None):
        net = masked_net(changes=False)

        class Switch(xpconv.training.Callback):
            def on_step_end(self, trainer):
                vars(net[-1])["changes"] = True

        optimizer = optim.SGD(net.parameters(), lr=0.05)
        trainer = Trainer(net, softmax_cross_entropy, optimizer, comm=comm, callbacks=[Switch()])
        if error is not None:
            with pytest.raises(error, match="does not do the same in every step; call fit again"):
                trainer.fit(make_data(40), epochs=2, batch_size=8)
            assert trainer.step == 1
        trainer.fit(make_data(40), epochs=2, batch_size=8)
        return [record["loss"] for record in trainer.history]

    together = run_ranks(2, lambda comm: run(comm, DistributedError))
    np.testing.assert_allclose(together, [run(None)] * 2, rtol=1e-10)


@pytest.mark.parametrize("norm", [False, True])
def test_parts_of_a_batch_without_examples(run_ranks, small_buckets, norm):
    """A share of 3 and one of 2 in 3 parts; a layer that is used twice."""

    def net():
        twice = layers.Linear(CLASSES, CLASSES, rng=3, dtype="float64")
        return layers.Sequential(*make_net(norm=norm), twice, layers.ReLU(), twice)

    options = {"net": net, "accumulate": 3, "batch_size": 5, "epochs": 2, "count": 25}
    together = run_ranks(2, lambda comm: train(comm, check_ranks=1, **options))
    assert_same_bits(together)
    if not norm:
        np.testing.assert_allclose(curves(together[0]), curves(train(None, **options)), rtol=1e-9)


def test_frozen_statistics_stay_as_they_are(run_ranks):
    """Their mean over 7 ranks would be another number, by its rounding."""
    statistics = np.array([0.1, 0.2, 0.3, 0.7])

    def net():
        frozen = make_net(norm=True)
        frozen[1].running_mean = statistics
        frozen[1].eval()
        return frozen

    for trainer in run_ranks(7, lambda comm: train(comm, net=net, epochs=1, count=21)):
        assert np.array_equal(trainer.model[1].running_mean, statistics)


@pytest.mark.parametrize("options", [{}, {"accumulate": 2, "clip_norm": 0.05}], ids=["plain", "parts-clipped"])
def test_a_part_of_a_network(run_ranks, options):
    """What is in front of it has no gradients, on no rank; nor has any of it on a rank without examples."""

    def run(comm):
        net = make_net()
        optimizer = optim.SGD(net[-1].parameters(), lr=0.05, momentum=0.9)
        trainer = Trainer(net, softmax_cross_entropy, optimizer, comm=comm, seed=7, **options)
        trainer.fit(make_data(66), epochs=3, batch_size=16, validation=make_data(23, seed=5))
        assert all(parameter.grad is None for parameter in net[0].parameters())
        return trainer

    together, alone = run_ranks(4, run), run(None)
    assert_same_bits(together)
    np.testing.assert_allclose(curves(together[0]), curves(alone), rtol=1e-10)
    first = make_net()[0]
    assert np.array_equal(to_numpy(together[0].model[0].weight.data), to_numpy(first.weight.data))


def test_a_copy_that_a_callback_takes_of_a_synchronised_net(run_ranks):
    """It belongs to no run: its batch normalisation waits for nobody."""

    def run(comm):
        copies = []

        class Copies(xpconv.training.Callback):
            def on_step_end(self, trainer):
                copies.append(pickle.loads(pickle.dumps(copy.deepcopy(trainer.model))))

        trainer = train(comm, net=lambda: make_net(norm=True), sync_batch_norm=True, epochs=1, callbacks=[Copies()])
        assert copies[-1][1].comm is None
        assert all(np.array_equal(a, weights(trainer)[n]) for n, a in copies[-1].state_dict().items())
        return len(copies)

    assert run_ranks(2, run) == [5, 5]


def test_numbers_as_targets_and_a_rank_without_examples(on, sparing, run_ranks):
    sparing(False)

    def run(comm):
        net = layers.Sequential(layers.Linear(3, 1, rng=0))
        trainer = Trainer(net, xpconv.functional.mse, optim.SGD(net.parameters(), lr=0.01), comm=comm)
        rng = np.random.default_rng(0)
        x, y = rng.normal(size=(10, 3)).astype("float32"), rng.normal(size=(10, 1)).astype("float32")
        trainer.fit((x, y), epochs=1, batch_size=4)
        return trainer.history[0]["loss"], trainer.history[0]["accuracy"]

    alone = run(None)
    np.testing.assert_allclose(run_ranks(3, run), [alone] * 3, rtol=1e-5)


@pytest.mark.parametrize(("count", "batch_size"), [(3, 16), (40, 3)])
def test_more_ranks_than_examples(run_ranks, count, batch_size):
    with pytest.raises(
        DistributedError, match=f"4 ranks need at least as many .* is {batch_size}, the set has {count}"
    ):
        run_ranks(4, lambda comm: train(comm, count=count, batch_size=batch_size))


def test_a_gradient_that_is_not_finite_stops_all_ranks(run_ranks):
    """One rank spoils one gradient: all say where, and at which step."""

    class Spoiled(layers.Linear):
        spoils = False
        calls = 0

        def backward(self, dy):
            self.calls += 1
            dx = super().backward(dy)
            if self.spoils and self.calls == 3:
                self.bias.grad = self.bias.grad * np.nan
            return dx

    def run(comm):
        net = make_net()
        last = Spoiled(144, CLASSES, rng=2, dtype="float64")
        last.spoils = comm.rank == 1
        net = layers.Sequential(*list(net)[:-1], last)
        trainer = Trainer(net, softmax_cross_entropy, optim.SGD(net.parameters(), lr=0.05), comm=comm)
        with pytest.raises(TrainingError) as raised:
            trainer.fit(make_data(40), epochs=2, batch_size=8)
        return str(raised.value)

    says = "step 2, with learning rate 0.05: the gradient of 3.bias is not finite on rank 1 of 3"
    assert run_ranks(3, run) == [says] * 3


def test_weights_that_drift_apart_are_found(run_ranks):
    def run(comm):
        net = make_net()

        class Meddler(xpconv.training.Callback):
            def on_step_end(self, trainer):
                if trainer.step == 3 and comm.rank == 2:
                    weight = net[0].weight
                    weight.data = weight.data + 1e-6

        trainer = Trainer(
            net,
            softmax_cross_entropy,
            optim.SGD(net.parameters(), lr=0.05),
            comm=comm,
            callbacks=[Meddler()],
            check_ranks=2,
        )
        trainer.fit(make_data(80), epochs=1, batch_size=8)

    with pytest.raises(DistributedError, match=r"after step 4 the weights of rank 2 are no longer those of rank 0"):
        run_ranks(3, run)


def test_one_rank_that_asks_to_stop_stops_all(run_ranks):
    def run(comm):
        class Stopper(xpconv.training.Callback):
            def on_step_end(self, trainer):
                if comm.rank == 1 and trainer.step == 4:
                    trainer.stop()

        return train(comm, epochs=3, callbacks=[Stopper()]).step

    assert run_ranks(3, run) == [4, 4, 4]


def test_a_step_is_not_recorded(run_ranks):
    with pytest.warns(RuntimeWarning, match="several ranks"):
        trainers = run_ranks(2, lambda comm: train(comm, epochs=1, capture=True))
    reason = "what several ranks send to each other cannot be recorded"
    assert [trainer.capture_reason for trainer in trainers] == [reason] * 2


@pytest.mark.parametrize("mixed_precision", [None, "float16"])
def test_a_rank_rehearses_for_itself(run_ranks, mixed_precision):
    """Whether all ranks look for a learning rate or take a profile, or one of them; and the run is as without it."""

    def run(comm, who):
        net = make_net("float32")
        optimizer = optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
        trainer = Trainer(net, softmax_cross_entropy, optimizer, comm=comm, mixed_precision=mixed_precision)
        found = None
        if comm is None or comm.rank in who:
            found = trainer.find_lr(make_data(40, "float32"), steps=20, batch_size=8)
            assert {layer.name for layer in trainer.profile(make_data(40, "float32"), steps=1).layers} >= {"0", "3"}
        trainer.fit(make_data(40, "float32"), epochs=2, batch_size=8)
        return None if found is None else found.losses.tolist(), [record["loss"] for record in trainer.history]

    losses, curve = run(None, ())
    for who in ((0, 1, 2), (1,)):
        for rank, theirs in enumerate(run_ranks(3, functools.partial(run, who=who))):
            assert theirs[0] == (losses if rank in who else None)
            np.testing.assert_allclose(theirs[1], curve, rtol=1e-5 if mixed_precision is None else 2e-3)


@pytest.mark.parametrize("comm", [2, "mpi", object()])
def test_what_is_no_communicator(comm):
    with pytest.raises(TypeError, match="comm: expected a Communicator"):
        Trainer(make_net(), softmax_cross_entropy, None, comm=comm)
