"""Models in ONNX files: `export` writes one, `load` makes a trainable model of one.

The file format's package ``onnx`` comes with ``pip install "xpconv[onnx]"``; nothing here needs it until it is called.
"""

from ._errors import OnnxError
from ._export import export
from ._graph import Graph
from ._load import load

__all__ = ["Graph", "OnnxError", "export", "load"]
