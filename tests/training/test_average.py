"""The moving average of the weights: PyTorch's, what evaluates with it, what saves it."""

import numpy as np
import pytest

import xpconv
from xpconv.training import Callback, CheckpointError, Trainer, WeightAverage, load_trained, read_checkpoint


class Weights(Callback):
    """The weights after each step."""

    def __init__(self):
        self.after = []

    def on_step_end(self, trainer):
        self.after.append({name: xpconv.to_numpy(p.data).copy() for name, p in trainer.model.named_parameters()})


def test_it_is_that_of_pytorch(make_trainer, make_batches):
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle")
    seen = Weights()
    trainer = make_trainer(ema=0.9, callbacks=[seen])
    trainer.fit(make_batches(), epochs=1)

    names = list(seen.after[0])
    net = torch.nn.Module()
    for name in names:
        net.register_parameter(name.replace(".", "_"), torch.nn.Parameter(torch.zeros(seen.after[0][name].shape)))
    average = torch.optim.swa_utils.AveragedModel(net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    for weights in seen.after:
        with torch.no_grad():
            for name in names:
                getattr(net, name.replace(".", "_")).copy_(torch.tensor(weights[name]))
        average.update_parameters(net)
    last = {name: xpconv.to_numpy(p.data).tobytes() for name, p in trainer.model.named_parameters()}
    with trainer.averaged_weights():
        for name, parameter in trainer.model.named_parameters():
            expected = getattr(average.module, name.replace(".", "_")).detach().numpy()
            np.testing.assert_allclose(parameter.data, expected, rtol=1e-5, atol=1e-7)
            assert xpconv.to_numpy(parameter.data).tobytes() != last[name]
    assert {name: xpconv.to_numpy(p.data).tobytes() for name, p in trainer.model.named_parameters()} == last


def test_what_uses_it_and_what_does_not(make_trainer, make_batches, make_net, test_set, tmp_path):
    """Training is as without; validation, evaluate, predict and loaded weights are of the average."""
    plain, averaged = make_trainer(), make_trainer(ema=0.8)
    for trainer in (plain, averaged):
        trainer.fit(make_batches(), epochs=2, validation=test_set)
    for name, array in plain.model.state_dict().items():
        assert array.tobytes() == averaged.model.state_dict()[name].tobytes(), name
    assert averaged.history[-1]["loss"] == plain.history[-1]["loss"]
    assert averaged.history[-1]["val_loss"] != plain.history[-1]["val_loss"]

    averaged.save(tmp_path / "net")
    net = make_net()
    load_trained(net, tmp_path / "net")
    for name, array in plain.model.state_dict().items():
        buffer = "running" in name or "tracked" in name
        assert (array.tobytes() == net.state_dict()[name].tobytes()) == buffer, name
    other = Trainer(net, averaged.loss, None)
    x = test_set.images / np.float32(255)
    assert other.evaluate(test_set) == averaged.evaluate(test_set)
    assert averaged.evaluate(test_set).loss == averaged.history[-1]["val_loss"]
    np.testing.assert_array_equal(other.predict(x), averaged.predict(x))
    assert averaged.evaluate(test_set) != plain.evaluate(test_set)


def test_on_every_backend(on, make_trainer, make_batches):
    """Two steps with a decay of 1/2: half way between the weights after each."""
    seen = Weights()
    trainer = make_trainer(ema=0.5, callbacks=[seen])
    trainer.fit(make_batches(21), epochs=1)
    with trainer.averaged_weights():
        for name, parameter in trainer.model.named_parameters():
            expected = (seen.after[0][name] + seen.after[1][name]) / 2
            np.testing.assert_allclose(xpconv.to_numpy(parameter.data), expected, rtol=1e-5, atol=1e-8)
            assert (seen.after[0][name] != seen.after[1][name]).any()


def test_before_the_first_step_there_is_none(make_trainer, test_set):
    assert make_trainer(ema=0.9).evaluate(test_set) == make_trainer().evaluate(test_set)


def test_a_checkpoint_with_and_one_without(make_trainer, make_batches, tmp_path):
    for name, ema in (("with", 0.9), ("without", None)):
        trainer = make_trainer(ema=ema)
        trainer.fit(make_batches(), epochs=1)
        trainer.save(tmp_path / name)
    with pytest.raises(CheckpointError, match="is of a run with ema, which must stay so"):
        make_trainer(tmp_path / "with")
    with pytest.raises(CheckpointError, match="is of a run without ema"):
        make_trainer(tmp_path / "without", ema=0.9)
    with pytest.raises(CheckpointError, match=r"is of a run with ema 0\.9, which must stay so, got 0\.99"):
        make_trainer(tmp_path / "with", ema=0.99)
    assert make_trainer(tmp_path / "with", ema=0.9).step > 0


def test_averages_that_do_not_fit(make_net):
    average = WeightAverage(make_net(), 0.9)
    average.update()
    arrays = {name: xpconv.to_numpy(p.data) for name, p in average.model.named_parameters()}
    WeightAverage(make_net(), 0.9).load(arrays, 3)
    for change, match in (
        ({"0.weight": arrays["0.bias"]}, r"average of 0.weight: expected shape \(4, 1, 3, 3\), got \(4,\)"),
        ({"0.bias": arrays["0.bias"].astype(np.float64)}, "average of 0.bias: expected float32, got float64"),
    ):
        with pytest.raises(ValueError, match=match):
            WeightAverage(make_net(), 0.9).load(arrays | change, 3)
    del arrays["6.bias"]
    with pytest.raises(ValueError, match=r"no average of 6\.bias"):
        WeightAverage(make_net(), 0.9).load(arrays, 3)


def test_the_checkpoint_says_how_it_was_made(make_trainer, make_batches, tmp_path):
    trainer = make_trainer(ema=0.75)
    trainer.fit(make_batches(), epochs=1)
    trainer.save(tmp_path / "net")
    assert read_checkpoint(tmp_path / "net").state["ema"] == {"decay": 0.75, "count": 6}


@pytest.mark.parametrize(("ema", "error"), [(1.0, ValueError), (-0.1, ValueError), ("0.9", TypeError)])
def test_a_wrong_decay(make_trainer, ema, error):
    with pytest.raises(error, match="ema: "):
        make_trainer(ema=ema)
