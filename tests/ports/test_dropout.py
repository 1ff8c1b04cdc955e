"""``dropout_forward`` and ``dropout_backward``: p is the probability of keeping; a seed makes them repeatable."""

import numpy as np
import pytest

from xpconv.cs231n.layers import dropout_backward, dropout_forward


@pytest.mark.parametrize("keep", [0.25, 0.4, 0.7])
def test_keeps_that_share_and_the_mean(on, rng, keep):
    x = on.asarray(10 + rng.normal(size=(100, 100)), "float32")
    out = on.to_numpy(dropout_forward(x, {"mode": "train", "p": keep, "seed": 7})[0])
    kept = out != 0
    # 10,000 draws: five standard deviations of the share kept, and as many of the mean
    assert abs(kept.mean() - keep) < 5 * np.sqrt(keep * (1 - keep) / 10_000)
    assert abs(out.mean() - 10) < 5 * 10 * np.sqrt((1 - keep) / keep / 10_000)
    np.testing.assert_allclose(out[kept], on.to_numpy(x)[kept] / keep, rtol=1e-6)


def test_backward_goes_through_the_same_mask(on, close, rng):
    x, dout = on.asarray(1 + rng.random((4, 5)), "float32"), rng.normal(size=(4, 5))
    out, cache = dropout_forward(x, {"mode": "train", "p": 0.5, "seed": 1})
    close(dropout_backward(on.asarray(dout, "float32"), cache), np.where(on.to_numpy(out) != 0, 2 * dout, 0))


def test_a_seed_repeats_the_mask_and_another_does_not(on):
    x = on.asarray(np.ones((20, 20)), "float32")
    first, again, other = (
        on.to_numpy(dropout_forward(x, {"mode": "train", "p": 0.5, "seed": seed})[0]) for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_nothing_happens_in_a_test(on, rng):
    x = on.asarray(rng.normal(size=(3, 4)), "float32")
    out, cache = dropout_forward(x, {"mode": "test", "p": 0.5})
    np.testing.assert_array_equal(on.to_numpy(out), on.to_numpy(x))
    np.testing.assert_array_equal(on.to_numpy(dropout_backward(x, cache)), on.to_numpy(x))
