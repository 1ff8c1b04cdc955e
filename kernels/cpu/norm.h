/* Normalisation of every channel over the batch, float32 and float64.
 *
 *     (N, C, L)      channel c:   x[0, c, :]  x[1, c, :]  ...      N runs of L numbers, one after the other in memory
 *
 * A channel is read two or three times in a row by one thread, so that it stays in its cache: for the sums, for the
 * squares, to be written. Sums are in double and in one order, whatever the number of threads.
 */
#ifndef XPC_NORM_H
#define XPC_NORM_H

#include <stddef.h>

/* Axes (N, C, L), the last one contiguous; all arrays of one call have the same shape. */
typedef struct {
    char *data;
    ptrdiff_t shape[3], strides[2];
} xpc_runs;

/* y = (x - mean) * inv_std * weight + bias, then `+ residual`, then at least 0 with `relu`. weight, bias and
 * residual->data may be NULL. mean and variance (C,) are written, or with `given` read; inv_std (C,) is written. */
void xpc_batch_norm_f32(const xpc_runs *x, const xpc_runs *residual, const xpc_runs *y, const float *weight,
                        const float *bias, float *mean, float *variance, float *inv_std, double eps, int given,
                        int relu);
void xpc_batch_norm_f64(const xpc_runs *x, const xpc_runs *residual, const xpc_runs *y, const double *weight,
                        const double *bias, double *mean, double *variance, double *inv_std, double eps, int given,
                        int relu);

/* dx, and dw and db (C,). Where y->data is not NULL, dy counts where y > 0; what is left of it is then written to
 * dresidual, if dresidual->data is not NULL. `training`: mean and inv_std depend on x. weight may be NULL. */
void xpc_batch_norm_backward_f32(const xpc_runs *dy, const xpc_runs *y, const xpc_runs *x, const xpc_runs *dx,
                                 const xpc_runs *dresidual, const float *weight, const float *mean,
                                 const float *inv_std, float *dw, float *db, int training);
void xpc_batch_norm_backward_f64(const xpc_runs *dy, const xpc_runs *y, const xpc_runs *x, const xpc_runs *dx,
                                 const xpc_runs *dresidual, const double *weight, const double *mean,
                                 const double *inv_std, double *dw, double *db, int training);

#endif
