"""Fine-tuning a network of an ONNX file: load it, give it a new last layer, train that, then all of it, write it again.

    python examples/finetune_onnx.py               # needs pip install "xpconv[onnx]"
    python examples/finetune_onnx.py --small       # fewer images, to see that it runs

The file could come from PyTorch or TensorFlow; here the script makes it first, so that nothing has to be downloaded: a
network that has learned trousers, bags and shoes from some 3000 images, and has never seen a shirt or a coat. These it
then has to tell apart, from 200 images. The steps that train the last layer alone go back no further than that, and
cost little more than a forward pass. A network that starts from nothing gets the same images and as many steps; it
comes out close to the other: small convolutions learn from trousers and shoes little that coats and shirts need.

Half a minute; it has printed::

    Trouser, Sandal, Sneaker, Bag, Ankle boot: accuracy 0.964
    11 parameters in known.onnx; its last layer is '13': Linear(in_features=64, out_features=5, bias=True)
    T-shirt/top, Pullover, Dress, Coat, Shirt: accuracy 0.538 with a new last layer
    accuracy 0.662 with all layers trained on
    accuracy 0.662 from the 200 images alone
    written and read again: tuned.onnx, 98 kB
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

import xpconv
from xpconv import layers as L
from xpconv.data import ArrayDataset, load
from xpconv.functional import softmax_cross_entropy
from xpconv.optim import AdamW

KNOWN = ("Trouser", "Sandal", "Sneaker", "Bag", "Ankle boot")
NEW = ("T-shirt/top", "Pullover", "Dress", "Coat", "Shirt")

Images = tuple[np.ndarray, np.ndarray]  # and labels


def only(data: ArrayDataset, names: tuple[str, ...], count: int) -> Images:
    """The first ``count`` images of these classes, normalised; labels count through ``names``."""
    numbers = [data.classes.index(name) for name in names]
    chosen = np.flatnonzero(np.isin(data.labels, numbers))[:count]
    labels = np.array([numbers.index(label) for label in data.labels[chosen]])
    return ((data.images[chosen] / 255 - 0.29) / 0.35).astype(np.float32), labels


def convolutions() -> list[L.Layer]:
    """What finds shapes in a picture."""
    layers: list[L.Layer] = []
    for channels, filters in ((1, 16), (16, 32), (32, 64)):
        layers += [L.Conv2d(channels, filters, 3, padding=1, bias=False), L.BatchNorm2d(filters), L.ReLU()]
        layers += [L.MaxPool2d(2)]
    return [*layers, L.GlobalAvgPool2d()]


def train(net: L.Layer, parameters: list[xpconv.Parameter], data: Images, epochs: int, lr: float) -> None:
    """Some epochs in batches of 20, for these parameters alone."""
    trainer = xpconv.Trainer(net, softmax_cross_entropy, AdamW(parameters, lr=lr))
    trainer.fit(data, epochs=epochs, batch_size=20)


def accuracy(net: L.Layer, data: Images) -> float:
    """Of the network in evaluation mode."""
    return xpconv.Trainer(net, softmax_cross_entropy, None).evaluate(data).accuracy


def main(argv: list[str] | None = None) -> tuple[float, float]:
    """Accuracy on the new classes: fine-tuned, and trained from nothing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="few images, to see that it runs")
    parser.add_argument("--out", type=Path, help="where to put the fine-tuned file (default: nowhere)")
    options = parser.parse_args(argv)
    many, epochs = (400, 2) if options.small else (3000, 6)
    splits = load("fashion-mnist-small")
    few, test = only(splits.train, NEW, 200), only(splits.test, NEW, 500)

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "known.onnx")
        xpconv.manual_seed(0)
        first = L.Sequential(*convolutions(), L.Linear(64, len(KNOWN)))
        train(first, list(first.parameters()), only(splits.train, KNOWN, many), epochs, lr=3e-3)
        print(f"{', '.join(KNOWN)}: accuracy {accuracy(first, only(splits.test, KNOWN, 500)):.3f}")
        xpconv.onnx.export(first, file, (1, 28, 28))

        # from here on the file is all that is known
        net = xpconv.onnx.load(file)
        last, old = list(net.named_layers())[-1]
        print(f"{len(list(net.parameters()))} parameters in {file.name}; its last layer is {last!r}: {old}")
        head = L.Linear(old.in_features, len(NEW))
        setattr(net, last, head)

        for _, layer in net.named_layers():
            if layer is not net and layer is not head:
                layer.eval()  # frozen: its statistics stay, and its parameters are not among those trained
        train(net, list(head.parameters()), few, epochs, lr=1e-2)
        print(f"{', '.join(NEW)}: accuracy {accuracy(net, test):.3f} with a new last layer")

        net.train()
        train(net, list(net.parameters()), few, 2 * epochs, lr=1e-3)
        tuned = accuracy(net, test)
        print(f"accuracy {tuned:.3f} with all layers trained on")

        xpconv.manual_seed(1)
        nothing = L.Sequential(*convolutions(), L.Linear(64, len(NEW)))
        train(nothing, list(nothing.parameters()), few, 3 * epochs, lr=3e-3)
        from_nothing = accuracy(nothing, test)
        print(f"accuracy {from_nothing:.3f} from the {len(few[0])} images alone")

        out = options.out or Path(folder, "tuned.onnx")
        xpconv.onnx.export(net, out, (1, 28, 28), metadata={"classes": ",".join(NEW)})
        again = xpconv.onnx.load(out).eval()
        assert np.allclose(again(test[0][:50]), net.eval()(test[0][:50]), rtol=1e-4, atol=1e-4)
        print(f"written and read again: {out.name}, {out.stat().st_size / 1000:.0f} kB")
    return tuned, from_nothing


if __name__ == "__main__":
    main()
