"""A residual network on CIFAR-10: ResNet-20 with augmentation and a one-cycle schedule, on any backend.

    python examples/cifar10_resnet.py                        # found on disk, or downloaded (170 MB) and verified
    python examples/cifar10_resnet.py --backend cupy         # on an NVIDIA GPU
    python examples/cifar10_resnet.py --images 10000 --epochs 4
    python examples/cifar10_resnet.py --small                # coloured noise instead of CIFAR-10; seconds

An epoch of 10000 images takes some forty seconds on two CPU cores, one of all 50000 five times as long.
It has printed ``test accuracy 0.5288`` with --images 10000 --epochs 4, and ``test accuracy 0.5938`` with --small.
benchmarks/cifar10_curves.py takes the same steps in PyTorch and compares.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

import xpconv
from xpconv import models
from xpconv.data import Batches, load, standard_transform
from xpconv.functional import softmax_cross_entropy
from xpconv.optim import SGD, OneCycleSchedule


def write_noise(folder: Path, images: int) -> None:
    """Files in the layout of CIFAR-10: in each class noise of one colour."""
    rng = np.random.default_rng(0)
    colours = rng.integers(0, 160, (10, 3, 1))
    for name in (*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin"):
        labels = rng.integers(0, 10, images)
        pixels = colours[labels] + rng.integers(0, 96, (images, 3, 32 * 32))
        rows = np.concatenate([labels[:, None], pixels.reshape(images, -1)], axis=1)
        (folder / name).write_bytes(rows.astype(np.uint8).tobytes())


def main(argv: list[str] | None = None) -> float:
    """Train, and give the accuracy on the test images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10", help="a name or folder that xpconv.data.load takes")
    parser.add_argument("--backend", default="numpy", help="where to compute (default: numpy)")
    parser.add_argument("--images", type=int, help="of the training set (default: all)")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--depth", type=int, default=20, help="6n + 2 layers (default: 20)")
    parser.add_argument("--small", action="store_true", help="noise, 8 layers, 4 epochs, to see that it runs")
    options = parser.parse_args(argv)
    if options.small:
        options.depth, options.epochs = 8, 4
        with tempfile.TemporaryDirectory() as folder:
            write_noise(Path(folder), images=64)
            splits = load(folder)
    else:
        splits = load(options.data)
    images = splits.train if options.images is None else splits.train.subset(range(options.images))

    with xpconv.use_backend(options.backend):
        xpconv.manual_seed(0)
        transform = standard_transform(images)  # shifts by up to 4 pixels, mirroring, mean and deviation
        batches = Batches(images, 64 if options.small else 128, transform=transform)
        held_out = Batches(splits.test, 500, shuffle=False, transform=transform)

        net = models.CifarResNet(options.depth)
        optimizer = SGD(net.parameters(), lr=0.2, momentum=0.9, nesterov=True, weight_decay=5e-4)
        schedule = OneCycleSchedule(0.2, total_steps=options.epochs * len(batches))
        trainer = xpconv.Trainer(net, softmax_cross_entropy, optimizer, schedule=schedule)
        for epoch in range(1, options.epochs + 1):
            record = trainer.fit(batches, epochs=epoch)[-1]
            print(f"epoch {epoch}: loss {record['loss']:.4f}, {record['seconds']:.0f} s", flush=True)
        accuracy = trainer.evaluate(held_out).accuracy
    print(f"test accuracy {accuracy:.4f}")
    return accuracy


if __name__ == "__main__":
    main()
