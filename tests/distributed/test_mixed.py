"""Mixed precision over several ranks: one loss scale, one decision about every step."""

import numpy as np
import pytest

import xpconv
from xpconv import layers, optim
from xpconv.backends import BackendUnavailableError, load_backend, to_numpy
from xpconv.functional import softmax_cross_entropy
from xpconv.training import Callback, LossScale, Trainer, TrainingError

CLASSES = 4


@pytest.fixture(params=[("numpy", "float16"), ("torch", "float16"), ("torch", "bfloat16")], ids="-".join)
def half(request):
    """The name of a half type, its backend being the default one."""
    name, dtype = request.param
    try:
        load_backend(name).dtype(dtype)
    except BackendUnavailableError as error:
        pytest.skip(str(error))
    with xpconv.use_backend(name):
        yield dtype


class Spoiled(layers.Linear):
    """In some of its backward passes a gradient is not finite."""

    calls = 0
    spoils = ()
    value = np.inf

    def backward(self, dy):
        dx = super().backward(dy)
        if self.calls in self.spoils:
            self.bias.grad = self.bias.grad * self.value
        self.calls += 1
        return dx


class Notes(Callback):
    """The loss scale after every step, and whether the weights have changed."""

    def __init__(self):
        self.scales, self.taken, self._before = [], [], None

    def on_fit_start(self, trainer):
        self._before = weights(trainer)

    def on_step_end(self, trainer):
        now = weights(trainer)
        self.taken.append(not all(np.array_equal(now[name], array) for name, array in self._before.items()))
        self._before = now
        self.scales.append(None if trainer.loss_scale is None else trainer.loss_scale.scale)


def weights(trainer):
    return {name: to_numpy(p.data).copy() for name, p in trainer.model.named_parameters()}


def train(comm, dtype, *, spoils=(), value=np.inf, scale=None, epochs=4, norm=False, fails=None, **more):
    """70 examples in batches of 16: a last batch of 6, whose shares are not alike.

    The net has no ReLU, which would make jumps of roundings.
    """
    rng = np.random.default_rng(3)
    labels = rng.integers(0, CLASSES, 70)
    x = (rng.normal(size=(70, 2, 6, 6)) + labels[:, None, None, None] / 2).astype("float32")
    last = Spoiled(108, CLASSES, rng=2)
    last.spoils, last.value = spoils, value
    norms = [layers.BatchNorm2d(3)] if norm else []
    net = layers.Sequential(layers.Conv2d(2, 3, 3, padding=1, rng=1), *norms, layers.Tanh(), layers.Flatten(), last)
    optimizer = optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
    notes = Notes()
    trainer = Trainer(
        net, softmax_cross_entropy, optimizer, comm=comm, mixed_precision=dtype, callbacks=[notes], seed=7, **more
    )
    if scale is not None and trainer.loss_scale is not None:
        trainer.loss_scale = scale
    if fails is None:
        trainer.fit((x, labels), epochs=epochs, batch_size=16)
        return trainer, notes
    with pytest.raises(TrainingError) as raised:
        trainer.fit((x, labels), epochs=epochs, batch_size=16)
    return trainer, str(raised.value)


def assert_same_run(together, alone=None, tolerance=0.0):
    """All ranks have the same bits; and the run is that of one process, to the rounding of the half type."""
    (first, notes), *others = together
    for trainer, theirs in others:
        mine, other = weights(first), weights(trainer)
        assert all(np.array_equal(mine[name], other[name]) for name in mine)
        assert (theirs.scales, theirs.taken) == (notes.scales, notes.taken)
        assert trainer.loss_scale == first.loss_scale
    if alone is not None:
        assert (notes.scales, notes.taken) == (alone[1].scales, alone[1].taken)
        losses = [[record["loss"] for record in trainer.history] for trainer in (first, alone[0])]
        np.testing.assert_allclose(losses[0], losses[1], rtol=tolerance)


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("options", [{}, {"accumulate": 2, "clip_norm": 0.5}], ids=["plain", "parts-clipped"])
def test_the_run_is_that_of_one_process(half, run_ranks, ranks, options):
    alone = train(None, half, **options)
    together = run_ranks(ranks, lambda comm: train(comm, half, check_ranks=1, **options))
    assert_same_run(together, alone, 5e-4 if half == "float16" else 5e-3)
    assert all(alone[1].taken)


def test_steps_that_overflow_by_themselves(run_ranks):
    """A rank adds up fewer examples than one process, and never overflows where that does not."""
    alone = train(None, "float16", scale=LossScale(2.0**22))
    together = run_ranks(3, lambda comm: train(comm, "float16", scale=LossScale(2.0**22), check_ranks=1))
    assert_same_run(together)
    taken = together[0][1].taken
    assert not taken[0]
    assert taken[-1]
    assert sum(taken) >= sum(alone[1].taken)
    assert together[0][0].loss_scale.skipped == taken.count(False)


@pytest.mark.parametrize("spoils", [(0,), (5, 6), (4,)], ids=["first", "two", "last-batch"])
def test_an_overflow_on_one_rank_skips_the_step_on_all(run_ranks, spoils):
    """The scale is halved on all, as in one process in which that gradient overflows; and grows again on all."""

    def run(comm):
        mine = spoils if comm is None or comm.rank == 1 else ()
        return train(comm, "float16", spoils=mine, scale=LossScale(1024.0, growth_interval=4), check_ranks=1)

    alone, together = run(None), run_ranks(3, run)
    assert_same_run(together, alone, 5e-4)
    notes = together[0][1]
    assert [step for step, taken in enumerate(notes.taken) if not taken] == list(spoils)
    assert notes.scales[spoils[0]] == (512 if spoils[0] < 4 else 1024)
    assert together[0][0].loss_scale.skipped == len(spoils)


def test_batch_norm_over_ranks_in_half_precision(half, run_ranks):
    """Statistics of the whole batch are taken in float32; a rank has no examples of the last batch of 6."""
    alone = train(None, half, norm=True)
    together = run_ranks(7, lambda comm: train(comm, half, norm=True, sync_batch_norm=True, check_ranks=1))
    assert_same_run(together, alone, 5e-4 if half == "float16" else 5e-3)


@pytest.mark.parametrize("dtype", [None, "float16", "bfloat16"])
def test_nan_on_one_rank_stops_all_and_names_the_layer(run_ranks, dtype):
    """With a loss scale NaN cannot be told from an overflow before the scale has become useless."""
    name = "torch" if dtype == "bfloat16" else "numpy"
    if name == "torch":
        pytest.importorskip("torch", reason="bfloat16 needs a backend that has it")

    def run(comm):
        spoils = range(6, 10**6) if comm is None or comm.rank == 1 else ()
        scale = LossScale(2.0**-20)
        return train(comm, dtype, spoils=spoils, value=np.nan, scale=scale, epochs=10, fails=True)

    with xpconv.use_backend(name):
        together = run_ranks(3, run)
    says = {message for _, message in together}
    assert len(says) == 1
    assert "the gradient of 3.bias is not finite on rank 1 of 3" in says.pop()
    step = 10 if dtype == "float16" else 6
    assert [trainer.step for trainer, _ in together] == [step] * 3
