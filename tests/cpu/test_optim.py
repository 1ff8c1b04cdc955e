"""The steps of optimizers and the norm of gradients: the bits of the generic operators, on many tensors at once."""

import math

import numpy as np
import pytest

from xpconv import _generic
from xpconv._cpu import _kernels, optim
from xpconv.backends import load_backend

NUMPY = load_backend("numpy")
# of many sizes: without elements, without axes, around the kernel's strides (128) and chunks (8192)
SHAPES = [(1,), (), (0,), (3, 5), (127,), (128,), (129,), (2, 0), (64, 128), (8193,), (3, 7001), (17,)]
# operator, arrays of state, numbers before which state may be missing, numbers
VARIANTS = {
    "sgd": ("sgd_steps", 0, (0.1, 0.0, 0.0, False, 0.0)),
    "sgd-decayed": ("sgd_steps", 0, (0.1, 0.0, 0.0, False, 0.05)),
    "sgd-momentum": ("sgd_steps", 1, (0.1, 0.8, 0.3, False, 0.0)),
    "sgd-momentum-decayed": ("sgd_steps", 1, (0.1, 0.8, 0.0, False, 0.02)),
    "sgd-nesterov": ("sgd_steps", 1, (0.05, 0.9, 0.0, True, 0.0)),
    "sgd-nesterov-decayed": ("sgd_steps", 1, (0.05, 0.9, 0.0, True, 0.01)),
    "rmsprop": ("rmsprop_steps", 1, (0.01, 0.99, 1e-8, 0.0, 0.0)),
    "rmsprop-decayed": ("rmsprop_steps", 1, (0.01, 0.9, 1e-3, 0.0, 0.02)),
    "rmsprop-momentum": ("rmsprop_steps", 2, (0.02, 0.8, 1e-3, 0.7, 0.0)),
    "rmsprop-momentum-decayed": ("rmsprop_steps", 2, (0.02, 0.8, 1e-3, 0.7, 0.02)),
    "adam": ("adam_steps", 2, (3, 0.02, 0.8, 0.95, 1e-8, 0.0, False)),
    "adam-first": ("adam_steps", 2, (1, 0.02, 0.9, 0.999, 1e-8, 0.0, False)),
    "adam-no-past": ("adam_steps", 2, (2, 0.02, 0.0, 0.0, 1e-8, 0.0, False)),
    "adam-decayed": ("adam_steps", 2, (3, 0.02, 0.8, 0.95, 1e-8, 0.02, False)),
    "adamw": ("adam_steps", 2, (3, 0.02, 0.8, 0.95, 1e-3, 0.2, True)),
    "adamw-undecayed": ("adam_steps", 2, (3, 0.02, 0.8, 0.95, 1e-3, 0.0, True)),
}


def arguments(rng, variant, dtype, shapes=SHAPES):
    """[params, grads, *state] of the operator; state of squares is positive."""
    operator, states, _ = VARIANTS[variant]

    def draw():
        return [np.asarray(rng.standard_normal(shape)).astype(dtype) for shape in shapes]

    lists = [draw() for _ in range(2 + states)]
    squares = {"sgd_steps": None, "rmsprop_steps": 2, "adam_steps": 3}[operator]
    if squares is not None:
        lists[squares] = [np.asarray(array * array) for array in lists[squares]]
    return lists


def called(module, variant, lists, options=None):
    """Lists of results of a step."""
    operator, states, numbers = VARIANTS[variant]
    state = [*lists[2:], *[None] * (0 if operator == "adam_steps" else 1 + (operator == "rmsprop_steps") - states)]
    return getattr(module, operator)(NUMPY, *lists[:2], *state, *(options or numbers))


def copies(lists):
    return [[array.copy() for array in arrays] for arrays in lists]


def assert_same(got, want):
    for ours, theirs in zip(got, want, strict=True):
        assert (ours is None) == (theirs is None)
        for a, b in zip(ours or (), theirs or (), strict=True):
            assert np.asarray(a).dtype == np.asarray(b).dtype
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_bits_are_the_generic_operators(rng, isa, threads, variant, dtype):
    lists = arguments(rng, variant, dtype)
    before = copies(lists)
    want = called(_generic, variant, copies(lists))
    got = called(optim, variant, lists)
    assert_same(got, want)
    assert_same([lists[1]], [before[1]])  # gradients are only read
    for results, given in zip(got, [lists[0], *lists[2:]], strict=False):
        assert results is None or all(a is b for a, b in zip(results, given, strict=True))  # updated in place
    for new, old in zip(lists[0], before[0], strict=True):
        assert new.size == 0 or not np.array_equal(new, old)


@pytest.mark.parametrize("variant", ["sgd-momentum", "sgd-nesterov-decayed", "rmsprop-momentum"])
def test_state_that_begins_is_made(rng, variant):
    operator, _, numbers = VARIANTS[variant]
    params, grads, *others = arguments(rng, variant, "float32")
    others = others[:-1]  # all but the velocities

    def two_steps(module):
        step = getattr(module, operator)
        results = step(NUMPY, *copies([params, grads, *others]), None, *numbers)
        return step(NUMPY, results[0], grads, *results[1:], *numbers)

    got = two_steps(optim)
    assert_same(got, two_steps(_generic))
    assert not {id(velocity) for velocity in got[-1]} & {id(gradient) for gradient in grads}


@pytest.mark.parametrize("variant", ["sgd-momentum-decayed", "rmsprop-momentum", "adam-decayed"])
def test_any_memory_layout(rng, scattered, variant):
    """Parameters and state that are not contiguous are updated where they are, and nothing around them."""
    lists = arguments(rng, variant, "float32", [(3, 5), (4, 2, 7), (33,)])
    want = called(_generic, variant, copies(lists))
    places = [[scattered(array) for array in arrays] for arrays in lists]
    views = [[place.view for place in row] for row in places]
    got = called(optim, variant, views)
    assert_same(got, want)
    for ours, view in zip(got[0], views[0], strict=True):
        assert ours is view
    assert all(place.margin_is_whole() for row in places for place in row)
    for gradient, view in zip(lists[1], views[1], strict=True):
        np.testing.assert_array_equal(view, gradient)


def test_margins_of_contiguous_arrays(rng):
    memory = np.full(300, 7, np.float32)
    params = [memory[1:4], memory[5:133], memory[134:299]]
    optim.sgd_steps(NUMPY, params, [np.ones(p.shape, np.float32) for p in params], None, 1.0, 0.0, 0.0, False, 0.0)
    expected = np.full(300, 6, np.float32)
    expected[[0, 4, 133, 299]] = 7
    np.testing.assert_array_equal(memory, expected)


@pytest.mark.parametrize("variant", ["sgd", "sgd-nesterov-decayed", "rmsprop", "adam", "adamw"])
@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite(rng, isa, variant, number):
    lists = arguments(rng, variant, "float32", [(40,), (9,)])
    for place, arrays in enumerate(lists):
        arrays[0][5 + place] = abs(number) if place >= 2 else number
    with np.errstate(invalid="ignore"):
        want = called(_generic, variant, copies(lists))
        got = called(optim, variant, lists)
    assert_same(got, want)
    assert not np.isfinite(got[0][0][5])


def test_rate_and_step_may_be_arrays(rng):
    lists = arguments(rng, "adam", "float32", [(5,), (3, 3)])
    step, lr = np.asarray([6], np.int64), np.asarray([0.1], np.float64)
    got = called(optim, "adam", copies(lists), (step, lr, 0.9, 0.99, 1e-8, 0.1, True))
    assert_same(got, called(optim, "adam", copies(lists), (7, 0.1, 0.9, 0.99, 1e-8, 0.1, True)))
    assert step.tolist() == [7]
    lists = lists[:3]
    got = called(optim, "sgd-momentum", copies(lists), (lr, 0.9, 0.0, True, 0.1))
    assert_same(got, called(optim, "sgd-momentum", copies(lists), (0.1, 0.9, 0.0, True, 0.1)))


class TestSquaredNorm:
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_is_the_sum_of_all_squares(self, rng, isa, dtype):
        grads = [np.asarray(rng.standard_normal(shape)).astype(dtype) for shape in SHAPES]
        grads.append(grads[4][::-2])
        want = math.fsum(float(x) ** 2 for grad in grads for x in grad.reshape(-1))
        square = optim.squared_norm(NUMPY, grads)
        assert isinstance(square, np.ndarray)
        assert (square.shape, square.dtype) == ((), np.dtype(dtype))
        assert float(square) == pytest.approx(want, rel=1e-7 if dtype == "float32" else 1e-14)

    def test_depends_neither_on_threads_nor_on_the_instruction_set(self, rng):
        import xpconv

        grads = [rng.standard_normal(n).astype(np.float32) for n in (200_001, 3, 90_000)]
        before = xpconv.get_num_threads(), _kernels.instruction_set()
        results = set()
        try:
            for isa in _kernels.instruction_sets():
                _kernels.use_instruction_set(isa)
                for number in (1, 2, 3):
                    xpconv.set_num_threads(number)
                    results.add(_kernels.squared_norm(grads))
        finally:
            xpconv.set_num_threads(before[0])
            if before[1]:
                _kernels.use_instruction_set(before[1])
        assert len(results) <= 1

    def test_beyond_the_dtype(self):
        assert float(optim.squared_norm(NUMPY, [np.full(3, 3e38, np.float32)])) == math.inf
        assert math.isnan(float(optim.squared_norm(NUMPY, [np.asarray([1, math.nan])])))
        assert float(optim.squared_norm(NUMPY, [np.full(4, 1e-30, np.float32)])) == 0


class TestCallsThatDoNotFit:
    @pytest.mark.parametrize(
        ("grads", "message"),
        [
            ([np.ones(3, np.float32)], "3 elements, expected 4|4 elements, expected 3"),
            ([np.ones(4)], "two types"),
            ([np.ones(4, np.float16)], "expected float32 or float64"),
            ([np.ones(8, np.float32)[::2]], "contiguous"),
            ([np.ones(4, np.float32)] * 2, "expected 2"),
            ([np.ones(17, np.uint8)[1:].view(np.float32)], "not aligned"),
        ],
    )
    def test_arrays_are_refused(self, grads, message):
        param = np.ones(4, np.float32)
        with pytest.raises(ValueError, match=message):
            _kernels.sgd_steps([param], grads, None, 0.1, 0.0, 0.0, False, 0.0)
        np.testing.assert_array_equal(param, 1)

    def test_read_only_parameters(self):
        param = np.ones(4, np.float32)
        param.flags.writeable = False
        with pytest.raises(ValueError, match="read-only"):
            _kernels.sgd_steps([param], [np.ones(4, np.float32)], None, 0.1, 0.0, 0.0, False, 0.0)

    def test_state_is_missing(self):
        ones = [np.ones(4, np.float32)]
        with pytest.raises(ValueError, match="velocities"):
            _kernels.sgd_steps(ones, ones, None, 0.1, 0.9, 0.0, False, 0.0)
        with pytest.raises(ValueError, match="buffers"):
            _kernels.rmsprop_steps(ones, ones, ones, None, 0.1, 0.9, 0.0, 0.9, 0.0)

    def test_arrays_are_released(self):
        array = np.ones(4, np.float32)
        _kernels.sgd_steps([array], [np.ones(4, np.float32)], None, 0.1, 0.0, 0.0, False, 0.0)
        array.resize(9, refcheck=False)  # refused while a kernel holds it
        assert array.size == 9
