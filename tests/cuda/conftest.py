import pytest

from xpconv.backends import BackendUnavailableError, load_backend


@pytest.fixture(scope="session")
def host():
    """The CUDA kernels on the host."""
    try:
        return load_backend("cuda-host")
    except BackendUnavailableError as error:
        pytest.skip(str(error))
