# cython: language_level=3
"""im2col and col2im as the course compiles them: plain loops with the batch innermost, bounds checks turned off.

Written afresh after what the course describes. Kept as it is there: buffers of NumPy arrays, indices of C ints, the
order of the loops, the compiler's default flags. Not kept: the row of a column, which there is wrong for kernels that
are not square.
"""

import numpy as np

cimport cython
cimport numpy as np

ctypedef fused real:
    np.float32_t
    np.float64_t


def im2col(np.ndarray[real, ndim=4] x, int kh, int kw, int padding, int stride):
    """Columns (C * kh * kw, out_h * out_w * N) of images (N, C, H, W), the batch last."""
    cdef int n = x.shape[0]
    cdef int c = x.shape[1]
    cdef int out_h = (x.shape[2] + 2 * padding - kh) // stride + 1
    cdef int out_w = (x.shape[3] + 2 * padding - kw) // stride + 1
    frame = ((0, 0), (0, 0), (padding, padding), (padding, padding))
    cdef np.ndarray[real, ndim=4] padded = np.pad(x, frame, mode="constant")
    cdef np.ndarray[real, ndim=2] cols = np.zeros((c * kh * kw, n * out_h * out_w), dtype=x.dtype)
    gather(cols, padded, n, c, out_h, out_w, kh, kw, stride)
    return cols


@cython.boundscheck(False)
cdef int gather(
    np.ndarray[real, ndim=2] cols, np.ndarray[real, ndim=4] padded,
    int n, int c, int out_h, int out_w, int kh, int kw, int stride,
) except? -1:
    cdef int channel, p, q, i, j, row, image, column
    for channel in range(c):
        for p in range(out_h):
            for q in range(out_w):
                for i in range(kh):
                    for j in range(kw):
                        row = (channel * kh + i) * kw + j
                        for image in range(n):
                            column = (p * out_w + q) * n + image
                            cols[row, column] = padded[image, channel, stride * p + i, stride * q + j]


def col2im(np.ndarray[real, ndim=2] cols, int n, int c, int h, int w, int kh, int kw, int padding, int stride):
    """Images (N, C, H, W): every column added to the pixels it was copied from."""
    cdef int out_h = (h + 2 * padding - kh) // stride + 1
    cdef int out_w = (w + 2 * padding - kw) // stride + 1
    cdef np.ndarray[real, ndim=4] padded = np.zeros((n, c, h + 2 * padding, w + 2 * padding), dtype=cols.dtype)
    scatter(cols, padded, n, c, out_h, out_w, kh, kw, stride)
    return padded[:, :, padding:padding + h, padding:padding + w]


@cython.boundscheck(False)
cdef int scatter(
    np.ndarray[real, ndim=2] cols, np.ndarray[real, ndim=4] padded,
    int n, int c, int out_h, int out_w, int kh, int kw, int stride,
) except? -1:
    cdef int channel, i, j, row, p, q, image, column
    for channel in range(c):
        for i in range(kh):
            for j in range(kw):
                row = (channel * kh + i) * kw + j
                for p in range(out_h):
                    for q in range(out_w):
                        for image in range(n):
                            column = (p * out_w + q) * n + image
                            padded[image, channel, stride * p + i, stride * q + j] += cols[row, column]
