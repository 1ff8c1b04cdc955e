"""The pictures: what is in them, into which axes they go, and that nothing else is touched."""

import io
import subprocess
import sys

import numpy as np
import pytest

import xpconv
from xpconv import layers as L
from xpconv import plot
from xpconv.training import confusion_matrix as count_confusions

matplotlib = pytest.importorskip("matplotlib", reason="pictures are drawn with it")
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.image import imread  # noqa: E402

NASTY = ["$x_{", "$\\nothing$", "r\udcff", "été_^%", "漢字", "a\nb", "x" * 90]


def pixels(figure):
    """The figure as it is drawn, (H, W, 3); drawing it gives no warning, which would be an error here."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=50)
    buffer.seek(0)
    return (255 * imread(buffer)[..., :3]).round().astype(np.uint8)


def shown(axes):
    """What `imshow` was given."""
    (image,) = axes.images
    return np.asarray(image.get_array())


def small_net(layout="NCHW", channels=3):
    return L.Sequential(
        L.Conv2d(channels, 4, 3, padding=1, rng=0, layout=layout),
        L.ReLU(),
        L.GlobalAvgPool2d(layout=layout),
        L.Linear(4, 5, rng=1),
    )


@pytest.fixture
def images(rng):
    return rng.normal(size=(2, 3, 8, 6)).astype(np.float32)


# ---- filters and maps -------------------------------------------------------------------------------------------


def test_filters_of_one_channel_are_shades_side_by_side():
    weights = np.array([[[[0.0, 1.0], [2.0, 4.0]]], [[[-1.0, -1.0], [-1.0, 1.0]]], [[[5.0, 5.0], [5.0, 5.0]]]])
    picture = shown(plot.filters(weights, columns=2).axes[0])
    assert picture.shape == (5, 5, 3)
    np.testing.assert_allclose(picture[:2, :2, 0], [[0, 0.25], [0.5, 1]], atol=1 / 255)
    np.testing.assert_allclose(picture[:2, 3:, 0], [[0, 0], [0, 1]])
    np.testing.assert_array_equal(picture[3:, :2], 0)  # all alike
    np.testing.assert_array_equal(picture[3:, 3:], np.broadcast_to(picture[0, 2], (2, 2, 3)))  # none: as the lines
    together = shown(plot.filters(weights, scale="all").axes[0])
    np.testing.assert_allclose(together[:2, :2, 0], [[1 / 6, 2 / 6], [3 / 6, 5 / 6]], atol=1 / 255)


def test_filters_of_three_channels_are_coloured(rng):
    weights = rng.normal(size=(2, 3, 4, 5))
    picture = shown(plot.filters(weights).axes[0])
    want = np.moveaxis((weights[0] - weights[0].min()) / np.ptp(weights[0]), 0, 2)
    np.testing.assert_allclose(picture[:4, :5], want)
    assert picture.shape == (4, 11, 3)


def test_filters_of_other_numbers_of_channels_are_a_row_each(rng):
    weights = rng.normal(size=(3, 2, 4, 4))
    figure = plot.filters(weights)
    picture = shown(figure.axes[0])
    assert picture.shape == (3 * 5 - 1, 2 * 5 - 1, 3)
    part = weights[1, 1]
    np.testing.assert_allclose(picture[5:9, 5:9, 0], (part - part.min()) / np.ptp(part), atol=1 / 255)
    assert figure.axes[0].get_title() == "3 filters, 4 × 4 × 2"


def test_filters_of_a_layer(on, sparing):
    sparing(False)
    layer = L.Conv2d(1, 6, 3, rng=0)
    want = shown(plot.filters(on.to_numpy(layer.weight.data)).axes[0])
    np.testing.assert_array_equal(shown(plot.filters(layer).axes[0]), want)
    np.testing.assert_array_equal(shown(plot.filters(layer.weight.data).axes[0]), want)
    assert len(np.unique(shown(plot.filters(L.BinaryConv2d(1, 4, 3, rng=0), scale="all").axes[0])[:3, :3])) <= 2


def test_hundreds_of_filters(rng):
    picture = pixels(plot.filters(rng.normal(size=(512, 64, 1, 1))))
    assert picture.shape[0] <= 640
    assert picture.std() > 10


def test_nan_and_infinities_are_visible():
    weights = np.array([[[[0.0, np.nan], [1.0, np.inf]]], [[[np.nan, np.nan], [np.nan, -np.inf]]]])
    picture = shown(plot.filters(weights, columns=2).axes[0])
    magenta = picture[0, 1]
    assert magenta[0] > 0.8 > 0.3 > magenta[1]
    np.testing.assert_array_equal(picture[1, :2], [[1, 1, 1], [1, 1, 1]])
    np.testing.assert_array_equal(picture[0, 3:], [magenta, magenta])
    np.testing.assert_array_equal(picture[1, 4], 0)
    huge = np.array([[[[-1.7e308, 1.7e308]]]])
    np.testing.assert_array_equal(shown(plot.filters(huge).axes[0])[0, :, 0], [0, 1])


def test_feature_maps(images):
    net = small_net()
    maps = plot.layer_output(net, images[:1], "1")[0]
    figure = plot.feature_maps(net, images[0], "1", columns=3, cmap="gray")
    picture = shown(figure.axes[0])
    assert picture.shape == (2 * 9 - 1, 3 * 7 - 1, 3)
    np.testing.assert_allclose(picture[9:, :6, 0], (maps[3] - maps[3].min()) / np.ptp(maps[3]), atol=1 / 255)
    assert figure.axes[0].get_title() == "1: 4 maps of 8 × 6"
    some = plot.feature_maps(net, images[:1], net[1], channels=[3], cmap="gray")
    np.testing.assert_array_equal(shown(some.axes[0]), picture[9:, :6])
    assert some.axes[0].get_title() == "ReLU: 1 map of 8 × 6"
    last = plot.feature_maps(small_net("NHWC"), np.moveaxis(images[0], 0, 2), "1", columns=3, cmap="gray")
    np.testing.assert_allclose(shown(last.axes[0]), picture, atol=1 / 200)


# ---- saliency and activation maps -------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_saliency(images, layout):
    net = small_net(layout)
    given = images if layout == "NCHW" else np.ascontiguousarray(np.moveaxis(images, 1, 3))
    figure = plot.saliency(net, given, [1, 2], class_names=list("abcde"), cmap="gray")
    above, below = figure.axes[:2], figure.axes[2:]
    assert [axes.get_title() for axes in figure.axes] == ["b", "c", "", ""]
    gradient = plot.input_gradient(small_net(), images, [1, 2])
    for i in range(2):
        sizes = np.abs(gradient[i]).max(axis=0)
        want = (sizes - sizes.min()) / np.ptp(sizes)
        np.testing.assert_allclose(shown(below[i])[..., 0], want, atol=1 / 200)
        want = np.moveaxis((images[i] - images[i].min()) / np.ptp(images[i]), 0, 2)
        np.testing.assert_allclose(shown(above[i]), want, atol=1e-6)
    pixels(figure)


def test_the_class_is_the_predicted_one(images):
    net = small_net()
    predicted = net.eval()(images).argmax(axis=1)
    titles = [f"class {k}" for k in predicted]
    for draw in (plot.saliency, plot.class_activation_map):
        assert [axes.get_title() for axes in draw(net, images).axes[:2]] == titles


def test_class_activation_map(images):
    net = small_net()
    figure = plot.class_activation_map(net, images, "0", target=3, cmap="gray")
    maps = plot.grad_cam(net, images, "0", target=3)  # of the size of the images
    for i in range(2):
        grey = shown(figure.axes[i]).mean(axis=2)
        share = maps[i] / maps[i].max()
        opacity = 0.75 * np.sqrt(share)
        want = (1 - opacity) * grey + opacity * share
        np.testing.assert_allclose(shown(figure.axes[2 + i])[..., 0], want, atol=1 / 200)
    pixels(figure)


def test_maps_are_brought_to_the_size_of_the_image_as_pytorch_does(rng):
    torch = pytest.importorskip("torch", reason="the oracle")
    from xpconv.plot._pictures import _resized

    values = rng.normal(size=(3, 5))
    for size in ((7, 11), (3, 5), (2, 3), (1, 1), (12, 5)):
        want = torch.nn.functional.interpolate(
            torch.from_numpy(values)[None, None], size, mode="bilinear", align_corners=False
        )
        np.testing.assert_allclose(_resized(values, *size), want[0, 0], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("values", ["unit", "bytes", "constant", "nan"])
def test_images_of_any_kind(rng, channels, values):
    image = rng.uniform(size=(channels, 6, 6)).astype(np.float32)
    image = {"unit": image, "bytes": 255 * image, "constant": 0 * image, "nan": image * np.nan}[values]
    figure = plot.saliency(small_net(channels=channels), image, 1)
    picture = shown(figure.axes[0])
    assert picture.shape == (6, 6, 3)
    assert np.isfinite(picture).all()
    if values == "unit":
        want = np.moveaxis(image, 0, 2)
        want = want if channels == 3 else np.repeat(want.mean(axis=2, keepdims=True), 3, axis=2)
        np.testing.assert_allclose(picture, want, rtol=1e-6)
    elif values == "constant":
        np.testing.assert_array_equal(picture, 0)
    pixels(plot.class_activation_map(small_net(channels=channels), image, target=1))


def test_pictures_on_every_backend(on, images, sparing):
    sparing(False)
    with xpconv.use_backend("numpy"):
        want = [pixels(figure) for figure in everything(small_net(), images)]
    for figure, expected in zip(everything(small_net(), on.asarray(images)), want, strict=True):
        assert np.abs(pixels(figure).astype(int) - expected).mean() < 0.5


def everything(net, images):
    yield plot.feature_maps(net, images[:1, ...], "1")
    yield plot.saliency(net, images, 1)
    yield plot.class_activation_map(net, images, target=1)


# ---- confusions -------------------------------------------------------------------------------------------------


def texts(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def test_confusion_matrix():
    labels = np.array([0, 0, 0, 1, 1, 2])
    guesses = np.array([0, 0, 1, 1, 0, 2])
    counts = count_confusions(np.eye(4)[guesses], labels)
    figure = plot.confusion_matrix(counts)
    assert texts(figure) == [*"2100", *"1100", *"0010", *"0000"]
    np.testing.assert_array_equal(shown(figure.axes[0]), [[2, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0] * 4])
    assert (figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()) == ("predicted class", "true class")
    third, half = 1 / 3, 1 / 2
    for normalize, want in {
        "true": [[2 * third, third, 0, 0], [half, half, 0, 0], [0, 0, 1, 0], [np.nan] * 4],
        "pred": [[2 * third, half, 0, np.nan], [third, half, 0, np.nan], [0, 0, 1, np.nan], [0, 0, 0, np.nan]],
        "all": [[third, third / 2, 0, 0], [third / 2, third / 2, 0, 0], [0, 0, third / 2, 0], [0] * 4],
    }.items():
        drawn = plot.confusion_matrix(counts, normalize=normalize).axes[0].images[0].get_array()
        np.testing.assert_allclose(np.ma.filled(drawn, np.nan), want)
    assert texts(plot.confusion_matrix(counts, normalize="true"))[:2] == ["0.67", "0.33"]
    assert len(texts(plot.confusion_matrix(counts, normalize="true"))) == 12  # none for a class without images


@pytest.mark.parametrize("classes", [1, 2, 10, 40, 300])
def test_any_number_of_classes(rng, classes):
    counts = rng.integers(0, 5, size=(classes, classes))
    figure = plot.confusion_matrix(counts, class_names=[f"name of class {k}" for k in range(classes)])
    assert max(figure.get_size_inches()) < 18
    assert pixels(figure).std() > 5
    pixels(plot.confusion_matrix(0 * counts, normalize="true"))


def test_large_counts_fit_their_cells():
    assert texts(plot.confusion_matrix([[123456, 0], [7, 99999]])) == ["1.2e5", "0", "7", "99999"]


# ---- curves -----------------------------------------------------------------------------------------------------

HISTORY = [
    {"epoch": 1, "loss": 1.0, "accuracy": 0.5, "val_loss": None, "val_accuracy": 0.4, "val_top3": 0.7},
    {"epoch": 2, "loss": 0.5, "accuracy": 0.7, "val_loss": 0.6, "val_accuracy": float("nan"), "val_top3": 0.8},
    {"epoch": 3, "loss": 0.4, "accuracy": 0.8, "val_loss": 0.7, "val_accuracy": 0.6, "val_top3": 0.9},
]


def lines(axes):
    return {line.get_label(): np.asarray(line.get_xydata(), float).tolist() for line in axes.lines}


def test_learning_curves():
    figure = plot.learning_curves(HISTORY, title="a run")
    loss, accuracy = figure.axes
    assert (loss.get_ylabel(), accuracy.get_ylabel(), loss.get_xlabel()) == ("loss", "accuracy", "epoch")
    assert lines(loss)["training"] == [[1, 1], [2, 0.5], [3, 0.4]]
    np.testing.assert_array_equal(lines(accuracy)["validation"], [[1, 0.4], [2, np.nan], [3, 0.6]])
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ["training", "validation"]
    pixels(figure)
    only = plot.learning_curves(HISTORY, quantities=["top3"])
    assert list(lines(only.axes[0])) == ["validation"]


def test_curves_of_a_log():
    steps = [{"kind": "step", "position": k / 4, "batch_loss": 3 - k} for k in range(3)]
    records = [*steps, *({"kind": "epoch", **record} for record in HISTORY), {"kind": "test", "loss": 0.5}]
    assert lines(plot.learning_curves(records).axes[0])["one batch"] == [[0, 3], [0.25, 2], [0.5, 1]]


@pytest.mark.parametrize("history", [[], [{"epoch": 1, "loss": float("inf"), "accuracy": None}]], ids=["empty", "inf"])
def test_curves_of_nothing(history):
    figure = plot.learning_curves(history)
    assert [axes.get_ylabel() for axes in figure.axes] == ["loss"]
    assert not figure.axes[0].lines
    pixels(figure)
    pixels(plot.learning_curves(history, quantities=["loss", "accuracy"]))


def test_curves_of_a_trainer(rng):
    trainer = xpconv.Trainer(small_net(), xpconv.functional.softmax_cross_entropy, None)
    assert plot.learning_curves(trainer.history).axes[0].get_ylabel() == "loss"


# ---- axes, texts and global state -------------------------------------------------------------------------------


def test_axes_that_are_given_are_drawn_into(images, rng):
    figure = Figure(layout="constrained")
    part, other = figure.subfigures(1, 2)
    places = part.subplots(4, 2)
    assert plot.filters(rng.normal(size=(4, 1, 3, 3)), ax=places[0, 0]) is figure
    assert plot.feature_maps(small_net(), images[0], "1", ax=places[0, 1]) is figure
    assert plot.confusion_matrix(np.eye(2), ax=places[1, 0]) is figure
    assert plot.saliency(small_net(), images[0], axes=places[1, 1]) is figure
    assert plot.class_activation_map(small_net(), images, axes=places[2]) is figure
    assert plot.learning_curves(HISTORY, axes=list(places[3])) is figure
    assert all(axes.images or axes.lines for axes in part.axes)
    assert not other.axes
    pixels(figure)


@pytest.mark.parametrize("name", NASTY)
def test_names_are_shown_as_they_are(images, name):
    names = [name, "b", "c", "d", "e"]
    figure = plot.confusion_matrix(np.eye(5), class_names=names)
    pixels(figure)
    label = figure.axes[0].get_yticklabels()[0].get_text()
    if name.isprintable() and len(name) < 20 and "漢" not in name:
        assert label == name
    assert label
    pixels(plot.saliency(small_net(), images[0], 0, class_names=names))
    pixels(plot.learning_curves([{"epoch": 1, name: 1.0}], quantities=[name], title=name))


def test_a_missing_glyph_is_a_box():
    figure = plot.learning_curves(HISTORY, title="漢字 é")
    assert figure.get_suptitle() == "□□ é"


def test_nothing_is_opened_or_changed():
    code = """
import sys, numpy as np, xpconv
from xpconv import plot
import matplotlib
before = dict(matplotlib.rcParams)
figure = plot.filters(np.ones((4, 1, 3, 3)))
plot.learning_curves([]), plot.confusion_matrix([[1]])
figure.savefig(sys.argv[1])
assert "matplotlib.pyplot" not in sys.modules
assert dict(matplotlib.rcParams) == before
"""
    done = subprocess.run([sys.executable, "-c", code, "/dev/null/x.png"], capture_output=True, text=True)
    assert "NotADirectoryError" in done.stderr, done.stderr  # the file is the only thing that fails


def test_importing_needs_no_matplotlib():
    code = """
import sys
import xpconv
assert "xpconv.plot" not in sys.modules
sys.modules["matplotlib"] = None
import numpy as np
from xpconv import layers as L
net = L.Sequential(L.Conv2d(1, 2, 3), L.GlobalAvgPool2d(), L.Linear(2, 2))
print(xpconv.plot.grad_cam(net, np.ones((1, 1, 5, 5), np.float32)).shape)
xpconv.plot.filters(net[0])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "(1, 3, 3)"
    assert 'pictures need the package matplotlib, which is not installed: pip install "xpconv[plot]"' in done.stderr


# ---- bad input --------------------------------------------------------------------------------------------------

X, NET = np.zeros((2, 3, 8, 6), np.float32), small_net()


@pytest.mark.parametrize(
    ("draw", "arguments", "more", "message"),
    [
        ("filters", [np.ones((3, 3))], {}, r"weights: expected a non-empty array \(F, C, kh, kw\), got shape \(3, 3\)"),
        ("filters", [np.ones((0, 1, 3, 3))], {}, r"weights: expected a non-empty array .* \(0, 1, 3, 3\)"),
        ("filters", [L.ReLU()], {}, r"weights: expected a layer with filters, such as a Conv2d, or an array, got ReLU"),
        ("filters", [L.Linear(2, 2)], {}, r"weights: expected a layer with filters, .* got Linear"),
        ("filters", [np.ones((1, 1, 2, 2))], {"scale": "log"}, r"scale: expected one of each, all, got 'log'"),
        ("filters", [np.ones((1, 1, 2, 2))], {"columns": 0}, r"columns: must be at least 1, got 0"),
        ("filters", [np.ones((1, 1, 2, 2))], {"cmap": "rainbows"}, r"cmap: expected the name .* got 'rainbows'"),
        ("filters", [np.ones((1, 1, 2, 2))], {"ax": 3}, r"ax: expected Axes of matplotlib, got 3"),
        ("feature_maps", [NET, X, "0"], {}, r"image: expected one image, got 2: shape \(2, 3, 8, 6\)"),
        ("feature_maps", [NET, X[0, 0], "0"], {}, r"image: expected \(C, H, W\) or a batch .* got shape \(8, 6\)"),
        ("feature_maps", [NET, X[0], "3"], {}, r"layer: expected one that gives maps of 4 dimensions, '3' gives"),
        ("feature_maps", [NET, X[0], "0"], {"channels": [4]}, r"channels: must be between 0 and 3, got 4"),
        ("feature_maps", [NET, X[0], "0"], {"channels": []}, r"channels: expected at least one map, got none"),
        ("saliency", [NET, X[:0]], {}, r"images: expected at least one image with pixels, got shape \(0, 3, 8, 6\)"),
        ("saliency", [NET, "cat.png"], {}, r"images: expected \(C, H, W\) or a batch of such images, got 'cat\.png'"),
        ("saliency", [NET, X], {"axes": Figure().subplots()}, r"axes: expected 2, one for each image, got 1"),
        ("saliency", [NET, X, 4], {"class_names": ["a"]}, r"class_names: expected a name for each class, got 1 and"),
        ("saliency", [NET, X], {"class_names": "abcde"}, r"class_names: expected a sequence of names, got 'abcde'"),
        ("class_activation_map", [NET, X], {"target": 9}, r"target: must be between 0 and 4, got 9"),
        ("class_activation_map", [NET, X, "x"], {}, r"layer: the model has no layer 'x'; it has '0', '1', '2', '3'"),
        ("class_activation_map", [3, X], {}, r"model: expected a Layer, got 3"),
        ("confusion_matrix", [np.ones((2, 3))], {}, r"matrix: expected a square array \(K, K\), got shape \(2, 3\)"),
        ("confusion_matrix", [[[1, -1], [0, 0]]], {}, r"matrix: expected counts, finite and not negative"),
        ("confusion_matrix", [[[np.nan]]], {}, r"matrix: expected counts, finite and not negative"),
        ("confusion_matrix", [[[1]]], {"normalize": "rows"}, r"normalize: expected 'true', 'pred', 'all' or None, got"),
        ("confusion_matrix", [[[1]]], {"class_names": ["a", "b"]}, r"class_names: expected 1, one for each class"),
        ("learning_curves", ["runs/x"], {}, r"history: expected a sequence of mappings, .* got 'runs/x'"),
        ("learning_curves", [[3]], {}, r"history: expected a sequence of mappings, .* it has 3"),
        ("learning_curves", [[{"loss": 3}]], {}, r"history: every epoch has a number, 'epoch', but not {'loss': 3}"),
        ("learning_curves", [HISTORY], {"quantities": ["f1"]}, r"quantities: no epoch .* 'f1'; there are loss"),
        ("learning_curves", [HISTORY], {"quantities": "loss"}, r"quantities: expected a sequence of names, such as"),
        ("learning_curves", [HISTORY], {"quantities": []}, r"quantities: expected at least one name, got none"),
        ("learning_curves", [HISTORY], {"axes": []}, r"axes: expected 2, one for each of loss, accuracy, got 0"),
    ],
)  # fmt: skip
def test_errors_name_the_argument(draw, arguments, more, message):
    with pytest.raises((TypeError, ValueError), match=f"^{message}"):
        getattr(plot, draw)(*arguments, **more)
