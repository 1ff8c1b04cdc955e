"""The compiled kernels on arrays: checks of shapes, then C without the interpreter lock.

Inputs may be read-only and have any strides. A call with shapes that do not belong together raises ValueError; no call
reads or writes outside its arrays.
"""

cimport cython
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.string cimport memset

include "arrays.pxi"
include "threads.pxi"
include "isa.pxi"
include "memory.pxi"
include "columns.pxi"
include "direct.pxi"
include "depthwise.pxi"
include "winograd.pxi"
include "blocked.pxi"
include "pool.pxi"
include "norm.pxi"
include "dropout.pxi"
include "activation.pxi"
include "optim.pxi"
include "loss.pxi"
include "linear.pxi"
