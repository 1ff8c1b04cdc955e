import gc

import numpy as np
import pytest

import xpconv
from xpconv.backends import load_backend
from xpconv.data import ArrayDataset, Batches, Compose, Normalize, RandomFlip, ShiftCrop, batches
from xpconv.data.augment import Recipe
from xpconv.training.pairs import ArrayPairs

N = 23
X = np.random.default_rng(6).integers(0, 256, (N, 2, 6, 5), dtype=np.uint8)
X[:, 0, 0, 0] = np.arange(N)  # tells which image it is
DATASET = ArrayDataset(X, np.arange(N) % 7)
AUGMENT = Compose([ShiftCrop(2), RandomFlip(), Normalize(0.3, 0.4)])


def host(batches):
    return [(xpconv.to_numpy(x), xpconv.to_numpy(y)) for x, y in batches]


def assert_same(got, expected):
    assert len(got) == len(expected)
    for (x, y), (u, v) in zip(got, expected, strict=True):
        np.testing.assert_array_equal(x, u)
        np.testing.assert_array_equal(y, v)


def order(batches):
    return [round(float(image[0, 0, 0]) * 255) for x, _ in batches for image in x]


def test_batches_on_every_backend(on):
    batches = Batches(DATASET, 5, shuffle=False)
    assert len(batches) == 5
    got = list(batches)
    assert [tuple(x.shape) for x, _ in got] == [(5, 2, 6, 5)] * 4 + [(3, 2, 6, 5)]
    for step, (x, y) in enumerate(got):
        chosen = slice(5 * step, 5 * step + 5)
        images, labels = on.to_numpy(x), on.to_numpy(y)
        assert images.dtype == np.float32
        np.testing.assert_array_equal(images, X[chosen] * np.float32(1 / 255))
        np.testing.assert_allclose(images, X[chosen] / 255, atol=1e-7)
        assert labels.dtype == (np.int32 if on.backend == "jax" else np.int64)
        np.testing.assert_array_equal(labels, DATASET.labels[chosen])


def test_augmented_batches_are_the_same_on_every_backend(on):
    batches = Batches(DATASET, 8, seed=3, transform=AUGMENT)
    expected = Batches(DATASET, 8, seed=3, transform=AUGMENT, backend="numpy")
    assert_same(host(batches.epoch(2)), host(expected.epoch(2)))


TRANSFORMS = {
    "none": None,
    "all": AUGMENT,
    "crop": ShiftCrop((1, 2)),
    "flip, normalize": Compose([RandomFlip(0.3), Normalize((0.2, 0.3), (0.4, 0.5))]),
    "in another order": Compose([RandomFlip(), ShiftCrop(1), Normalize(0.3, 0.4)]),
    "of a user": lambda images, rng, training: images,
}


@pytest.mark.parametrize("placement", ["device", "host"])
@pytest.mark.parametrize("transform", list(TRANSFORMS))
def test_placement_changes_no_bit(on, monkeypatch, transform, placement):
    monkeypatch.setattr(batches, "_IMAGES_AT_ONCE", 12)  # choices are sent for two steps at a time
    options = {"seed": 3, "transform": TRANSFORMS[transform], "dtype": on.dtypes[-1]}
    options["drop_last"] = on.backend == "jax"  # which compiles every operation for every shape
    expected = host(Batches(DATASET, 5, backend="numpy", placement="host", **options).epoch(2))
    got = Batches(DATASET, 5, placement=placement, **options)
    assert_same([(on.to_numpy(x), on.to_numpy(y)) for x, y in got.epoch(2)], expected)
    assert_same(host(got.epoch(2, 3)), expected[3:])


@pytest.mark.parametrize("placement", ["device", "host"])
def test_placement_of_floating_point_images(on, placement):
    floats = ArrayDataset(X / 255, DATASET.labels)
    options = {"transform": AUGMENT, "drop_last": True}
    expected = Batches(floats, 5, backend="numpy", placement="host", **options)
    assert_same(host(Batches(floats, 5, placement=placement, **options)), host(expected))


@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        (None, (False, False, False)),
        (AUGMENT, (True, True, True)),
        (Normalize(0, 1), (False, False, True)),
        (Compose([ShiftCrop(1), Normalize(0, 1)]), (True, False, True)),
        (Compose([]), (False, False, False)),
        (Compose([Normalize(0, 1), RandomFlip()]), None),
        (Compose([RandomFlip(), RandomFlip()]), None),
        (Compose([AUGMENT]), None),
        (lambda images, rng, training: images, None),
        (type("Mine", (RandomFlip,), {})(), None),
    ],
)
def test_which_transforms_are_one_kernel(transform, expected):
    recipe = Recipe.of(transform)
    assert (None if recipe is None else tuple(part is not None for part in recipe)) == expected


class Watched:
    """What is moved to a backend, as a list of what and how many images."""

    def __init__(self, monkeypatch, backend):
        self.moved = []
        asarray, prefetch = backend.asarray, backend.prefetch
        monkeypatch.setattr(backend, "asarray", lambda a, dtype=None: self.moved.append(len(a)) or asarray(a, dtype))
        monkeypatch.setattr(backend, "prefetch", lambda a: self.moved.append(f"sent {len(a[0])}") or prefetch(a))


@pytest.fixture
def device(monkeypatch):
    """The stand-in of a GPU, and what is moved to it."""
    backend = pytest.importorskip("xpconv.testing.cuda_host").find_compiler() and load_backend("cuda-host")
    if backend is None:
        pytest.skip("no C++ compiler")
    with xpconv.use_backend("cuda-host"):
        yield backend, Watched(monkeypatch, backend)


def test_a_set_that_fits_is_moved_once(device):
    _, watched = device
    dataset = ArrayDataset(X, DATASET.labels)
    for _ in range(2):
        for training in True, False:
            epoch = Batches(dataset, 5, transform=AUGMENT, training=training).epoch(0)
            first = watched.moved.copy()
            assert len(list(epoch)) == 5
            moved = watched.moved[len(first) :]
            assert [n for n in moved if n != 2] == [N, N]  # labels and choices of the epoch; 2 channels' constants
    assert first.count(N) == 1 + 3 * 2
    assert "sent 5" not in watched.moved


def test_a_set_is_moved_again_if_it_is_replaced_and_leaves_with_its_owner(device):
    backend, _ = device
    dataset = ArrayDataset(X, DATASET.labels)
    first, _ = next(Batches(dataset, N, shuffle=False).epoch(0))
    dataset.images = 255 - X
    second, _ = next(Batches(dataset, N, shuffle=False).epoch(0))
    np.testing.assert_allclose(np.asarray(first) + np.asarray(second), 1, rtol=1e-6)
    assert list(batches._residents[dataset]) == [(backend.name, "uint8")]
    count = len(batches._residents)
    del dataset
    gc.collect()
    assert len(batches._residents) == count - 1


def test_no_value_is_read_from_the_device(device):
    from xpconv.testing.cuda_host import no_host_reads

    for placement in "device", "host":
        for transform in TRANSFORMS.values():
            with no_host_reads():
                assert len(list(Batches(DATASET, 5, placement=placement, transform=transform))) == 5


@pytest.mark.parametrize("free", [None, 4 * X.nbytes - 1, 4 * X.nbytes])
def test_a_set_that_does_not_fit_is_sent_one_batch_ahead(device, monkeypatch, free):
    backend, watched = device
    monkeypatch.setattr(backend, "free_bytes", lambda: free)
    epoch = Batches(ArrayDataset(X, DATASET.labels), 10, transform=AUGMENT).epoch(0)
    seen = []
    for _ in epoch:
        seen.append([n for n in watched.moved if str(n).startswith("sent")])
    if free == 4 * X.nbytes:
        assert seen == [[], [], []]
    else:
        assert seen == [["sent 10"] * 2, ["sent 10"] * 2 + ["sent 3"], ["sent 10"] * 2 + ["sent 3"]]


def test_half_precision_on_the_device(device):
    options = {"dtype": "float16", "transform": Normalize(0.3, 0.4, "float16")}
    expected = host(Batches(DATASET, N, backend="numpy", **options))
    for placement in "device", "host":
        got = host(Batches(DATASET, N, placement=placement, **options))
        assert got[0][0].dtype == np.float16
        assert_same(got, expected)


@pytest.mark.parametrize("placement", ["device", "host"])
def test_evaluation_on_the_device_is_not_augmented(device, placement):
    for x, _ in Batches(DATASET, N, shuffle=False, transform=AUGMENT, placement=placement):
        np.testing.assert_array_equal(np.asarray(x), Normalize(0.3, 0.4)(X, None, False))


@pytest.mark.parametrize("placement", ["device", "host"])
def test_bad_transforms_on_the_device(device, placement):
    for transform, error, message in [
        (ShiftCrop(6), ValueError, "padding: must be smaller than the images, 6 x 5, got"),
        (Normalize((0, 0, 0), (1, 1, 1)), ValueError, "images: expected 3 channels, got 2"),
        (
            lambda x, rng, training: x[:2],
            ValueError,
            r"transform: expected 5 images .* of cuda-host, got .* shape \(2,",
        ),
    ]:
        with pytest.raises(error, match=message):
            next(Batches(DATASET, 5, transform=transform, placement=placement).epoch(0))


def test_dtypes(on):
    for dtype in on.dtypes:
        for transform in (None, RandomFlip(), AUGMENT):
            for x, _ in Batches(DATASET, 8, dtype=dtype, transform=transform):
                assert on.to_numpy(x).dtype == dtype
    floats = ArrayDataset(X / 255, DATASET.labels)
    x, _ = next(iter(Batches(floats, 8, shuffle=False)))
    np.testing.assert_array_equal(on.to_numpy(x), (X[:8] / 255).astype(np.float32))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_on_torch(dtype):
    torch = pytest.importorskip("torch")
    x, _ = next(iter(Batches(DATASET, 4, shuffle=False, dtype=dtype, backend="torch")))
    assert x.dtype == getattr(torch, dtype)
    np.testing.assert_allclose(x.float().numpy(), X[:4] / 255, rtol=0.01)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_whole_range_is_0_to_1(dtype):
    dataset = ArrayDataset(np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16), [0])
    x, _ = next(iter(Batches(dataset, 1, dtype=dtype)))
    assert x.min() == 0
    assert x.max() == 1


def test_each_epoch_has_every_image_once_in_another_order():
    batches = Batches(DATASET, 4, seed=1)
    orders = [order(batches.epoch(k)) for k in range(3)]
    assert all(sorted(o) == list(range(N)) for o in orders)
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert order(Batches(DATASET, 4, seed=2).epoch(0)) != orders[0]
    assert order(Batches(DATASET, 9, seed=1).epoch(1)) == orders[1]  # whatever the size of the batches


def test_pairs_of_arrays_come_in_the_same_order():
    expected = [y for _, y in Batches(DATASET, 4, seed=7).epoch(3, 2)]
    pairs = ArrayPairs(X / 255, DATASET.labels, 4, shuffle=True, seed=7, dtype="float32")
    assert len(pairs) == len(Batches(DATASET, 4))
    for (_, y), labels in zip(pairs.epoch(3, 2), expected, strict=True):
        np.testing.assert_array_equal(y, labels)


def test_labels_follow_their_images():
    for x, y in Batches(DATASET, 6, seed=5):
        np.testing.assert_array_equal(np.round(x[:, 0, 0, 0] * 255) % 7, y)


def test_iterating_again_is_the_next_epoch():
    batches = Batches(DATASET, 6, seed=9, transform=AUGMENT)
    for number in range(3):
        assert_same(host(batches), host(Batches(DATASET, 6, seed=9, transform=AUGMENT).epoch(number)))


@pytest.mark.parametrize("start", range(6))
def test_an_epoch_resumed_in_the_middle_is_the_same_bit_for_bit(start):
    whole = host(Batches(DATASET, 5, seed=4, transform=AUGMENT).epoch(3))
    again = host(Batches(DATASET, 5, seed=4, transform=AUGMENT).epoch(3, start))
    assert_same(again, whole[start:])


def test_augmentation_differs_between_steps_and_epochs():
    drawn = []

    def note(images, rng, training):
        drawn.append(rng.integers(0, 2**60))
        return images

    batches = Batches(DATASET, 10, transform=note)
    for number in range(4):
        list(batches.epoch(number))
    assert len(set(drawn)) == len(drawn) == 12


def test_the_first_batch_draws_other_numbers_than_the_order():
    """A seed sequence takes no notice of zeros at its end."""
    drawn = []

    def note(images, rng, training):
        drawn.append(rng.permutation(N).tolist())
        return images

    got = order(Batches(DATASET, N, transform=note).epoch(0))
    assert drawn[0] != got


def test_drop_last():
    batches = Batches(DATASET, 5, drop_last=True)
    assert len(batches) == 4
    assert [len(y) for _, y in batches] == [5, 5, 5, 5]
    assert len(Batches(DATASET.subset(slice(0, 20)), 5)) == 4
    assert len(Batches(DATASET, 100)) == 1


def test_what_the_transform_is_told():
    told = []

    def note(images, rng, training):
        told.append(training)
        return images

    for shuffle, training in (True, None), (False, None), (True, False), (False, True):
        next(Batches(DATASET, 5, shuffle=shuffle, training=training, transform=note).epoch(0))
    assert told == [True, False, False, True]


def test_bytes_arrive_at_the_transform_as_bytes(on):
    def check(images, rng, training):
        assert on.to_numpy(images).dtype == np.uint8
        return images

    next(Batches(DATASET, 5, transform=check).epoch(0))


def test_batches_share_no_memory_with_the_data_set():
    kept = ArrayDataset((X / 255).astype(np.float32), DATASET.labels)
    for x, y in Batches(kept, 5, shuffle=False):
        assert not np.shares_memory(x, kept.images)
        assert not np.shares_memory(y, kept.labels)


def test_the_backend_is_the_default_one_when_the_epoch_begins():
    batches = Batches(DATASET, 5)
    with xpconv.use_backend("array_api_strict"):
        x, _ = next(iter(batches))
    assert type(x).__module__.startswith("array_api_strict")
    x, _ = next(iter(batches))
    assert type(x) is np.ndarray
    x, _ = next(iter(Batches(DATASET, 5, backend="array_api_strict")))
    assert type(x).__module__.startswith("array_api_strict")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"batch_size": 0}, ValueError, "batch_size: must be at least 1, got 0"),
        ({"batch_size": 2.0}, TypeError, "batch_size: expected an integer, got 2.0"),
        ({"batch_size": True}, TypeError, "batch_size: expected an integer, got True"),
        ({"batch_size": 24, "drop_last": True}, ValueError, "batch_size: 24 with drop_last leaves nothing of 23"),
        ({"seed": -1}, ValueError, "seed: must be at least 0, got -1"),
        ({"seed": None}, TypeError, "seed: expected an integer, got None"),
        ({"dtype": "int32"}, ValueError, "dtype: expected float16, bfloat16, float32 or float64, got 'int32'"),
        ({"transform": 3}, TypeError, "transform: expected a callable or None, got 3"),
        ({"dataset": (X, [0])}, TypeError, "dataset: expected an ArrayDataset or another Dataset, got tuple"),
        ({"placement": "gpu"}, ValueError, "placement: expected one of auto, device, host, got 'gpu'"),
        ({"backend": "abacus"}, ValueError, "backend: unknown 'abacus'; known are"),
        ({"backend": 3}, TypeError, "backend: expected a name such as 'numpy', got 3"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        Batches(**{"dataset": DATASET, "batch_size": 5, **arguments})


def test_bad_epochs():
    batches = Batches(DATASET, 5)
    with pytest.raises(ValueError, match="number: must be at least 0, got -1"):
        batches.epoch(-1)
    with pytest.raises(ValueError, match="start: an epoch has 5 steps, got 6"):
        batches.epoch(0, 6)
    assert list(batches.epoch(0, 5)) == []


@pytest.mark.parametrize(
    ("transform", "error", "message"),
    [
        (
            lambda x, rng, training: x[:2],
            ValueError,
            r"transform: expected 5 images .* got numpy.ndarray shape \(2, 2,",
        ),
        (lambda x, rng, training: None, ValueError, r"transform: expected 5 images .* got builtins.NoneType"),
        (lambda x, rng, training: x.astype(int), TypeError, "transform: expected images of uint8 or .* got int64"),
    ],
)
def test_transforms_that_return_something_else(transform, error, message):
    with pytest.raises(error, match=message):
        next(Batches(DATASET, 5, transform=transform).epoch(0))
