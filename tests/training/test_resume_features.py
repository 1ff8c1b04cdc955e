"""Interrupted and resumed bit for bit, with each feature of the Trainer switched on, and with all of them."""

import pytest

import xpconv
from xpconv.training import Callback, CheckpointError, EarlyStopping, LossScale, read_checkpoint, write_checkpoint


class Fail(Callback):
    """Raises after a step, as a crash would; it saves, so it comes after those whose state it saves."""

    saves = True

    def __init__(self, step, path):
        self.step, self.path = step, path

    def on_step_end(self, trainer):
        if trainer.step == self.step:
            trainer.save(self.path)
            raise RuntimeError("crash")


def state(trainer):
    """Everything that can differ, as bytes."""
    arrays = {f"model.{name}": array for name, array in trainer.model.state_dict().items()}
    with trainer.averaged_weights():
        arrays |= {f"ema.{name}": array for name, array in trainer.model.state_dict().items()}
    optimizer = trainer.optimizer.state_dict()
    arrays |= optimizer["arrays"]
    history = [{k: v for k, v in record.items() if k != "seconds"} for record in trainer.history]
    bits = {name: xpconv.to_numpy(array).tobytes() for name, array in arrays.items()}
    callbacks = [callback.state_dict() for callback in trainer.callbacks if not callback.saves]
    return bits, optimizer["settings"], history, trainer.best, trainer.step, trainer.loss_scale, callbacks


FEATURES = {
    "ema": {"ema": 0.9},
    "accumulate": {"accumulate": 3},
    "mixed precision": {"mixed_precision": "float16"},
    "clipping": {"clip_norm": 0.3},
    "all": {"ema": 0.9, "accumulate": 3, "mixed_precision": "float16", "clip_norm": 0.3},
}


def prepare(trainer):
    """A scale that changes within the run: it overflows at first and grows every third step then."""
    if trainer.loss_scale is not None:
        trainer.loss_scale = LossScale(scale=2.0**19, growth_interval=3)
    return trainer


# 2: while the scale still overflows; 6: the end of an epoch, before its validation; 10: in the middle
@pytest.mark.parametrize("crash", [2, 6, 10])
@pytest.mark.parametrize("feature", FEATURES)
def test_bit_for_bit(make_trainer, make_batches, test_set, tmp_path, feature, crash):
    options = FEATURES[feature]

    def callbacks():
        # the counter runs in this test, without ending it
        return [EarlyStopping(9, "val_accuracy", min_delta=2.0)]

    whole = prepare(make_trainer(callbacks=callbacks(), **options))
    whole.fit(make_batches(), epochs=3, validation=test_set)
    path = tmp_path / "net"
    with pytest.raises(RuntimeError, match="crash"):
        prepare(make_trainer(callbacks=[*callbacks(), Fail(crash, path)], **options)).fit(
            make_batches(), epochs=3, validation=test_set
        )
    resumed = make_trainer(path, callbacks=callbacks(), **options)
    assert resumed.step == crash
    resumed.fit(make_batches(), epochs=3, validation=test_set)
    assert state(resumed) == state(whole)
    assert whole.callbacks[0].waited == 2
    if "mixed_precision" in options:
        assert whole.loss_scale.skipped > 1


@pytest.mark.parametrize("save_first", [False, True])
def test_a_counter_that_ends_the_run(make_trainer, make_batches, test_set, tmp_path, save_first):
    """Wherever it is saved, early stopping ends the run after the same epoch; once it has, it stays ended."""

    class Saves(Callback):
        saves = True

        def on_epoch_end(self, trainer, record):
            trainer.save(tmp_path / f"{record['epoch']}")

    def callbacks():
        both = [EarlyStopping(3, "val_accuracy", min_delta=2.0), Saves()]
        return both[::-1] if save_first else both

    whole = make_trainer(steps=60, callbacks=callbacks())
    whole.fit(make_batches(), epochs=9, validation=test_set)
    assert whole.epoch == 4
    for epoch in range(1, 5):
        resumed = make_trainer(tmp_path / f"{epoch}", steps=60, callbacks=callbacks())
        resumed.fit(make_batches(), epochs=9, validation=test_set)
        assert state(resumed) == state(whole)


@pytest.mark.parametrize(
    ("entry", "value", "match"),
    [
        ("ema", {"decay": 0.9}, "'ema' of its training state: expected a mapping of decay and count"),
        ("ema", 0.9, "'ema' of its training state"),
        ("loss_scale", {"scale": 0.0, "growth_interval": 1, "good_steps": 0, "skipped": 0}, "'loss_scale' of its"),
        ("loss_scale", {"scale": 2.0}, "'loss_scale' of its training state: expected a mapping of scale, growth"),
        ("mixed_precision", "float8", "'mixed_precision' of its training state: expected a half type, got 'float8'"),
        ("callbacks", [{"kind": 3, "state": {}}], "'callbacks' of its training state: expected a list of mappings"),
        ("callbacks", {}, "'callbacks' of its"),
    ],
)
def test_a_damaged_entry(make_trainer, make_batches, tmp_path, entry, value, match):
    options = {"ema": 0.9, "mixed_precision": "float16"}
    trainer = make_trainer(**options)
    trainer.fit(make_batches(), epochs=1)
    trainer.save(tmp_path / "net")
    arrays, contents = read_checkpoint(tmp_path / "net")
    write_checkpoint(tmp_path / "net", arrays, {**contents, entry: value})
    with pytest.raises(CheckpointError, match=match):
        make_trainer(tmp_path / "net", **options)


def test_an_average_that_is_missing(make_trainer, make_batches, tmp_path):
    trainer = make_trainer(ema=0.9)
    trainer.fit(make_batches(), epochs=1)
    trainer.save(tmp_path / "net")
    arrays, contents = read_checkpoint(tmp_path / "net")
    write_checkpoint(tmp_path / "net", {k: v for k, v in arrays.items() if k != "ema.0.weight"}, contents)
    with pytest.raises(CheckpointError, match=r"does not fit the model: no average of 0\.weight"):
        make_trainer(tmp_path / "net", ema=0.9)


def test_a_half_type_that_was_not_there(make_trainer, make_batches, tmp_path):
    trainer = make_trainer()
    trainer.fit(make_batches(), epochs=1)
    trainer.save(tmp_path / "net")
    with pytest.raises(CheckpointError, match="is of a run with mixed_precision None, which must stay so, got float16"):
        make_trainer(tmp_path / "net", mixed_precision="float16")
