"""Optional packages, those of the extras, imported when first needed."""

from __future__ import annotations

import importlib
from types import ModuleType

__all__ = ["MissingExtraError", "require"]

_PACKAGE_OF = {"PIL": "pillow", "sklearn": "scikit-learn"}


class MissingExtraError(ImportError):
    """A package of an extra is not installed; the message has the command that installs it."""


def require(module: str, purpose: str, *, extra: str = "train") -> ModuleType:
    """Import ``module``, which xpconv does not depend on.

    Parameters
    ----------
    module
        Full name, such as ``"safetensors.numpy"``.
    purpose
        Subject of the error message: ``"checkpoints"``.
    extra
        The extra of xpconv that brings it.

    Raises
    ------
    MissingExtraError
        It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        top = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != top:
            raise  # it is installed, and something that it needs is not: the original message says more
        package = _PACKAGE_OF.get(top, top)
        raise MissingExtraError(
            f'{purpose} need the package {package}, which is not installed: pip install "xpconv[{extra}]"'
        ) from None
