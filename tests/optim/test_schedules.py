"""Schedules against those of PyTorch, and what they do after their end."""

import math
import pickle

import pytest

from xpconv.optim import (
    ConstantSchedule,
    CosineSchedule,
    OneCycleSchedule,
    Schedule,
    StepSchedule,
    WarmupSchedule,
)


def torch_rates(make, lr, steps):
    """Learning rates of a PyTorch scheduler, step by step."""
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=lr)
    scheduler = make(torch.optim.lr_scheduler, optimizer)
    rates = []
    for step in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step < steps - 1:
            scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("ours", "theirs", "steps"),
    [
        (StepSchedule(0.1, 7, 0.5), lambda s, o: s.StepLR(o, 7, 0.5), 30),
        (StepSchedule(0.1, [3, 8, 8, 20]), lambda s, o: s.MultiStepLR(o, [3, 8, 8, 20]), 30),
        (CosineSchedule(0.1, 20), lambda s, o: s.CosineAnnealingLR(o, 20), 21),
        (CosineSchedule(0.1, 20, 0.01), lambda s, o: s.CosineAnnealingLR(o, 20, 0.01), 21),
        (OneCycleSchedule(0.1, 50), lambda s, o: s.OneCycleLR(o, 0.1, total_steps=50), 50),
        (
            OneCycleSchedule(0.3, 37, 0.45, 10.0, 100.0),
            lambda s, o: s.OneCycleLR(
                o, 0.3, total_steps=37, pct_start=0.45, div_factor=10.0, final_div_factor=100.0, cycle_momentum=False
            ),
            37,
        ),
        (OneCycleSchedule(0.1, 10, 0.0), lambda s, o: s.OneCycleLR(o, 0.1, total_steps=10, pct_start=0.0), 10),
        (OneCycleSchedule(0.1, 10, 1.0), lambda s, o: s.OneCycleLR(o, 0.1, total_steps=10, pct_start=1.0), 10),
        (
            WarmupSchedule(StepSchedule(0.1, 6, 0.5), 5),
            lambda s, o: s.ChainedScheduler([s.LinearLR(o, 1 / 5, total_iters=4), s.StepLR(o, 6, 0.5)]),
            20,
        ),
        (ConstantSchedule(0.1), lambda s, o: s.ConstantLR(o, 1.0), 5),
    ],
)
@pytest.mark.filterwarnings("ignore:.*:UserWarning")
def test_equals_torch(ours, theirs, steps):
    rates = [ours(step) for step in range(steps)]
    assert rates == pytest.approx(torch_rates(theirs, 0.1, steps), rel=1e-9, abs=1e-12)


def test_after_the_end():
    cosine = CosineSchedule(0.1, 20, 0.01)
    assert cosine(20) == cosine(1000) == pytest.approx(0.01)
    one_cycle = OneCycleSchedule(0.1, 20)
    assert one_cycle(19) == one_cycle(1000) == pytest.approx(0.1 / 25 / 1e4)
    assert OneCycleSchedule(0.1, 1, 1.0)(0) == 0.1


def test_one_cycle_peaks_once():
    schedule = OneCycleSchedule(1.0, 100)
    rates = [schedule(step) for step in range(100)]
    peak = rates.index(max(rates))
    assert peak == 29
    assert rates[:30] == sorted(rates[:30])
    assert rates[29:] == sorted(rates[29:], reverse=True)
    assert rates[0] == pytest.approx(1 / 25)


def test_warmup_of_any_function():
    warm = WarmupSchedule(lambda step: 0.5 + step, 4)
    assert [warm(step) for step in range(5)] == [0.125, 0.75, 1.875, 3.5, 4.5]


def test_are_values():
    first, second = OneCycleSchedule(0.1, 50), OneCycleSchedule(0.1, 50)
    assert first == second
    assert pickle.loads(pickle.dumps(first)) == first
    assert repr(StepSchedule(0.1, [3, 5])) == "StepSchedule(lr=0.1, steps=(3, 5), gamma=0.1)"
    assert all(isinstance(schedule, Schedule) for schedule in (first, WarmupSchedule(first, 3)))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ConstantSchedule(-0.1), ValueError, "lr"),
        (lambda: ConstantSchedule("0.1"), TypeError, "lr"),
        (lambda: ConstantSchedule(math.nan), ValueError, "lr"),
        (lambda: StepSchedule(0.1, 0), ValueError, "steps: must be at least 1, got 0"),
        (lambda: StepSchedule(0.1, [2.5]), TypeError, "steps: expected an integer, got 2.5"),
        (lambda: StepSchedule(0.1, 5, -1), ValueError, "gamma"),
        (lambda: CosineSchedule(0.1, 0), ValueError, "total_steps"),
        (lambda: CosineSchedule(0.1, 10, -0.1), ValueError, "min_lr"),
        (lambda: OneCycleSchedule(0.1, 10, 1.5), ValueError, "pct_start"),
        (lambda: OneCycleSchedule(0.1, 10, div_factor=0), ValueError, "div_factor: must be above 0, got 0"),
        (lambda: OneCycleSchedule(0.1, 10, final_div_factor=-1), ValueError, "final_div_factor"),
        (lambda: OneCycleSchedule(0.1, 1.5), TypeError, "total_steps"),
        (lambda: WarmupSchedule(0.1, 10), TypeError, "schedule: expected a schedule, got 0.1"),
        (lambda: WarmupSchedule(ConstantSchedule(0.1), 0), ValueError, "steps"),
        (lambda: ConstantSchedule(0.1)(-1), ValueError, "step: must be at least 0, got -1"),
        (lambda: ConstantSchedule(0.1)(0.5), TypeError, "step: expected an integer, got 0.5"),
        (lambda: WarmupSchedule(ConstantSchedule(0.1), 5)(-1), ValueError, "step"),
    ],
)
def test_refuses(make, error, message):
    with pytest.raises(error, match=message):
        make()
