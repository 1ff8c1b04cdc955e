"""The optimizers' operators follow PyTorch's optimizers, step by step, and leave the gradient alone."""

import numpy as np
import pytest

from xpconv.backends import get_backend, run

STEPS = 4
LR = 0.05


def writable(on, values, dtype):
    """An array that its owner may update, also where the case's arrays are read-only."""
    array = on.asarray(values, dtype)
    if on.readonly:
        array.flags.writeable = True
    return array


def problem(rng):
    return rng.normal(size=(3, 4)), rng.normal(size=(STEPS, 3, 4))


def torch_run(make, start, gradients):
    torch = pytest.importorskip("torch")
    p = torch.nn.Parameter(torch.tensor(start))
    optimizer = make(torch.optim, [p])
    for g in gradients:
        p.grad = torch.tensor(g)
        optimizer.step()
    return p.detach().numpy()


def check(on, dtype, got, want):
    tolerance = 2e-6 if dtype == "float32" else 1e-13
    got = on.to_numpy(got)
    assert got.dtype == dtype
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(
    ("momentum", "dampening", "nesterov"), [(0, 0, False), (0.9, 0, False), (0.9, 0.3, False), (0.8, 0, True)]
)
@pytest.mark.parametrize("weight_decay", [0, 0.1])
def test_sgd(on, sparing, rng, momentum, dampening, nesterov, weight_decay):
    sparing(nesterov and weight_decay)
    start, gradients = problem(rng)
    options = {"momentum": momentum, "dampening": dampening, "nesterov": nesterov, "weight_decay": weight_decay}
    want = torch_run(lambda optim, params: optim.SGD(params, lr=LR, **options), start, gradients)
    for dtype in on.dtypes:
        p, velocity = writable(on, start, dtype), None
        for g in gradients:
            gradient = on.asarray(g, dtype)
            velocities = None if velocity is None else [velocity]
            (p,), velocities = run(
                get_backend(), "sgd_steps", [p], [gradient], velocities, LR, momentum, dampening, nesterov, weight_decay
            )
            velocity = None if velocities is None else velocities[0]
            np.testing.assert_array_equal(on.to_numpy(gradient), g.astype(dtype))
        assert (velocity is None) == (momentum == 0)
        check(on, dtype, p, want)


@pytest.mark.parametrize("momentum", [0, 0.9])
@pytest.mark.parametrize("weight_decay", [0, 0.1])
def test_rmsprop(on, sparing, rng, momentum, weight_decay):
    sparing(momentum and weight_decay)
    start, gradients = problem(rng)
    want = torch_run(
        lambda optim, params: optim.RMSprop(params, lr=LR, alpha=0.95, momentum=momentum, weight_decay=weight_decay),
        start,
        gradients,
    )
    for dtype in on.dtypes:
        p, square, buffer = writable(on, start, dtype), writable(on, np.zeros((3, 4)), dtype), None
        for g in gradients:
            gradient = on.asarray(g, dtype)
            buffers = None if buffer is None else [buffer]
            (p,), (square,), buffers = run(
                get_backend(),
                "rmsprop_steps",
                [p],
                [gradient],
                [square],
                buffers,
                LR,
                0.95,
                1e-8,
                momentum,
                weight_decay,
            )
            buffer = None if buffers is None else buffers[0]
            np.testing.assert_array_equal(on.to_numpy(gradient), g.astype(dtype))
        assert (buffer is None) == (momentum == 0)
        check(on, dtype, p, want)


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("weight_decay", [0, 0.1])
def test_adam(on, sparing, rng, decoupled, weight_decay):
    sparing(decoupled and weight_decay)
    start, gradients = problem(rng)
    name = "AdamW" if decoupled else "Adam"
    want = torch_run(
        lambda optim, params: getattr(optim, name)(params, lr=LR, betas=(0.8, 0.95), weight_decay=weight_decay),
        start,
        gradients,
    )
    for dtype in on.dtypes:
        p = writable(on, start, dtype)
        m, v = (writable(on, np.zeros((3, 4)), dtype) for _ in range(2))
        for step, g in enumerate(gradients, start=1):
            gradient = on.asarray(g, dtype)
            (p,), (m,), (v,) = run(
                get_backend(),
                "adam_steps",
                [p],
                [gradient],
                [m],
                [v],
                step,
                LR,
                0.8,
                0.95,
                1e-8,
                weight_decay,
                decoupled,
            )
            np.testing.assert_array_equal(on.to_numpy(gradient), g.astype(dtype))
        check(on, dtype, p, want)
