import numpy as np
import pytest

import xpconv
from xpconv.backends import get_kernels
from xpconv.testing import CASES, Case


def test_names_are_unique():
    assert len({case.id for case in CASES}) == len(CASES)


def test_a_case_sets_backend_and_kernels_and_puts_them_back():
    before = xpconv.get_backend(), get_kernels()
    with Case("x", "numpy", kernels="generic").active() as backend:
        assert backend.name == "numpy"
        assert get_kernels() == "generic"
    assert (xpconv.get_backend(), get_kernels()) == before


def test_a_case_makes_arrays_of_its_backend(on):
    assert xpconv.get_backend().name == on.backend
    values = np.arange(6, dtype="float32").reshape(2, 3)
    array = on.asarray(values)
    assert on.to_numpy(array).tolist() == values.tolist()
    values[...] = 0
    assert on.to_numpy(array)[1, 2] == 5
    for dtype in on.dtypes:
        assert xpconv.get_backend().dtype_name(on.asarray(values, dtype)) == dtype


def test_arrays_of_the_readonly_case_are():
    (case,) = (case for case in CASES if case.readonly)
    array = case.asarray([1.0, 2.0], "float32")
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 3


def test_to_numpy_refuses_arrays_of_another_backend():
    (case,) = (case for case in CASES if case.id == "strict")
    if case.why_unavailable():
        pytest.skip(case.why_unavailable())
    with pytest.raises(AssertionError, match="is not of array_api_strict"):
        case.to_numpy(np.zeros(3))


def test_an_unavailable_case_says_why():
    assert "no device" in Case("x", "numpy:tpu").why_unavailable()
