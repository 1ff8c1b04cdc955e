"""Fashion-MNIST in forty lines: a small convolutional network that gets above 0.93 of the test images right.

    python examples/fashion_mnist.py            # the full set: found on disk, or downloaded and verified
    python examples/fashion_mnist.py --small    # one tenth of it, which ships with xpconv; half a minute

Some ten minutes on two CPU cores; it has printed ``test accuracy 0.9358``, with --small ``test accuracy 0.8350``.
One seed gives one run: weights, order and augmentation of the batches, and dropout come from it.
"""

import sys

import xpconv
from xpconv import layers as L
from xpconv.data import Batches, load, standard_transform
from xpconv.functional import softmax_cross_entropy
from xpconv.optim import SGD, OneCycleSchedule


def stage(channels: int, filters: int) -> list[L.Layer]:
    """Twice convolution, batch norm and ReLU; then images of half the size."""
    layers: list[L.Layer] = []
    for count in (channels, filters):
        layers += [L.Conv2d(count, filters, 3, padding=1, bias=False), L.BatchNorm2d(filters), L.ReLU()]
    return [*layers, L.MaxPool2d(2)]


def main(data: str = "fashion-mnist", epochs: int = 10) -> float:
    """Train, and give the accuracy on the test images."""
    xpconv.manual_seed(0)
    splits = load(data)
    transform = standard_transform(splits.train)
    batches = Batches(splits.train, 128, transform=transform)
    held_out = Batches(splits.test, 500, shuffle=False, transform=transform)

    net = L.Sequential(*stage(1, 32), *stage(32, 64), *stage(64, 128), L.Flatten(), L.Dropout(0.3), L.Linear(1152, 10))
    optimizer = SGD(net.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    schedule = OneCycleSchedule(0.05, total_steps=epochs * len(batches))
    trainer = xpconv.Trainer(net, softmax_cross_entropy, optimizer, schedule=schedule)
    for epoch in range(1, epochs + 1):
        record = trainer.fit(batches, epochs=epoch)[-1]
        print(f"epoch {epoch}: loss {record['loss']:.4f}, {record['seconds']:.0f} s", flush=True)
    accuracy = trainer.evaluate(held_out).accuracy
    print(f"test accuracy {accuracy:.4f}")
    return accuracy


if __name__ == "__main__":
    main("fashion-mnist-small", 2) if "--small" in sys.argv[1:] else main()
