"""The protocol of callbacks, their state, and early stopping."""

import math
import types

import pytest

from xpconv.training import Callback, CheckpointError, EarlyStopping, read_checkpoint


class Notes(Callback):
    """Every call of every method, in one list for several callbacks."""

    def __init__(self, name, calls):
        self.name, self.calls = name, calls

    def note(self, method, trainer):
        self.calls.append((self.name, method, trainer.epoch, trainer.step))

    def on_fit_start(self, trainer):
        self.note("fit_start", trainer)

    def on_epoch_start(self, trainer):
        self.note("epoch_start", trainer)

    def on_step_end(self, trainer):
        self.note("step_end", trainer)

    def on_epoch_end(self, trainer, record):
        assert record is trainer.history[-1]
        self.note("epoch_end", trainer)

    def on_fit_end(self, trainer):
        self.note("fit_end", trainer)


def test_every_method_in_its_place(make_trainer, make_batches):
    calls = []
    make_trainer(callbacks=[Notes("a", calls)]).fit(make_batches(21), epochs=2)
    assert [call[1:] for call in calls] == [
        ("fit_start", 0, 0),
        ("epoch_start", 0, 0),
        ("step_end", 0, 1),
        ("step_end", 0, 2),
        ("epoch_end", 1, 2),
        ("epoch_start", 1, 2),
        ("step_end", 1, 3),
        ("step_end", 1, 4),
        ("epoch_end", 2, 4),
        ("fit_end", 2, 4),
    ]


def test_those_that_save_come_last(make_trainer, make_batches):
    calls = []
    callbacks = [Notes(name, calls) for name in "abc"]
    callbacks[0].saves = True
    make_trainer(callbacks=callbacks).fit(make_batches(42), epochs=1)
    assert [call[0] for call in calls] == list("bca") * 5


def test_an_error_ends_the_fit_there(make_trainer, make_batches, test_set):
    """It says where it was raised, no other method is called, and the run can go on."""
    calls = []

    class Broken(Notes):
        def on_step_end(self, trainer):
            super().on_step_end(trainer)
            if trainer.step == 4:
                raise OSError("the disk is full")

    trainer = make_trainer(callbacks=[Broken("a", calls), Notes("b", calls)])
    with pytest.raises(OSError, match="the disk is full") as caught:
        trainer.fit(make_batches(), epochs=2)
    assert caught.value.__notes__ == ["raised in Broken.on_step_end"]
    assert calls[-1] == ("a", "step_end", 0, 4)
    trainer.callbacks = []
    trainer.fit(make_batches(), epochs=2)
    whole = make_trainer()
    whole.fit(make_batches(), epochs=2)
    assert trainer.evaluate(test_set) == whole.evaluate(test_set)


def test_callbacks_of_a_generator(make_trainer):
    callbacks = [Callback(), EarlyStopping(2)]
    assert make_trainer(callbacks=(callback for callback in callbacks)).callbacks == callbacks


@pytest.mark.parametrize("callback", [EarlyStopping, print, None])
def test_something_else(make_trainer, callback):
    with pytest.raises(TypeError, match="callbacks: expected instances of Callback, got"):
        make_trainer(callbacks=[callback])


# ---- state ------------------------------------------------------------------------------------------------------


class Counter(Callback):
    def __init__(self):
        self.count = 0

    def on_step_end(self, trainer):
        self.count += 1

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = int(state["count"])


def test_state_is_in_the_checkpoint(make_trainer, make_batches, tmp_path):
    """Callbacks of one class get their states in order; those without state and new ones do not disturb."""
    callbacks = [Counter(), Callback(), Counter(), EarlyStopping(3, "loss")]
    callbacks[2].count = 100
    trainer = make_trainer(callbacks=callbacks)
    trainer.fit(make_batches(), epochs=1)
    trainer.save(tmp_path / "net")
    assert [entry["kind"] for entry in read_checkpoint(tmp_path / "net").state["callbacks"]] == [
        "Counter",
        "Counter",
        "EarlyStopping",
    ]
    again = [EarlyStopping(3, "loss"), Counter(), Counter(), Counter()]
    make_trainer(tmp_path / "net", callbacks=again)
    assert [callback.count for callback in again[1:]] == [6, 106, 0]
    assert (again[0].best, again[0].waited) == (trainer.history[0]["loss"], 0)


@pytest.mark.parametrize(
    ("callback", "match"),
    [
        (EarlyStopping(3, "accuracy"), "does not fit the callbacks: EarlyStopping: the state is of 'loss'"),
        (type("Counter", (Counter,), {"load_state_dict": lambda self, state: state["more"]})(), "callbacks: 'more'"),
    ],
)
def test_state_that_does_not_fit(make_trainer, make_net, make_batches, tmp_path, callback, match):
    trainer = make_trainer(callbacks=[EarlyStopping(3, "loss"), Counter()])
    trainer.fit(make_batches(), epochs=1)
    trainer.save(tmp_path / "net")
    net = make_net()
    before = {name: array.tobytes() for name, array in net.state_dict().items()}
    with pytest.raises(CheckpointError, match=match):
        make_trainer(tmp_path / "net", net=net, callbacks=[callback])
    assert {name: array.tobytes() for name, array in net.state_dict().items()} == before


# ---- early stopping ---------------------------------------------------------------------------------------------


def stops_after(values, *arguments, **options):
    """The number of the epoch that ends a run whose records have these values, or None."""
    stopping = EarlyStopping(*arguments, **options)
    stopped = []
    trainer = types.SimpleNamespace(stop=lambda: stopped.append(True))
    for number, value in enumerate(values, 1):
        stopping.on_epoch_end(trainer, {"epoch": number, stopping.monitor: value})
        if stopped:
            return number
    return None


@pytest.mark.parametrize(
    ("values", "arguments", "options", "expected"),
    [
        ([3, 2, 2.5, 2.1, 1], (2,), {}, 4),
        ([3, 2, 2.5, 1, 2, 2], (2,), {}, 6),
        ([3, 2, 2, 2], (2,), {}, 4),  # equal is not better
        ([3, 2, 1.95, 1.92, 1.8], (2,), {"min_delta": 0.1}, 4),
        ([3, 2, 1.95, 1.85, 1.8], (2,), {"min_delta": 0.1}, None),
        ([math.nan, 1, math.nan, math.nan], (2,), {}, 4),
        ([0.1, 0.2, 0.15, 0.2], (2, "val_accuracy"), {}, 4),
        ([5, 4, 3], (1, "val_mae"), {"higher_is_better": False}, None),
        ([5, 4, 3], (1, "val_r2"), {"higher_is_better": True}, 2),
    ],
)
def test_when_it_stops(values, arguments, options, expected):
    assert stops_after(values, *arguments, **options) == expected


def test_it_ends_the_fit(make_trainer, make_batches, test_set):
    trainer = make_trainer(callbacks=[EarlyStopping(1, "val_accuracy", min_delta=2.0)])
    history = trainer.fit(make_batches(), epochs=9, validation=test_set)
    assert len(history) == 2
    trainer.fit(make_batches(), epochs=9, validation=test_set)  # it had been stopped, and stays so
    assert trainer.step == 12


def test_no_such_entry(make_trainer, make_batches):
    trainer = make_trainer(callbacks=[EarlyStopping(1)])
    with pytest.raises(KeyError, match="monitor: the record of an epoch has no 'val_loss'; it has epoch, step, loss"):
        trainer.fit(make_batches(), epochs=1)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "match"),
    [
        ((0,), {}, ValueError, "patience: must be at least 1, got 0"),
        ((2, 3), {}, TypeError, "monitor: expected the name"),
        ((2, "val_r2"), {}, ValueError, "higher_is_better: must be True or False for 'val_r2'"),
        ((2,), {"min_delta": -1}, ValueError, "min_delta: expected a number of at least 0"),
    ],
)
def test_wrong_arguments(arguments, options, error, match):
    with pytest.raises(error, match=match):
        EarlyStopping(*arguments, **options)


@pytest.mark.parametrize("change", [{"best": "low"}, {"waited": -1}, {"waited": 1.0}, {"monitor": "loss"}])
def test_a_wrong_state(change):
    state = {"monitor": "val_loss", "best": 0.5, "waited": 1} | change
    with pytest.raises(ValueError, match="EarlyStopping: "):
        EarlyStopping(2).load_state_dict(state)
