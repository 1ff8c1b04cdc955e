"""What tests of xpconv, and of code built on it, need: the backend matrix, gradient checks, array strategies."""

from .matrix import CASES, Case

__all__ = ["CASES", "Case"]
