"""A network of CS231n on another device: three changed lines, marked below.

    python examples/cs231n_on_a_gpu.py                     # NumPy
    python examples/cs231n_on_a_gpu.py --backend cupy      # an NVIDIA GPU; also torch, torch:cuda:0, jax, ...
    python examples/cs231n_on_a_gpu.py --small             # few images, to see that it runs

It trains the course's ThreeLayerConvNet on images of clothes that ship with xpconv. The run is the same on every
backend, to rounding: weights and batches are drawn by NumPy's global generator, which is seeded here.

Ten seconds on two CPU cores; it has printed ``validation accuracy 0.767``.
"""

import argparse

import numpy as np

import xpconv
from xpconv.cs231n import classifiers, solver  # 1, in the course: from cs231n import classifiers, solver
from xpconv.data import load


def images(count: int) -> dict[str, np.ndarray]:
    """Images and labels on the host, named as the course's Solver wants them."""
    splits = load("fashion-mnist-small")
    mean = splits.train.images.mean()
    data = {}
    for name, part, stop in (("train", splits.train, count), ("val", splits.test, count // 2)):
        data[f"X_{name}"] = ((part.images[:stop] - mean) / 128).astype(np.float32)
        data[f"y_{name}"] = part.labels[:stop]
    return data


def main(argv: list[str] | None = None) -> float:
    """Train; returns the accuracy on the validation images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="numpy", help="a backend of xpconv (default: numpy)")
    parser.add_argument("--images", type=int, default=2000, help="training images (default: 2000)")
    parser.add_argument("--epochs", type=int, default=3, help="passes over them (default: 3)")
    parser.add_argument("--filters", type=int, default=16, help="filters of the convolution (default: 16)")
    parser.add_argument("--small", action="store_true", help="100 images, once, with 2 filters")
    arguments = parser.parse_args(argv)
    if arguments.small:
        arguments.images, arguments.epochs, arguments.filters = 100, 1, 2

    xpconv.set_backend(arguments.backend)  # 2: where the network keeps its parameters
    data = {name: xpconv.asarray(array) for name, array in images(arguments.images).items()}  # 3: move the data there

    np.random.seed(231)  # noqa: NPY002 - as in the course
    net = classifiers.ThreeLayerConvNet((1, 28, 28), arguments.filters, filter_size=5, weight_scale=1e-2, reg=1e-3)
    trainer = solver.Solver(
        net,
        data,
        update_rule="adam",
        optim_config={"learning_rate": 1e-3},
        num_epochs=arguments.epochs,
        batch_size=50,
        print_every=20,
    )
    trainer.train()
    return trainer.best_val_acc


if __name__ == "__main__":
    print(f"validation accuracy {main():.3f}")
