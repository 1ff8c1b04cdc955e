"""The set in the package, and the full set it is made of where the system has it."""

import hashlib
import importlib.util
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from xpconv.data import _greys, load, sources

TOOL = Path(__file__).parents[2] / "tools" / "make_fashion_subset.py"


def full_set():
    if not any((folder / "fashion-mnist").is_dir() for folder in sources._system_folders()):
        pytest.skip("the full Fashion-MNIST is in no folder of the system")
    return load("fashion-mnist", download=False)


def test_it_is_balanced_and_of_the_right_kind():
    splits = load("fashion-mnist-small")
    for part, count in (splits.train, 600), (splits.test, 100):
        assert part.image_shape == (1, 28, 28)
        assert part.images.dtype == np.uint8
        assert part.images.flags.c_contiguous
        assert np.bincount(part.labels).tolist() == [count] * 10
        assert part.classes[0] == "T-shirt/top"
        assert part.name == "fashion-mnist-small"


def test_it_is_small_and_comes_with_its_licence():
    folder = files("xpconv.data").joinpath("bundled")
    assert len(folder.joinpath("fashion-mnist-small.npz").read_bytes()) <= 620_000
    licence = folder.joinpath("LICENSE-fashion-mnist.txt").read_text()
    assert "MIT License" in licence
    assert "Copyright (c) 2017 Zalando SE" in licence


def test_its_pixels_are_these():
    """Without the full set at hand: the content, however it is packed."""
    digest = hashlib.sha256()
    for part in load("fashion-mnist-small"):
        digest.update(part.images.tobytes())
        digest.update(part.labels.astype(np.uint8).tobytes())
    assert digest.hexdigest() == "13eca66b30b0e44873e86b26f9f3b06cec65e4cbb44dac280b61889f7dfc5d1f"


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 2), (40, 9, 30)])
def test_what_was_packed_comes_out_again(shape):
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 8, shape, np.uint8)
    np.testing.assert_array_equal(_greys.unpack(*_greys.pack(noise), *shape[1:]), noise)
    smooth = np.cumsum(noise == 0, axis=2).astype(np.uint8) % 8
    states, words = _greys.pack(smooth)
    np.testing.assert_array_equal(_greys.unpack(states, words, *shape[1:]), smooth)
    if shape[0] > 3:
        assert 2 * len(words) < smooth.size / 6  # as bits, 3/8 of a byte each


def test_the_full_set_has_the_published_hashes():
    splits = full_set()
    assert (len(splits.train), len(splits.test)) == (60000, 10000)
    assert np.bincount(splits.train.labels).tolist() == [6000] * 10


def test_the_tool_makes_it_from_the_full_set(monkeypatch):
    if not TOOL.exists():
        pytest.skip("the tool is part of the source tree only")
    full = full_set()
    spec = importlib.util.spec_from_file_location("make_fashion_subset", TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    for part, made_of in zip(load("fashion-mnist-small"), full, strict=True):
        chosen = tool.first_of_each_class(made_of, len(part) // 10)
        exact, bundled = chosen.images.astype(int), part.images.astype(int)
        assert np.unique(bundled).tolist() == [0, 36, 73, 109, 146, 182, 219, 255]
        assert np.abs(exact - bundled).max() <= 18  # half of the distance between greys
        np.testing.assert_array_equal(chosen.labels, part.labels)
    packed = tool.pack({"a": np.arange(10), "b": np.zeros((3, 4), np.uint8, order="F")})
    assert packed == tool.pack({"a": np.arange(10), "b": np.zeros((3, 4), np.uint8, order="F")})
