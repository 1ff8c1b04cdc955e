"""What goes wrong between models and ONNX files."""

from __future__ import annotations

__all__ = ["OnnxError"]


class OnnxError(ValueError):
    """A model that ONNX cannot express, or a file that is damaged, unsafe or beyond what xpconv knows."""
