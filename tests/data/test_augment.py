import numpy as np
import pytest

from xpconv.data import ArrayDataset, Compose, Normalize, RandomFlip, ShiftCrop, standard_transform

X = np.random.default_rng(1).integers(0, 256, (9, 3, 6, 7), dtype=np.uint8)


def generator():
    return np.random.default_rng(77)


def crop_oracle(x, far_y, far_x):
    """Pad with zeros, crop at random, image by image; draws as ShiftCrop does."""
    rng = generator()
    shifts = np.floor(rng.random((len(x), 2)) * [2 * far_y + 1, 2 * far_x + 1]).astype(int) - [far_y, far_x]
    dy, dx = shifts.T
    padded = np.pad(x, ((0, 0), (0, 0), (far_y, far_y), (far_x, far_x)))
    height, width = x.shape[2:]
    windows = [
        image[:, far_y + v : far_y + v + height, far_x + u : far_x + u + width]
        for image, v, u in zip(padded, dy, dx, strict=True)
    ]
    return np.stack(windows)


@pytest.mark.parametrize(
    ("padding", "pair"), [(1, (1, 1)), (4, (4, 4)), ((5, 0), (5, 0)), ((0, 6), (0, 6)), ((2, 3), (2, 3))]
)
def test_shift_crop_is_pad_and_crop(on, padding, pair):
    got = on.to_numpy(ShiftCrop(padding)(on.asarray(X), generator(), True))
    assert got.dtype == np.uint8
    np.testing.assert_array_equal(got, crop_oracle(X, *pair))


def test_shift_crop_of_floating_point_images(on):
    for dtype in on.dtypes:
        x = (X / 255).astype(dtype)
        got = on.to_numpy(ShiftCrop(2)(on.asarray(x), generator(), True))
        assert got.dtype == dtype
        np.testing.assert_array_equal(got, crop_oracle(x, 2, 2))


def test_every_shift_occurs():
    x = np.zeros((500, 1, 5, 5), np.uint8)
    x[:, 0, 2, 2] = 1
    _, _, rows, columns = np.nonzero(ShiftCrop((1, 2))(x, generator(), True))
    assert set(zip(rows.tolist(), columns.tolist(), strict=True)) == {(r, c) for r in (1, 2, 3) for c in range(5)}


def test_flip_mirrors_whole_images(on):
    got = on.to_numpy(RandomFlip(0.4)(on.asarray(X), generator(), True))
    flipped = generator().random((len(X), 1))[:, 0] < 0.4
    assert 0 < flipped.sum() < len(X)
    np.testing.assert_array_equal(got, np.where(flipped[:, None, None, None], X[:, :, :, ::-1], X))


def test_flip_always_and_never(on):
    np.testing.assert_array_equal(on.to_numpy(RandomFlip(1)(on.asarray(X), generator(), True)), X[..., ::-1])
    np.testing.assert_array_equal(on.to_numpy(RandomFlip(0)(on.asarray(X), generator(), True)), X)


@pytest.mark.parametrize("training", [True, False])
def test_normalize_bytes(on, training):
    mean, std = (0.2, 0.5, 0.7), (0.1, 0.3, 1.5)
    column = (1, -1, 1, 1)
    expected = (X / 255 - np.reshape(mean, column)) / np.reshape(std, column)
    for dtype in on.dtypes:
        got = on.to_numpy(Normalize(mean, std, dtype)(on.asarray(X), generator(), training))
        assert got.dtype == dtype
        np.testing.assert_allclose(got, expected, atol=4e-6 if dtype == "float32" else 1e-14)


def test_normalize_floating_point_images(on):
    for dtype in on.dtypes:
        x = (X / 255).astype(dtype)
        got = on.to_numpy(Normalize(0.5, 0.25)(on.asarray(x), generator(), True))
        assert got.dtype == dtype
        np.testing.assert_allclose(got, (x - 0.5) / 0.25, atol=1e-6 if dtype == "float32" else 1e-14)


def test_all_backends_agree_in_every_bit(on):
    chain = Compose([ShiftCrop(2), RandomFlip(), Normalize((0.2, 0.5, 0.7), (0.1, 0.3, 1.5))])
    expected = chain(X, generator(), True)
    np.testing.assert_array_equal(on.to_numpy(chain(on.asarray(X), generator(), True)), expected)


def test_evaluation_only_normalizes(on):
    chain = Compose([ShiftCrop(2), RandomFlip(), Normalize(0.0, 1.0)])
    got = on.to_numpy(chain(on.asarray(X), generator(), False))
    np.testing.assert_allclose(got, X / 255, atol=1e-7)


def test_empty_batches(on):
    chain = Compose([ShiftCrop(2), RandomFlip(), Normalize(0.0, 1.0)])
    assert on.to_numpy(chain(on.asarray(X[:0]), generator(), True)).shape == (0, 3, 6, 7)


def test_the_images_given_are_not_changed():
    x = X.copy()
    Compose([ShiftCrop(2), RandomFlip(), Normalize(0.1, 2.0)])(x, generator(), True)
    np.testing.assert_array_equal(x, X)
    x = X / 255.0
    kept = x.copy()
    Normalize(0.1, 2.0)(x, generator(), True)
    np.testing.assert_array_equal(x, kept)


def test_images_that_are_not_contiguous():
    x = X.transpose(0, 1, 3, 2)[::2, :, ::-1]
    got = ShiftCrop((2, 1))(x, generator(), True)
    np.testing.assert_array_equal(got, crop_oracle(np.ascontiguousarray(x), 2, 1))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_on_torch(dtype):
    torch = pytest.importorskip("torch")
    got = Normalize(0.5, 0.25, dtype)(torch.as_tensor(X), generator(), True)
    assert got.dtype == getattr(torch, dtype)
    np.testing.assert_allclose(
        got.float().numpy(), (X / 255 - 0.5) / 0.25, atol=0.008 if dtype == "bfloat16" else 0.001
    )


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ShiftCrop(-1), ValueError, "padding: must be at least 0, got -1"),
        (lambda: ShiftCrop(1.5), TypeError, "padding: expected an integer or a pair of integers, got 1.5"),
        (lambda: ShiftCrop(6)(X, generator(), True), ValueError, "padding: must be smaller than the images, 6 x 7"),
        (lambda: RandomFlip(1.5), ValueError, "probability: expected a number between 0 and 1, got 1.5"),
        (lambda: RandomFlip(float("nan")), ValueError, "probability: expected a number between 0 and 1, got nan"),
        (lambda: RandomFlip("a"), TypeError, "probability: expected a number between 0 and 1, got 'a'"),
        (lambda: Normalize("a", 1), TypeError, "mean: expected a number or a sequence of numbers, .* got 'a'"),
        (lambda: Normalize(0, [[1]]), TypeError, r"std: expected a number or a sequence of numbers, .* got \[\[1\]\]"),
        (lambda: Normalize(0, [1, [2]]), TypeError, "std: expected a number or a sequence of numbers"),
        (lambda: Normalize(1j, 1), TypeError, "mean: expected a number or a sequence of numbers, .* got 1j"),
        (lambda: Normalize((0, 0), (1, 0)), ValueError, r"std: must be positive, got \(1.0, 0.0\)"),
        (lambda: Normalize((0, 0), (1,)), ValueError, "std: expected as many numbers as mean"),
        (lambda: Normalize(float("nan"), 1), ValueError, "mean: expected finite numbers"),
        (lambda: Normalize(0, 1, "int32"), ValueError, "dtype: expected float16, .* got 'int32'"),
        (lambda: Normalize((), ()), ValueError, "mean: expected finite numbers"),
        (lambda: Normalize((0, 0), (1, 1))(X, generator(), True), ValueError, "images: expected 2 channels, got 3"),
        (lambda: Normalize(0, 1)(X.astype(int), generator(), True), TypeError, "images: expected uint8 .* got int64"),
        (lambda: RandomFlip()(X[0], generator(), True), ValueError, "images: expected 4 dimensions"),
        (lambda: RandomFlip()(X.tolist(), generator(), True), TypeError, "images: expected an array"),
        (lambda: Compose([ShiftCrop(1), 5]), TypeError, "transforms: expected callables, got 5"),
    ],
)
def test_bad_arguments(make, error, message):
    with pytest.raises(error, match=message):
        make()


# ---- standard_transform -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cifar10", "[ShiftCrop(padding=(4, 4)), RandomFlip(probability=0.5), "),
        ("fashion-mnist-small", "[ShiftCrop(padding=(1, 1)), RandomFlip(probability=0.5), "),
        ("mnist", "[ShiftCrop(padding=(2, 2)), Normalize("),
        ("my own", "[ShiftCrop(padding=(3, 3)), Normalize("),
    ],
)
def test_what_suits_a_set(name, expected):
    dataset = ArrayDataset(np.zeros((2, 3, 32, 24), np.uint8), [0, 1], name=name)
    assert expected in repr(standard_transform(dataset))
    assert repr(standard_transform(dataset, augment=False)).startswith("Compose([Normalize(")


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_the_training_set_is_normalized_to_mean_0_and_deviation_1(dtype):
    rng = np.random.default_rng(4)
    x = rng.integers(0, 256, (2300, 3, 4, 5), dtype=np.uint8)  # more than two chunks
    x[:, 1] //= 3
    x = x.astype(dtype)
    dataset = ArrayDataset(x, rng.integers(0, 3, len(x)))
    transform = standard_transform(dataset, augment=False, dtype="float64")
    scale = 255 if dtype == np.uint8 else 1
    np.testing.assert_allclose(transform.transforms[0].mean, x.mean(axis=(0, 2, 3), dtype=np.float64) / scale)
    np.testing.assert_allclose(transform.transforms[0].std, x.std(axis=(0, 2, 3), dtype=np.float64) / scale)
    y = transform(x, generator(), False)
    np.testing.assert_allclose(y.mean(axis=(0, 2, 3)), 0, atol=1e-4)
    np.testing.assert_allclose(y.std(axis=(0, 2, 3)), 1, atol=1e-4)


def test_a_constant_channel_is_not_divided_by_zero():
    dataset = ArrayDataset(np.full((3, 2, 4, 4), 255, np.uint8), [0, 1, 2])
    y = standard_transform(dataset)(dataset.images, generator(), False)
    np.testing.assert_allclose(y, 0, atol=1e-7)
