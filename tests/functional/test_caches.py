"""Each backward takes the cache of its own forward, and says so when it gets another."""

import inspect

import numpy as np
import pytest

from xpconv import functional as F

BACKWARDS = sorted(name for name in F.__all__ if name.endswith("_backward"))


@pytest.mark.parametrize("cache", [None, (np.ones((1, 1)),), F.linear], ids=["none", "tuple", "function"])
@pytest.mark.parametrize("name", BACKWARDS)
def test_what_is_no_cache_is_refused(name, cache):
    kind = inspect.signature(getattr(F, name)).parameters["cache"].annotation
    got = type(cache).__name__
    with pytest.raises(TypeError, match=f"^cache: expected the {kind} that the forward call returned, got {got}$"):
        getattr(F, name)(np.ones((1, 1)), cache)


def test_the_cache_of_another_operator_is_refused():
    x = np.ones((1, 1, 4, 4))
    y, cache = F.conv2d(x, np.ones((1, 1, 3, 3)))
    with pytest.raises(TypeError, match=r"cache: expected the MaxPool2dCache .*, got Conv2dCache"):
        F.max_pool2d_backward(y, cache)
