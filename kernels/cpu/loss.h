/* Softmax cross-entropy and its gradient in one call; float32 and float64.
 *
 *     row of scores    x0 x1 x2 ... |  ... xK-1                       largest m
 *     row of results   exp(x - m), and their sum s     then     (exp(x - m) / s - target) / N
 *
 * A row is read from memory once: the second pass over it finds it in the cache.
 */
#ifndef XPC_LOSS_H
#define XPC_LOSS_H

#include <stddef.h>
#include <stdint.h>

/* Mean over the rows of -log softmax(scores)[label], and its gradient; a label out of range makes both NaN, the gradient
 * in its row. `smoothing` is the part of the target that is spread over all classes, `losses` holds one number a row. */
double xpc_softmax_cross_entropy_f32(const float *scores, const int64_t *labels, float *dscores, ptrdiff_t count,
                                     ptrdiff_t classes, double smoothing, double *losses);
double xpc_softmax_cross_entropy_f64(const double *scores, const int64_t *labels, double *dscores, ptrdiff_t count,
                                     ptrdiff_t classes, double smoothing, double *losses);

#endif
