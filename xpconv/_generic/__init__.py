"""Every operator in the pure array API: the portability proof, and a second oracle for the native kernels.

An operator takes the backend first, then its arrays and scalars, then the geometry if it has one. It uses only names
of the array API standard (through ``backend.xp``) and modifies no argument, except that the steps of optimizers
update the parameter and the state, which belong to the optimizer.
"""

from .columns import col2im, im2col
from .conv import conv2d, conv2d_backward
from .optim import adam_step, rmsprop_step, sgd_step

__all__ = ["adam_step", "col2im", "conv2d", "conv2d_backward", "im2col", "rmsprop_step", "sgd_step"]
