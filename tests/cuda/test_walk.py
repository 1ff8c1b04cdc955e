"""Division by multiplication is exact, in Python's numbers and in the kernels' ones."""

import numpy as np
import pytest

from xpconv._gpu import launch, module
from xpconv._gpu.walk import divisor, walk
from xpconv.testing.cuda_host import HostArray, HostModule

NUMBERS = [1, 2, 3, 5, 7, 9, 10, 49, 64, 641, 1023, 1024, 1025, 50176, 2**16 + 1, 6700417, 2**30, 2**30 + 1, 2**31 - 1]


def numerators(rng, number):
    """Small ones, random ones, the largest, and those next to multiples."""
    multiples = rng.integers(1, max(2, 2**31 // number), size=50) * number
    some = np.concatenate([np.arange(20), rng.integers(0, 2**31, size=50), multiples, multiples - 1, [2**31 - 1]])
    return some[some < 2**31]


@pytest.mark.parametrize("number", NUMBERS)
def test_divisor(rng, number):
    same, magic, shift = divisor(number)
    assert same == number
    assert magic < 2**32
    assert (2**31 - 1) * magic < 2**64
    for n in numerators(rng, number).tolist():
        assert n * magic >> shift == n // number


def test_every_small_division():
    n = np.arange(3000, dtype=np.uint64)
    for number in range(1, 1500):
        _, magic, shift = divisor(number)
        np.testing.assert_array_equal(n * np.uint64(magic) >> np.uint64(shift), n // np.uint64(number))


def test_in_a_kernel(host, rng):
    code = module.source("reduce") + (
        "\n__global__ void quotients(const int* n, int* q, Divisor<int> by) {"
        " q[blockIdx.x] = by.into(n[blockIdx.x]); }\n"
    )
    kernel = HostModule(code, ("-DXPCONV_ON_HOST",), ["quotients"]).get_function("quotients")
    for number in NUMBERS:
        n = numerators(rng, number).astype(np.int32)
        q = np.zeros_like(n).view(HostArray)
        members = np.array(divisor(number), np.uint32).view([("members", np.uint32, 3)])
        kernel((n.size,), (1,), (n.view(HostArray), q, members))
        np.testing.assert_array_equal(np.asarray(q), n // number)


@pytest.mark.parametrize("elements", [1, 2**31])
def test_walk(elements):
    """The divisors and the count; without pixels nothing is divided by zero."""
    index = launch.index_for(elements)
    for batch, channels, height, width in [(2, 3, 4, 5), (0, 2, 3, 3), (1, 1, 0, 7)]:
        members = walk(index, batch, channels, height, width)["members"][0].tolist()
        divisors = members[:-1] if elements > 1 else members[:-1:3]
        assert divisors == [max(1, batch), max(1, height * width), max(1, width)]
        assert members[-1] == batch * channels * height * width
