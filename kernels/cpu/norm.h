/* Normalisation, float32 and float64: subtract the mean, divide by the standard deviation, scale and shift.
 *
 *     batch norm: each channel over the batch            group norm: each group of channels of each image
 *
 *              c = 0      1      2      3                          c = 0      1      2      3
 *     n = 0   ######  ......  ......  ......               n = 0   #############  ..............
 *     n = 1   ######  ......  ......  ......               n = 1   .............  ..............
 *     n = 2   ######  ......  ......  ......               n = 2   .............  ..............
 *
 * Arrays are (N, C, L) in one of two orders: runs, where the last axis is contiguous, or rows, where the channels are.
 *
 * Moments must be right where the mean is much larger than the standard deviation. Values are taken relative to one
 * from among them, close to their mean; sums and sums of squares grow for a few vectors in the lanes of REAL, then in
 * double. Where the guess was so far off that the difference of the two sums loses digits, they are made again, in
 * double, relative to the mean just found: the corrected two-pass algorithm of Chan, Golub, LeVeque (1983).
 *
 * No sum depends on the number of threads: each is made by one thread, or in shares that depend on the shape alone.
 */
#ifndef XPC_NORM_H
#define XPC_NORM_H

#include <stddef.h>

/* Axes (N, C, L); all arrays of one call have the same shape. */
typedef struct {
    char *data;
    ptrdiff_t shape[3], strides[3];
} xpc_runs;

/* The arguments of batch norm, forward and backward. Vectors (C,) are of the type of x. */
typedef struct {
    xpc_runs x, residual, y, dy, dx, dresidual; /* data may be NULL as told below */
    const void *weight, *bias;                  /* NULL: 1 and 0 */
    void *mean, *variance, *inv_std, *dw, *db;
    const void *old_mean, *old_variance; /* running statistics, NULL: none */
    void *new_mean, *new_variance;
    double momentum, eps;
    int rows;     /* the order of all arrays: runs or rows */
    int given;    /* forward: mean and variance are given, not found; backward: they do not depend on x */
    int relu;     /* y = max(y, 0), where a NaN stays; backward: dy counts where y > 0 */
} xpc_norm;

/* y = (x - mean) * inv_std * weight + bias, then `+ residual` if there is one, then the ReLU. mean and variance are
 * written unless given, inv_std always; new = old * (1 - momentum) + found * momentum, where the variance is the
 * unbiased one. Both functions return 0 if there is no working memory, else 1. */
int xpc_batch_norm(const xpc_norm *norm, int is_double);

/* dx, dw and db; dy behind the ReLU goes to dresidual, if that is not NULL. */
int xpc_batch_norm_backward(const xpc_norm *norm, int is_double);

/* The arguments of layer norm and of group norm, forward and backward. A row of layer norm is an image of one channel,
 * with a weight for each of its numbers; a row of group norm is a group of channels of an image. */
typedef struct {
    xpc_runs x, y, dy, dx;    /* runs */
    const void *weight, *bias; /* (L,) or (C,); NULL: 1 and 0 */
    void *mean, *inv_std;      /* (rows,) */
    void *dw, *db;             /* like weight */
    ptrdiff_t groups;          /* of an image; divides C */
    double eps;
    int layer;                 /* layer norm: C and groups are 1 */
} xpc_norm_rows;

/* y, mean and inv_std. */
void xpc_norm_rows_forward(const xpc_norm_rows *norm, int is_double);

/* dx, dw and db. Returns 0 if there is no working memory, else 1. */
int xpc_norm_rows_backward(const xpc_norm_rows *norm, int is_double);

#endif
