import colorsys

import numpy as np
import pytest

from xpconv.data import ColorJitter, Cutout

X = np.random.default_rng(1).integers(0, 256, (9, 3, 6, 7), dtype=np.uint8)
LUMA = np.array([0.299, 0.587, 0.114])


def generator():
    return np.random.default_rng(77)


def drawn(count=9):
    return 2 * generator().random((count, 4)) - 1


def jittered(x, brightness=0.0, contrast=0.0, saturation=0.0):
    """One after the other, image by image, in double precision and without cutting in between."""
    result = []
    for image, (b, c, s, _) in zip(x.astype(np.float64) / 255, drawn(len(x)), strict=True):
        image = image * (1 + brightness * b)
        mean = (LUMA @ image.reshape(3, -1)).mean()
        image = mean + (1 + contrast * c) * (image - mean)
        luma = np.tensordot(LUMA, image, 1)
        result.append(np.clip(luma + (1 + saturation * s) * (image - luma), 0, 1))
    return np.stack(result)


@pytest.mark.parametrize(
    "strengths",
    [(0.4, 0, 0), (0, 0.7, 0), (0, 0, 0.9), (0.4, 0.4, 0.4)],
    ids=["brightness", "contrast", "saturation", "all"],
)
def test_brightness_contrast_and_saturation(on, strengths):
    got = on.to_numpy(ColorJitter(*strengths)(on.asarray(X), generator(), True))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, jittered(X, *strengths), atol=2e-6)


def test_floating_point_images_keep_their_dtype(on):
    for dtype in on.dtypes:
        got = on.to_numpy(ColorJitter(0.4, 0.4, 0.4)(on.asarray((X / 255).astype(dtype)), generator(), True))
        assert got.dtype == dtype
        np.testing.assert_allclose(got, jittered(X, 0.4, 0.4, 0.4), atol=2e-6)


def test_hue_turns_the_colour_and_leaves_luma():
    x = X / 1020 + 0.4  # far from black and white, so that nothing is cut off
    got = ColorJitter(hue=0.3)(x, generator(), True)
    np.testing.assert_allclose(np.tensordot(got, LUMA, ([1], [0])), np.tensordot(x, LUMA, ([1], [0])), atol=1e-4)
    assert np.abs(got - x).max() > 0.02
    # by as much as was drawn: the colour of each pixel turns that far about the grey axis
    angles = []
    for image in (x, got):
        angles.append(
            np.array([[colorsys.rgb_to_yiq(*pixel)[1:] for pixel in one.reshape(3, -1).T] for one in image]) @ [1, 1j]
        )
    turned = np.angle(angles[1] / angles[0])
    strong = np.abs(angles[0]) > 0.03
    expected = np.broadcast_to(2 * np.pi * 0.3 * drawn()[:, 3:], turned.shape)
    np.testing.assert_allclose(turned[strong], expected[strong], atol=0.05)  # colorsys rounds the axes otherwise


def test_grey_stays_grey():
    grey = np.repeat(X[:, :1], 3, axis=1)
    got = ColorJitter(0.3, 0.3, 0.8, 0.5)(grey, generator(), True)
    np.testing.assert_allclose(got, np.repeat(got[:, :1], 3, axis=1), atol=1e-3)
    one = ColorJitter(0.3, 0.3, 0.8, 0.5)(X[:, :1], generator(), True)
    np.testing.assert_allclose(one, got[:, :1], atol=1e-3)


def test_nothing_happens_without_training_or_strength(on):
    x = on.asarray(X)
    np.testing.assert_array_equal(on.to_numpy(ColorJitter(0.5, 0.5, 0.5, 0.5)(x, generator(), False)), X)
    np.testing.assert_allclose(on.to_numpy(ColorJitter()(x, generator(), True)), X / 255, atol=1e-6)
    assert on.to_numpy(ColorJitter(1)(on.asarray(X[:0]), generator(), True)).shape == (0, 3, 6, 7)


def test_cutout_hides_one_square(on):
    size, pad = (3, 4), 4
    got = on.to_numpy(Cutout(size)(on.asarray(X | 1), generator(), True))
    assert got.dtype == np.uint8
    for image, before, u in zip(got, X | 1, generator().random((9, 2)), strict=True):
        y, x = (int(v) for v in np.floor(u * [6, 7]))
        padded = np.pad(before, ((0, 0), (pad, pad), (pad, pad)))
        padded[:, pad + y - 1 : pad + y + 2, pad + x - 2 : pad + x + 2] = 0
        np.testing.assert_array_equal(image, padded[:, pad:-pad, pad:-pad])
    np.testing.assert_array_equal(on.to_numpy(Cutout(3)(on.asarray(X), generator(), False)), X)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ColorJitter(brightness=1.5), ValueError, "brightness: expected a number between 0 and 1, got 1.5"),
        (lambda: ColorJitter(hue=0.6), ValueError, "hue: expected a number between 0 and 0.5, got 0.6"),
        (lambda: ColorJitter(contrast="a"), TypeError, "contrast: expected a number between 0 and 1, got 'a'"),
        (lambda: ColorJitter(0.1)(X[:, :2], generator(), True), ValueError, "images: expected 1 or 3 channels, got 2"),
        (lambda: ColorJitter(0.1)(X.astype(int), generator(), True), TypeError, "images: expected uint8 or floating"),
        (lambda: Cutout(0), ValueError, "size: must be at least 1, got 0"),
        (lambda: Cutout(2)(X[0], generator(), True), ValueError, "images: expected 4 dimensions"),
    ],
)
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()
