"""The comparison of two commits: that it tells changes from noise, and measures the right tree."""

import subprocess
from pathlib import Path

import pytest

pytest.importorskip("threadpoolctl", reason="the benchmarks need the extra 'bench'")
pytest.importorskip("benchmarks", reason="the benchmarks are in the repository, not in the package")

import xpconv
from benchmarks import compare
from benchmarks.compare import changes, report, tree, verdict
from benchmarks.report import row_of_samples


def rounds(times, case="A", baseline="torch"):
    return [
        [row_of_samples("layers", case, "forward", 1, {"xpconv": [time * 1e-3]}, baseline=baseline)] for time in times
    ]


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([1.0, 1.0, 1.0], [2.0, 2.0, 2.0], "slower"),
        ([2.0, 2.0, 2.0], [1.0, 1.0, 1.0], "faster"),
        ([1.0, 1.0, 1.0], [1.03, 1.03, 1.03], "same"),
        ([1.0, 10.0, 1.0], [1.2, 12.0, 1.2], "slower"),  # the machine was ten times slower in the second round
        ([1.0, 1.0, 1.0, 1.0], [1.5, 1.5, 0.7, 0.7], "same"),  # the rounds do not agree
        ([1.0, 1.3, 1.3], [1.02, 1.6, 1.6], "same"),  # the best ones are equal
        ([1.02, 1.6, 1.6], [1.0, 1.3, 1.3], "same"),
    ],
)
def test_changes_are_told_from_noise(first, second, expected):
    (change,) = changes(rounds(first), rounds(second))
    assert verdict(change, 0.05) == expected


def test_the_worst_comes_first():
    before = [a + b + c for a, b, c in zip(*(rounds([1, 1], case) for case in "ABC"), strict=True)]
    after = [
        a + b + c for a, b, c in zip(rounds([2, 2], "A"), rounds([4, 4], "B"), rounds([0.5, 0.5], "C"), strict=True)
    ]
    lines = report(changes(before, after), 0.05)
    assert [line.strip().partition(",")[0] for line in lines] == [
        *("slower (2):", "layers: B", "layers: A", "faster (1):", "layers: C", "no change beyond 5%: 0 of 3 rows"),
    ]
    assert "1 -> 4 ms, 0.25 (0.25-0.25)" in lines[1]


def test_rows_of_one_side_or_of_some_rounds_do_not_count():
    assert changes(rounds([1.0], "A"), rounds([1.0], "B")) == []
    assert changes(rounds([1.0, 1.0]), [*rounds([1.0]), []]) == []


def test_two_folders_are_compared(capsys, tmp_path):
    """The same on both sides, on minute arrays: what it says of speed does not matter."""
    here = str(Path(xpconv.__file__).parents[1])
    status = compare.main([here, here, "layers", "--only", "ReLU", "--tiny", "--rounds", "1", "--threshold", "1e9"])
    printed = capsys.readouterr()
    assert status == 0, printed.err
    assert "no change beyond 100000000000%: 6 of 6 rows" in printed.out


def test_a_tree_is_the_one_that_is_measured(tmp_path, capsys):
    """A folder with an xpconv that cannot be imported fails on its side."""
    (tmp_path / "xpconv").mkdir()
    (tmp_path / "xpconv" / "__init__.py").write_text("raise ImportError('the other xpconv')\n")
    here = str(Path(xpconv.__file__).parents[1])
    assert compare.main([here, str(tmp_path), "layers", "--only", "ReLU", "--tiny", "--rounds", "1"]) == 1
    assert "exit status 1: ImportError: the other xpconv" in capsys.readouterr().err


@pytest.fixture
def repository(tmp_path):
    """Two commits: the second does not build."""
    root = tmp_path / "repository"
    root.mkdir()

    def git(*arguments):
        subprocess.run(
            ["git", "-C", str(root), "-c", "user.name=n", "-c", "user.email=e@x", *arguments],
            check=True,
            capture_output=True,
        )

    try:
        git("init", "--quiet")
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("no git")
    for text in ("from pathlib import Path; Path('built').write_text('1')", "raise SystemExit('no compiler')"):
        (root / "setup.py").write_text(text)
        git("add", "setup.py")
        git("commit", "--quiet", "--message", "one")
    return root


def test_a_commit_is_built_in_a_worktree_that_goes_away(repository, tmp_path):
    with tree("HEAD~1", tmp_path / "first", repository) as found:
        assert (found / "built").exists()
        assert not (repository / "built").exists()
    assert not (tmp_path / "first").exists()


def test_a_commit_that_does_not_build_or_is_none(repository, tmp_path):
    with pytest.raises(ValueError, match="HEAD: does not build: no compiler"), tree("HEAD", tmp_path / "a", repository):
        pass
    assert not (tmp_path / "a").exists()
    with pytest.raises(ValueError, match="no-such: neither a commit nor a folder"):
        tree("no-such", tmp_path / "b", repository).__enter__()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a", "b", "layer"], "unknown section layer"),
        (["a", "b", "--rounds", "0"], "from 1 on"),
        (["no-such-commit", "HEAD"], "neither a commit nor a folder"),
    ],
)
def test_bad_usage_is_status_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        compare.main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
