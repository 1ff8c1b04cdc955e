"""The example that deblurs a picture."""

import numpy as np
import pytest


def test_its_gradient_is_that_of_its_loss(example, monkeypatch):
    module = example("deblur.py")
    monkeypatch.setattr(module, "DIFFERENCES", module.DIFFERENCES.astype(np.float64))
    rng = np.random.default_rng(0)
    k = module.disc(1.5).astype(np.float64)
    x, y = rng.random((2, 1, 9, 8)), rng.random((2, 1, 5, 4))
    direction = rng.standard_normal(x.shape)
    eps = 1e-6

    def loss(t):
        return module.loss_and_gradient(x + t * direction, y, k, 0.3)[0]

    numeric = (loss(eps) - loss(-eps)) / (2 * eps)
    _, gradient = module.loss_and_gradient(x, y, k, 0.3)
    assert np.sum(gradient * direction) == pytest.approx(numeric, rel=1e-6)


def test_the_picture_gets_better(example, tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    out = tmp_path / "clothes.png"
    before, after = example("deblur.py").main(["--small", "--out", str(out)])
    assert after > before + 5  # decibels
    assert out.read_bytes()[:4] == b"\x89PNG"
    losses = [float(line.rpartition(" ")[2]) for line in capsys.readouterr().out.splitlines() if "loss" in line]
    assert losses == sorted(losses, reverse=True)


def test_pictures_of_ones_own(example, tmp_path):
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    file = tmp_path / "wide.png"
    image.new("RGB", (20, 10), (255, 0, 51)).save(file)
    pixels = example("deblur.py").photograph(str(file), small=False)
    assert pixels.shape == (3, 1, 10, 20)
    assert pixels[:, 0, 0, 0] == pytest.approx([1, 0, 0.2])
