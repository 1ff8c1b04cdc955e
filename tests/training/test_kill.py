"""A run that is killed loses steps, never a checkpoint; `benchmarks.kill_training` does it a hundred times."""

import pytest

pytest.importorskip("benchmarks", reason="the benchmarks are in the repository, not in the package")

from benchmarks.kill_training import SAVE_EVERY, Count, kill_often


def test_killed_at_random_moments(tmp_path):
    count = kill_often(5, tmp_path, seed=1)
    assert count.kills == 5
    assert (count.checkpoints_lost, count.other_results) == (0, 0)
    assert count.most_lost <= SAVE_EVERY
    assert count.is_good()


@pytest.mark.parametrize("name", ["checkpoints_lost", "other_results"])
def test_what_would_be_told(name):
    assert not Count(kills=5, **{name: 1}).is_good()
    assert not Count(kills=5, most_lost=SAVE_EVERY + 1).is_good()
