"""Every operator in the pure array API: the portability proof, and a second oracle for the native kernels.

An operator takes the backend first, then its arrays and scalars, then the geometry if it has one. It uses only names
of the array API standard (through ``backend.xp``) and modifies no argument.
"""

from .columns import col2im, im2col
from .conv import conv2d, conv2d_backward

__all__ = ["col2im", "conv2d", "conv2d_backward", "im2col"]
