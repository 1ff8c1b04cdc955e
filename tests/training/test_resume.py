"""A run that was interrupted and resumed is, to the last bit, the run that was not."""

import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import xpconv
from xpconv import layers, optim
from xpconv.functional import softmax_cross_entropy
from xpconv.training import Callback, CheckpointError, Trainer, load_trained, read_checkpoint, write_checkpoint


class Fail(Callback):
    """Raises after a step, as a crash would."""

    def __init__(self, step, path):
        self.step, self.path = step, path

    def on_step_end(self, trainer):
        if trainer.step == self.step:
            trainer.save(self.path)
            raise RuntimeError("crash")


def state(trainer):
    """Everything that can differ, as bytes."""
    arrays = {f"model.{name}": array for name, array in trainer.model.state_dict().items()}
    optimizer = trainer.optimizer.state_dict()
    arrays |= optimizer["arrays"]
    history = [{k: v for k, v in record.items() if k != "seconds"} for record in trainer.history]
    bits = {name: xpconv.to_numpy(array).tobytes() for name, array in arrays.items()}
    return bits, optimizer["settings"], history, trainer.best, trainer.step, trainer.epoch, trainer.epoch_step


@pytest.mark.parametrize("crash", [1, 5, 6, 7, 10, 12])
def test_bit_for_bit_from_any_step(make_trainer, make_batches, test_set, tmp_path, crash):
    whole = make_trainer()
    whole.fit(make_batches(), epochs=2, validation=test_set)
    path = tmp_path / "net"
    with pytest.raises(RuntimeError, match="crash"):
        make_trainer(callbacks=[Fail(crash, path)]).fit(make_batches(), epochs=2, validation=test_set)
    resumed = make_trainer(path)
    assert resumed.step == crash
    resumed.fit(make_batches(), epochs=2, validation=test_set)
    assert state(resumed) == state(whole)


def test_bit_for_bit_on_every_backend(on, make_trainer, make_batches, tmp_path):
    whole = make_trainer()
    whole.fit(make_batches(), epochs=2)
    path = tmp_path / "net"
    with pytest.raises(RuntimeError, match="crash"):
        make_trainer(callbacks=[Fail(8, path)]).fit(make_batches(), epochs=2)
    resumed = make_trainer(path)
    resumed.fit(make_batches(), epochs=2)
    assert state(resumed) == state(whole)


def test_twice(make_trainer, make_batches, tmp_path):
    whole = make_trainer()
    whole.fit(make_batches(), epochs=2)
    trainer = make_trainer()
    for step in (3, 4, 11):
        trainer.callbacks = [Fail(step, tmp_path / "net")]
        with pytest.raises(RuntimeError, match="crash"):
            trainer.fit(make_batches(), epochs=2)
        trainer = make_trainer(tmp_path / "net")
    trainer.fit(make_batches(), epochs=2)
    assert state(trainer) == state(whole)


def test_saved_on_one_backend_resumed_on_another(make_trainer, make_batches, tmp_path):
    pytest.importorskip("array_api_strict")
    path = tmp_path / "net"
    with pytest.raises(RuntimeError, match="crash"):
        make_trainer(callbacks=[Fail(8, path)]).fit(make_batches(), epochs=2)
    here = make_trainer(path)
    here.fit(make_batches(), epochs=2)
    with xpconv.use_backend("array_api_strict"):
        there = make_trainer(path)
    there.fit(make_batches(), epochs=2)
    assert there.history[-1]["loss"] == pytest.approx(here.history[-1]["loss"], rel=1e-4)


def test_the_checkpoint_does_not_depend_on_when_the_loss_was_read(make_trainer, make_batches, tmp_path):
    class Reads(Callback):
        def on_step_end(self, trainer):
            trainer.running()

    for name, callbacks in (("a", []), ("b", [Reads()])):
        with pytest.raises(RuntimeError, match="crash"):
            make_trainer(callbacks=[*callbacks, Fail(8, tmp_path / name)]).fit(make_batches(), epochs=2)
    a, b = (read_checkpoint(tmp_path / name) for name in "ab")
    assert a.state["sums"] == b.state["sums"]
    assert a.state["sums"]["images"] == 14


PROGRAM = """
    import os, sys, time
    import numpy as np
    from xpconv import data, layers, optim
    from xpconv.functional import softmax_cross_entropy
    from xpconv.training import Callback, Trainer

    class Slow(Callback):
        def on_step_end(self, trainer):
            print("step", trainer.step, flush=True)
            time.sleep(0.05)

        def on_interrupt(self, trainer):
            trainer.save(path)

    path, command = sys.argv[1:]
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (60, 1, 8, 8), dtype=np.uint8), rng.integers(0, 3, 60)
    dataset = data.ArrayDataset(images, labels)
    batches = data.Batches(dataset, 7, seed=1, transform=data.standard_transform(dataset))
    net = layers.Sequential(
        layers.Conv2d(1, 4, 3, rng=rng), layers.ReLU(), layers.Dropout(0.5, rng=1), layers.Flatten(),
        layers.Linear(144, 3, rng=rng),
    )
    optimizer = optim.Adam(net.parameters(), lr=1e-2)
    if command == "resume":
        trainer = Trainer.resume(path, net, softmax_cross_entropy, optimizer)
    else:
        callbacks = [Slow()] if command == "interrupt" else []
        trainer = Trainer(net, softmax_cross_entropy, optimizer, callbacks=callbacks, seed=4)
    trainer.fit(batches, epochs=3)
    trainer.save(path)
"""


def test_a_real_ctrl_c(tmp_path):
    """Three processes: a whole run, one that gets a SIGINT, one that resumes it."""

    def start(name, command):
        return subprocess.Popen(
            [sys.executable, "-W", "error", "-c", textwrap.dedent(PROGRAM), str(tmp_path / name), command],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    process = start("stopped", "interrupt")
    for line in process.stdout:
        if line == "step 12\n":
            break
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT  # an unhandled KeyboardInterrupt
    assert errors.endswith("KeyboardInterrupt\n")
    stopped = read_checkpoint(tmp_path / "stopped")
    assert 12 <= stopped.state["step"] < 27
    assert stopped.state["epoch"] == 1

    for name, command in (("stopped", "resume"), ("whole", "run")):
        process = start(name, command)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    resumed, whole = read_checkpoint(tmp_path / "stopped"), read_checkpoint(tmp_path / "whole")
    assert resumed.arrays.keys() == whole.arrays.keys()
    for name, array in whole.arrays.items():
        assert resumed.arrays[name].tobytes() == array.tobytes(), name
    for checkpoint in (resumed, whole):
        for record in checkpoint.state["history"]:
            del record["seconds"]
    assert resumed.state == whole.state


# ---- checkpoints that do not fit --------------------------------------------------------------------------------


@pytest.fixture
def saved(make_trainer, make_batches, tmp_path):
    trainer = make_trainer()
    trainer.fit(make_batches(), epochs=1)
    trainer.save(tmp_path / "net")
    return tmp_path / "net"


def assert_refused(path, net, optimizer, match):
    """Resume fails, and neither the net nor the optimizer has changed."""
    before = state(Trainer(net, softmax_cross_entropy, optimizer))
    with pytest.raises(CheckpointError, match=match) as caught:
        Trainer.resume(path, net, softmax_cross_entropy, optimizer)
    assert str(path) in str(caught.value)
    assert state(Trainer(net, softmax_cross_entropy, optimizer)) == before


def test_another_net(saved):
    net = layers.Sequential(layers.Flatten(), layers.Linear(64, 3))
    match = r"(?s)does not fit the model: .*1.weight: expected shape \(3, 64\), got \(4,\)"
    assert_refused(saved, net, optim.AdamW(net.parameters()), match)


def test_another_size(saved, make_net):
    net = make_net()
    setattr(net, "6", layers.Linear(64, 5))
    match = r"(?s)does not fit the model: .*6.weight.*\(5, 64\).*\(3, 64\)"
    assert_refused(saved, net, optim.AdamW(net.parameters()), match)


def test_another_dtype(saved, make_net):
    net = make_net("float64")
    assert_refused(saved, net, optim.AdamW(net.parameters()), "(?s)does not fit the model: .*float64")


def test_another_optimizer(saved, make_net):
    net = make_net()
    assert_refused(saved, net, optim.SGD(net.parameters()), "does not fit the optimizer: .*AdamW.*SGD")


def test_an_array_that_is_missing(saved, make_net):
    arrays, contents = read_checkpoint(saved)
    for name, match in (("model.0.weight", "0.weight"), ("optimizer.0.m", "0.m")):
        write_checkpoint(saved, {k: v for k, v in arrays.items() if k != name}, contents)
        net = make_net()
        assert_refused(saved, net, optim.AdamW(net.parameters()), match)


@pytest.mark.parametrize("name", ["step", "epoch", "epoch_step", "history", "best", "sums", "seed", "optimizer"])
def test_an_entry_that_is_missing(saved, make_net, name):
    arrays, contents = read_checkpoint(saved)
    del contents[name]
    write_checkpoint(saved, arrays, contents)
    net = make_net()
    assert_refused(saved, net, optim.AdamW(net.parameters()), f"has no '{name}'")


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("seed", "11", "'seed' of its training state: expected an integer from 0 to 2.*64 - 1, got '11'"),
        ("seed", 2**64, "'seed' .* got 18446744073709551616"),
        ("seed", True, "'seed' .* got True"),
        ("step", 6.0, "'step' of its training state: expected an integer of at least 0, got 6.0"),
        ("epoch", -1, "'epoch' .* got -1"),
        ("epoch_step", None, "'epoch_step' .* got None"),
        ("order", 3, "'order' .* expected a mapping or null, got 3"),
        ("sums", [0.0, 0, 0], "'sums' .* expected a mapping of loss, hits and images"),
        ("sums", {"loss": "0", "hits": 0, "images": 0}, "'sums' .* expected a mapping of loss, hits and images"),
        ("sums", {"loss": 0.0, "hits": 0.5, "images": 0}, "'sums'"),
        ("sums", {"loss": 0.0, "hits": 0, "images": 0, "more": 1}, "'sums'"),
        ("seconds", "0", "'seconds' .* expected a number"),
        ("history", [1], "'history' .* expected a list of mappings"),
        ("best", {"epoch": 1}, "'best' .* expected a mapping of epoch, val_loss and val_accuracy"),
        ("optimizer", [], "'optimizer' .* expected a mapping"),
        ("optimizer", {"kind": "AdamW", "groups": 5, "parameters": []}, "does not fit the optimizer"),
    ],
)
def test_an_entry_of_the_wrong_type(saved, make_net, name, value, match):
    arrays, contents = read_checkpoint(saved)
    write_checkpoint(saved, arrays, {**contents, name: value})
    net = make_net()
    assert_refused(saved, net, optim.AdamW(net.parameters()), match)


def test_not_of_a_trainer(saved, make_net):
    write_checkpoint(saved, {"w": np.ones(3)}, {"step": 3})
    net = make_net()
    assert_refused(saved, net, optim.AdamW(net.parameters()), "not a checkpoint of a Trainer")


def test_load_trained(saved, make_net, make_trainer, train_set):
    net = make_net()
    assert load_trained(net, saved) == {"step": 6, "epoch": 1, "best": None, "classes": None}
    assert Trainer(net, softmax_cross_entropy, None).evaluate(train_set) == make_trainer(saved).evaluate(train_set)
    with pytest.raises(CheckpointError, match="does not fit the model"):
        load_trained(layers.Linear(3, 4), saved)
