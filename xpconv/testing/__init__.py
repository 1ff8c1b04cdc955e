"""What tests of xpconv, and of code built on it, need.

`CASES` is the backend matrix, `check_gradients` and `check_layer` compare a backward pass with differences of the
forward pass, `naive` has oracles in plain loops, `LAYOUTS` are ways for an array to lie in memory. Importing this needs
nothing but NumPy. To be imported by their names: `xpconv.testing.parity` compares what two backends compute, and
`xpconv.testing.strategies` needs Hypothesis.
"""

from . import naive
from .gradients import check_gradients, check_layer
from .layouts import LAYOUTS
from .matrix import CASES, Case

__all__ = ["CASES", "LAYOUTS", "Case", "check_gradients", "check_layer", "naive"]
