"""Deblurring a photograph by gradient descent: a convolution and its gradient inside a NumPy pipeline, no network.

    python examples/deblur.py                     # a photograph of scikit-learn; writes deblur.png
    python examples/deblur.py --picture FILE      # one of yours
    python examples/deblur.py --small             # images of clothes that ship with xpconv; two seconds

The picture y is what a lens out of focus has made of x: y = k * x + noise, the kernel k being known. What is looked for
is the x that minimises

    |k * x - y|^2 / 2  +  strength * (sum of sqrt(|gradient of x|^2 + SMOOTH^2)),

least squares and a smoothed total variation (Rudin, Osher, Fatemi 1992), which keeps edges and not noise. `conv2d` is
the blur, and with a second pair of kernels the differences of neighbouring pixels; `conv2d_backward` gives both
gradients. The steps are Nesterov's (Beck, Teboulle 2009).

Five seconds; it has printed ``signal-to-noise ratio 19.33 dB before, 22.81 dB after``, with --small
``16.95 dB before, 25.37 dB after``. Needs ``pip install "xpconv[train,sklearn]"`` for the photograph and the picture.
"""

import argparse
from pathlib import Path

import numpy as np

from xpconv.functional import conv2d, conv2d_backward

SMOOTH = 0.01  # differences of pixels far below count as none, which makes the total variation differentiable

# to the right-hand neighbour and to the lower one
DIFFERENCES = np.array([[[[-1, 1], [0, 0]]], [[[-1, 0], [1, 0]]]], np.float32)


def disc(radius: float) -> np.ndarray:
    """Kernel (1, 1, k, k) of a lens out of focus: the same weight everywhere in a circle, sum 1."""
    reach = int(np.ceil(radius))
    across = np.arange(-reach, reach + 1)
    inside = np.clip(radius + 0.5 - np.hypot(*np.meshgrid(across, across)), 0, 1)
    return (inside / inside.sum()).astype(np.float32)[None, None]


def psnr(x: np.ndarray, truth: np.ndarray) -> float:
    """Peak signal-to-noise ratio in decibels, of pixels from 0 to 1."""
    return float(-10 * np.log10(np.square(x - truth).mean()))


def loss_and_gradient(x: np.ndarray, y: np.ndarray, k: np.ndarray, strength: float) -> tuple[float, np.ndarray]:
    """The function to minimise and its gradient to x.

    Parameters
    ----------
    x
        (channels, 1, H, W): every channel is an image of its own, since all are blurred alike.
    y
        The blurred ones, smaller by the reach of the kernel: only pixels whose whole surroundings are known.
    """
    blurred, cache = conv2d(x, k)
    residual = blurred - y
    dx, _, _ = conv2d_backward(residual, cache)

    steps, cache = conv2d(x, DIFFERENCES)
    length = np.sqrt(np.square(steps).sum(axis=1, keepdims=True) + SMOOTH**2)
    dx_of_variation, _, _ = conv2d_backward(steps / length, cache)

    loss = float(np.square(residual).sum()) / 2 + strength * float(length.sum())
    return loss, dx + strength * dx_of_variation


def deblur(y: np.ndarray, k: np.ndarray, strength: float, steps: int) -> np.ndarray:
    """The sharp images, with a margin that is as wide as the kernel reaches."""
    reach = k.shape[-1] // 2
    x = before = np.pad(y, ((0, 0), (0, 0), (reach, reach), (reach, reach)), mode="edge")
    # no second derivative is larger: 1 of the blur, whose weights add up to 1, and 8 of the differences
    rate = 1 / (1 + 8 * strength / SMOOTH)
    momentum = 1.0
    for step in range(steps):
        following = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        ahead = x + np.float32((momentum - 1) / following) * (x - before)
        loss, gradient = loss_and_gradient(ahead, y, k, strength)
        before, x, momentum = x, ahead - np.float32(rate) * gradient, following
        if step % max(1, steps // 5) == 0:
            print(f"step {step:4}: loss {loss:.2f}", flush=True)
    return x


def photograph(path: str | None, small: bool) -> np.ndarray:
    """Channels of a picture (C, 1, H, W), pixels from 0 to 1."""
    if path is not None:
        from PIL import Image

        pixels = np.asarray(Image.open(path).convert("RGB"))
    elif small:
        from xpconv.data import load

        clothes = load("fashion-mnist-small").test.images[:12, 0]
        pixels = np.block([list(clothes[4 * row : 4 * row + 4]) for row in range(3)])[..., None]
    else:
        from sklearn.datasets import load_sample_image

        pixels = load_sample_image("china.jpg")[100:356, 190:446]
    return (pixels / 255).astype(np.float32).transpose(2, 0, 1)[:, None]


def save(path: Path, pictures: dict[str, np.ndarray]) -> None:
    """The pictures side by side."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height, width = next(iter(pictures.values())).shape[2:]
    figure = Figure(figsize=(4 * len(pictures), 4 * height / width + 0.3), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, picture) in zip(figure.subplots(1, len(pictures)), pictures.items(), strict=True):
        pixels = np.clip(picture[:, 0].transpose(1, 2, 0), 0, 1)
        axes.imshow(pixels if pixels.shape[2] == 3 else pixels[..., 0], cmap="gray", vmin=0, vmax=1)
        axes.set_title(title)
        axes.axis("off")
    figure.savefig(path)


def main(argv: list[str] | None = None) -> tuple[float, float]:
    """Blur, deblur, draw; gives the signal-to-noise ratio before and after."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", metavar="FILE", help="a photograph of yours")
    parser.add_argument("--radius", type=float, default=4.0, help="of the blur, in pixels (default: 4)")
    parser.add_argument("--noise", type=float, default=0.005, help="its standard deviation (default: 0.005)")
    parser.add_argument("--strength", type=float, default=1.5e-4, help="of the total variation (default: 1.5e-4)")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--out", type=Path, default=Path("deblur.png"))
    parser.add_argument("--small", action="store_true", help="a small picture and few steps, to see that it runs")
    options = parser.parse_args(argv)
    if options.small:
        options.radius, options.steps = 2.0, 60

    truth = photograph(options.picture, options.small)
    k = disc(options.radius)
    blurred, _ = conv2d(truth, k)
    y = blurred + options.noise * np.random.default_rng(0).standard_normal(blurred.shape, dtype=np.float32)
    x = deblur(y, k, options.strength, options.steps)

    reach = k.shape[-1] // 2
    inner = (..., slice(reach, -reach), slice(reach, -reach))
    before, after = psnr(y, truth[inner]), psnr(x[inner], truth[inner])
    print(f"signal-to-noise ratio {before:.2f} dB before, {after:.2f} dB after")
    save(
        options.out,
        {f"blurred, {before:.1f} dB": y, f"deblurred, {after:.1f} dB": x[inner], "the original": truth[inner]},
    )
    print(f"written: {options.out}")
    return before, after


if __name__ == "__main__":
    main()
