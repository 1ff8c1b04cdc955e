"""Models in ONNX files: `export` writes one, `load` makes a trainable model of one.

The file format's package ``onnx`` comes with ``pip install "xpconv[onnx]"``; nothing here needs it until it is called.
"""

from ._errors import OnnxError
from ._export import export

__all__ = ["OnnxError", "export"]
