"""``xpconv evaluate``, ``predict`` and ``info``."""

import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import xpconv
from xpconv.data import DataError, read_image
from xpconv.training import Metrics


@pytest.fixture(scope="module")
def trained(tmp_path_factory, npz):
    """Folder of a run that has learnt its task, and the last line it printed."""
    import contextlib
    import io

    from xpconv.cli import main

    folder = tmp_path_factory.mktemp("runs") / "net"
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        options = ["--data", npz, "--epochs", "12", "--batch-size", "9", "--lr", "0.01", "--out", str(folder)]
        assert main(["train", *options]) == 0
    return str(folder), output.getvalue().splitlines()[-1]


@pytest.fixture
def pictures(npz, tmp_path):
    """Six test images as PNG files, and their labels."""
    with np.load(npz) as arrays:
        images, labels = arrays["x_test"][:6, 0], arrays["y_test"][:6]
    paths = []
    for number, image in enumerate(images):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(image).save(paths[-1])
    return paths, labels


def assert_error(result, message, expected=2):
    status, out, err = result
    assert status == expected
    assert "accuracy" not in out
    assert re.fullmatch(r"xpconv: error: [^\n]+\n", err)
    assert re.search(message, err), err


# ---- evaluate ---------------------------------------------------------------------------------------------------


def test_evaluate_agrees_with_the_run(run, trained):
    folder, line = trained
    status, out, err = run("evaluate", folder)
    assert (status, err) == (0, "")
    assert out.splitlines()[-1] == line
    assert re.search(r"^weights   .*best.safetensors, after \d+ epochs$", out, re.M)
    assert re.search(r"^test loss \d\.\d{4}$", out, re.M)


def test_evaluate_the_last_weights(run, trained):
    status, out, _ = run("evaluate", trained[0], "--weights", "last", "--batch-size", 7)
    assert status == 0
    assert "last.safetensors, after 12 epochs" in out


def test_evaluate_on_other_data(run, trained, npz, tmp_path):
    with np.load(npz) as arrays:
        images, labels = arrays["x_test"], arrays["y_test"]
    np.savez(tmp_path / "swapped.npz", x_train=images, y_train=labels, x_test=images, y_test=(labels + 1) % 3)
    status, out, _ = run("evaluate", trained[0], "--data", "swapped.npz")
    assert status == 0
    assert float(out.split()[-1]) < 0.2
    np.savez(tmp_path / "small.npz", x=images[..., :10], y=labels)
    assert_error(
        run("evaluate", trained[0], "--data", "small.npz"), r"small.npz: images are \(1, 12, 10\), the network"
    )
    np.savez(tmp_path / "many.npz", x=images, y=np.arange(30) % 5)
    assert_error(run("evaluate", trained[0], "--data", "many.npz"), "many.npz: 5 classes, the network knows 3")


@pytest.mark.parametrize("backend", ["array_api_strict", "torch"])
def test_evaluate_on_another_backend(run, trained, backend):
    pytest.importorskip(backend)
    status, out, _ = run("evaluate", trained[0], "--backend", backend)
    assert status == 0
    assert out.splitlines()[-1] == trained[1]


def test_evaluate_errors(run, trained, tmp_path):
    assert_error(run("evaluate", "nowhere"), "nowhere: no such folder")
    assert_error(run("evaluate", tmp_path), "not a run folder: it has no config.json")
    assert_error(run("evaluate", trained[0], "--weights", "worst"), "invalid choice: 'worst'")
    shutil.copytree(trained[0], tmp_path / "copy")
    (tmp_path / "copy" / "best.safetensors").write_bytes(b"nothing")
    assert_error(run("evaluate", "copy"), "copy/best.safetensors: not a safetensors file")
    (tmp_path / "copy" / "last.safetensors").unlink()
    assert_error(run("evaluate", "copy", "--weights", "last"), "copy/last.safetensors: cannot read .* No such file")


# ---- predict ----------------------------------------------------------------------------------------------------


def test_predict(run, trained, pictures):
    paths, labels = pictures
    status, out, err = run("predict", "--run", trained[0], *paths)
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert len(lines) == len(paths)
    for path, label, line in zip(paths, labels, lines, strict=True):
        match = re.fullmatch(r"(.*): (\d) ([01]\.\d{3}), (\d) ([01]\.\d{3}), (\d) ([01]\.\d{3})", line)
        assert match[1] == str(path)
        assert {match[2], match[4], match[6]} == {"0", "1", "2"}
        odds = [float(match[i]) for i in (3, 5, 7)]
        assert odds == sorted(odds, reverse=True)
        assert sum(odds) == pytest.approx(1, abs=0.002)
        assert match[2] == str(label)


def test_predict_in_another_form(run, trained, pictures, tmp_path):
    """The same picture larger, in colour, with another shape, or inverted."""
    paths, labels = pictures
    image = Image.open(paths[1])
    image.resize((48, 48)).save(tmp_path / "large.png")
    image.convert("RGB").save(tmp_path / "colour.jpg", quality=95)
    Image.fromarray(255 - np.asarray(image)).save(tmp_path / "inverted.png")
    status, out, _ = run("predict", "--run", trained[0], "large.png", "colour.jpg")
    assert status == 0
    assert [line.split(": ")[1][0] for line in out.splitlines()] == [str(labels[1])] * 2
    _, plain, _ = run("predict", "--run", trained[0], paths[1])
    _, inverted, _ = run("predict", "--run", trained[0], "inverted.png", "--invert")
    assert plain.split(": ")[1] == inverted.split(": ")[1]


def test_predict_errors(run, trained, pictures, tmp_path):
    paths, _ = pictures
    assert_error(run("predict", "--run", trained[0], "missing.png"), "missing.png: no such file")
    (tmp_path / "text.png").write_text("not a picture")
    assert_error(run("predict", "--run", trained[0], "text.png"), "text.png: cannot be read as an image")
    (tmp_path / "cut.png").write_bytes(paths[0].read_bytes()[:100])
    assert_error(run("predict", "--run", trained[0], "cut.png"), "cut.png: cannot be read as an image")
    assert_error(run("predict", "--run", trained[0], tmp_path), "cannot be read as an image: .*directory")
    assert_error(run("predict", "--run", trained[0]), "required: IMAGE")
    assert_error(run("predict", paths[0]), "required: --run")


def test_predict_needs_pixels_of_known_range(run, npz, tmp_path):
    with np.load(npz) as arrays:
        np.savez(tmp_path / "signed.npz", x=arrays["x_train"] / np.float32(100) - 1, y=arrays["y_train"])
    assert run("train", "--data", "signed.npz", "--model", "lenet", "--epochs", 1, "--out", "r")[0] == 0
    assert_error(run("predict", "--run", "r", "any.png"), "r: trained on images with pixels from -1 to 1.1[789]")


# ---- reading images ---------------------------------------------------------------------------------------------


def test_pixels_of_the_right_size_are_kept(tmp_path, rng):
    grey, colour = rng.integers(0, 256, (6, 5), dtype=np.uint8), rng.integers(0, 256, (6, 5, 3), dtype=np.uint8)
    Image.fromarray(grey).save(tmp_path / "g.png")
    Image.fromarray(colour).save(tmp_path / "c.png")
    np.testing.assert_array_equal(read_image(tmp_path / "g.png", (1, 6, 5)), grey[None])
    np.testing.assert_array_equal(read_image(tmp_path / "c.png", (3, 6, 5)), colour.transpose(2, 0, 1))
    np.testing.assert_array_equal(read_image(tmp_path / "g.png", (3, 6, 5)), np.stack([grey] * 3))
    np.testing.assert_array_equal(read_image(tmp_path / "g.png", (1, 6, 5), invert=True), 255 - grey[None])


def test_sixteen_bits_are_scaled(tmp_path):
    Image.fromarray(np.array([[0, 256, 65535]], dtype=np.uint16)).save(tmp_path / "i.png")
    np.testing.assert_array_equal(read_image(tmp_path / "i.png", (1, 1, 3)), [[[0, 1, 255]]])


def test_transparent_pixels_are_black(tmp_path):
    pixels = np.full((1, 2, 4), 200, dtype=np.uint8)
    pixels[0, 1, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "t.png")
    np.testing.assert_array_equal(read_image(tmp_path / "t.png", (1, 1, 2)), [[[157, 0]]])  # 200 * 200 / 255, 0


def test_another_shape_is_filled_up_with_black(tmp_path):
    Image.fromarray(np.full((20, 10), 255, dtype=np.uint8)).save(tmp_path / "tall.png")
    image = read_image(tmp_path / "tall.png", (1, 8, 8))[0]
    np.testing.assert_array_equal(image, np.repeat([[0, 0, 255, 255, 255, 255, 0, 0]], 8, axis=0))


def test_pixels_without_a_range(tmp_path):
    Image.fromarray(np.ones((4, 4), dtype=np.float32)).save(tmp_path / "f.tiff")
    with pytest.raises(DataError, match=r"f.tiff: pixels of 32 bits"):
        read_image(tmp_path / "f.tiff", (1, 4, 4))
    with pytest.raises(ValueError, match="takes images of 2 channels"):
        read_image(tmp_path / "f.tiff", (2, 4, 4))


# ---- info -------------------------------------------------------------------------------------------------------


def test_info(run):
    status, out, err = run("info")
    assert (status, err) == (0, "")
    assert xpconv.__version__ in out
    assert "conv2d" in out


@pytest.mark.parametrize(
    ("name", "value"), [("XPCONV_KERNELS", "foo"), ("XPCONV_WORKSPACE_MB", "0"), ("XPCONV_MATMUL_PRECISION", "foo")]
)
def test_wrong_settings_in_the_environment(process, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    _, err = (child := process("info")).communicate(timeout=60)
    assert child.returncode == 2
    assert re.fullmatch(rf"xpconv: error: {name}: expected [^\n]+, got '{value}'\n", err)


@pytest.mark.parametrize("options", [["info"], ["train", "--epochs", "1", "--batch-size", "30", "--out", "r$\udcff"]])
def test_with_closed_output(npz, tmp_path, options):
    data = ["--data", npz] if options[0] == "train" else []
    command = [sys.executable, "-m", "xpconv", *options, *data]
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *command], cwd=tmp_path, stderr=subprocess.PIPE, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_test_loss_that_is_not_finite(run, trained, npz, monkeypatch):
    monkeypatch.setattr("xpconv.training.Trainer.evaluate", lambda *_: Metrics(float("nan"), 0.1))
    monkeypatch.setattr("xpconv.training.Trainer.report", lambda *_: {"loss": float("nan"), "accuracy": 0.1})
    assert_error(run("evaluate", trained[0]), "test loss is nan with the weights", 1)
    status, out, err = run("train", "--data", npz, "--epochs", "1", "--out", "r")
    assert status == 1
    assert "test accuracy" not in out
    assert re.fullmatch(r"xpconv: error: test loss is nan with the weights[^\n]+\n", err)


def test_info_of_a_convolution(run):
    status, out, err = run("info", "--conv", "8,3,16,16", "4,3,3,3", "--padding", "same", "--dtype", "float64")
    assert (status, err) == (0, "")
    assert out.startswith("y (8, 4, 16, 16), float64, ")
    for operation in ("forward", "input gradient", "weight gradient"):
        engines = out.partition(f"\n{operation}\n")[2].partition("\n\n")[0].splitlines()
        assert [line.startswith("  -> ") for line in engines] == [True] + [False] * (len(engines) - 1)
        assert any("im2col" in line for line in engines)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("8,3,16", "4,3,3,3"), "argument --conv: expected four whole numbers such as 128,64,32,32, got '8,3,16'"),
        (("8,3,16,16", "4,2,3,3"), "w: has 2 channels a filter"),
    ],
)
def test_info_of_what_is_no_convolution(run, options, message):
    status, out, err = run("info", "--conv", *options)
    assert (status, out) == (2, "")
    assert message in err


def test_info_with_the_stride_of_nothing(run):
    status, out, err = run("info", "--stride", "2")
    assert (status, out) == (2, "")
    assert "--conv, which is missing" in err
