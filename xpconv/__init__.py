"""Convolutional networks on the array library you already have."""

from . import backends, functional
from .backends import (
    BackendMismatchError,
    BackendUnavailableError,
    asarray,
    available_backends,
    get_backend,
    register_backend,
    set_backend,
    to_numpy,
    use_backend,
)

__version__ = "0.1.0"
