/* The fully connected layer: y = x * w^T + b and its gradients, as products of matrices by blocks.
 *
 *     y  (batch, outputs) = x (batch, inputs) * w^T
 *     dx (batch, inputs)  = dy (batch, outputs) * w
 *     dw (outputs, inputs) = dy^T * x
 *
 * All three are c = a * b for some c (rows, columns) and a sum over `depth`, of which CHUNK terms are added up at a time.
 * Neighbouring columns are the lanes. What a tile of c reads is laid out in the order in which it is read:
 *
 *       a, tiles of rows           b, panels of columns           c
 *     [ depth ][ up to DR ]   x   [ CHUNK ][ 2 vectors ]     DR * 2 sums stay in registers
 *     second-level cache           first-level cache
 *
 * Where b lies in memory as it is read, the first tile copies it on its way. What comes next is fetched between the
 * products of a tile, a few lines at a time. A thread that is alone lays out one chunk of a at a time; several of them do
 * so for all chunks at once, to wait for one another less often. Results of one chunk that are larger than the caches are
 * stored past them.
 *
 * Results do not depend on the number of threads: no sum is split between them.
 */
#ifndef XPC_LINEAR_H
#define XPC_LINEAR_H

#include <stddef.h>

enum { XPC_LINEAR_DONE = 0, XPC_LINEAR_NO_MEMORY = -1, XPC_LINEAR_NO_KERNELS = -2 };

/* All arrays are contiguous, all sizes at least 1. b may be NULL, and so may dx (with w), dw (with x) and db: they are not
 * needed then. */
int xpc_linear_f32(ptrdiff_t batch, ptrdiff_t inputs, ptrdiff_t outputs, const float *x, const float *w,
                   const float *b, float *y);
int xpc_linear_f64(ptrdiff_t batch, ptrdiff_t inputs, ptrdiff_t outputs, const double *x, const double *w,
                   const double *b, double *y);
int xpc_linear_backward_f32(ptrdiff_t batch, ptrdiff_t inputs, ptrdiff_t outputs, const float *dy, const float *x,
                            const float *w, float *dx, float *dw, float *db);
int xpc_linear_backward_f64(ptrdiff_t batch, ptrdiff_t inputs, ptrdiff_t outputs, const double *dy, const double *x,
                            const double *w, double *dx, double *dw, double *db);

#endif
