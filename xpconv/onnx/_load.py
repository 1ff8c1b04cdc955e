"""From an ONNX file to a model."""

from __future__ import annotations

import os

from .._extras import require
from ._convert import convert
from ._errors import OnnxError
from ._graph import Graph
from ._read import read

__all__ = ["load"]


def load(path: str | os.PathLike[str], *, output: str | None = None, external_data: bool = False) -> Graph:
    """The network of an ONNX file, as layers that can be run, trained and changed.

    Nothing in the file is run as code, and no other file is read unless ``external_data`` says so. Weights become
    parameters on the default backend, in the dtype of the file (bfloat16 as float32), under the names that they have in
    the file where those are paths such as "layer1.0.conv1.weight". The model is in training mode, as every new one:
    call ``eval()`` to use it as it is.

    Parameters
    ----------
    path : path
        The file; versions 7 to 25 of the operator set.
    output : str, optional
        Name of the value in the file that is the model's result: of one of several results, or of one in the middle,
        such as the scores before a Softmax. What comes behind it is left out.
    external_data : bool
        Allow weights in other files, inside of the folder of this one.

    Returns
    -------
    Graph
        A `Layer` that has every layer of the network by its name.

    Raises
    ------
    OnnxError
        The file is damaged or unsafe, or has operators that xpconv lacks: all of them are listed.
    OSError
        It cannot be read.
    MissingExtraError
        The package onnx is not installed.
    """
    require("onnx", "ONNX files", extra="onnx")
    file = read(path, external_data=bool(external_data))
    try:
        return convert(file, output)
    except OnnxError as error:
        raise OnnxError(f"{os.fspath(path)!s}: {error}") from error.__cause__
