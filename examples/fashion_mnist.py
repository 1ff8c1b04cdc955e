"""A small convolutional network on Fashion-MNIST: above 0.93 on the test images, in some ten minutes on two CPU cores.

    python examples/fashion_mnist.py                  # the full set: found on disk, or downloaded and verified
    python examples/fashion_mnist.py --data fashion-mnist-small --epochs 2

One seed gives one run: weights, order and augmentation of the batches, and dropout come from it.
"""

import argparse
import time

import xpconv
from xpconv import layers as L
from xpconv.data import Batches, load, standard_transform
from xpconv.functional import softmax_cross_entropy
from xpconv.optim import SGD, OneCycleSchedule


def stage(channels: int, filters: int) -> list[L.Layer]:
    """Twice convolution, batch norm and ReLU; then images of half the size."""
    convolutions = []
    for count in (channels, filters):
        convolutions += [L.Conv2d(count, filters, 3, padding=1, bias=False), L.BatchNorm2d(filters), L.ReLU()]
    return [*convolutions, L.MaxPool2d(2)]


def main(argv: list[str] | None = None) -> float:
    """Train, and give the accuracy on the test images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="fashion-mnist", help="a name that `xpconv.data.load` knows, or a path")
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args(argv)
    start = time.perf_counter()
    xpconv.manual_seed(0)
    splits = load(options.data)
    transform = standard_transform(splits.train)
    batches = Batches(splits.train, 128, transform=transform)
    held_out = Batches(splits.test, 500, shuffle=False, transform=transform)

    net = L.Sequential(*stage(1, 32), *stage(32, 64), *stage(64, 128), L.Flatten(), L.Dropout(0.3), L.Linear(1152, 10))
    optimizer = SGD(net.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = OneCycleSchedule(0.05, total_steps=options.epochs * len(batches))
    trainer = xpconv.Trainer(net, softmax_cross_entropy, optimizer, schedule=schedule)
    for epoch in range(options.epochs):
        loss = trainer.fit(batches, epochs=epoch + 1)[-1]["loss"]
        print(f"epoch {epoch + 1}: loss {loss:.4f}, {time.perf_counter() - start:.0f} s", flush=True)
    accuracy = trainer.evaluate(held_out).accuracy
    print(f"test accuracy {accuracy:.4f}")
    return accuracy


if __name__ == "__main__":
    main()
