/* Convolution of each channel by filters of its own, F / C of them.
 *
 * Kernels of 3 x 3 and 5 x 5 with stride and dilation 1, on instruction sets that can leave lanes out of a load, read planes
 * where they lie; rows beyond them are a row of zeros, columns beyond them lanes that are not loaded. With 3 x 3, padding 1
 * and one filter a channel, one sweep over dy gives all gradients: what each tap sees of dy, times its weight, goes into dx,
 * and times the image's pixels into dw.
 *
 *     three rows of dy      . . [a a a a] . .        tap j sees lanes moved by j; the middle tap of the middle row all
 *                           . . [b b b b] . .        pixels once: their sum is db
 *                           . . [c c c c] . .
 *     a row of x and dx         [p p p p]            dx += w[i, j] seen[i, j], dw[i, j] += p seen[i, j], lane by lane
 *
 * Otherwise each thread lays out a band of one channel of one image, padded and split by the phases of the stride as in
 * direct.h, so that every tap sees a run of memory, and slides over it: lanes are neighbouring pixels, and blocks of output
 * rows stay in registers. Where taps lie side by side (stride and dilation 1), what is loaded serves all rows of the block
 * that see it, in both ways:
 *
 *     3 x 3, a block of two rows       row 0 of the image    tap row 0 of output row 0
 *                                      row 1                 tap row 1 of output row 0, tap row 0 of output row 1
 *                                      row 2                 tap row 2 of output row 0, tap row 1 of output row 1
 *                                      row 3                                            tap row 2 of output row 1
 *
 * The gradient of the image is the same over dy with zeros around it, by the taps of each phase from the last to the first;
 * that of the weights keeps all taps of a filter in registers while the pixels go by.
 */
#ifndef XPC_DEPTHWISE_H
#define XPC_DEPTHWISE_H

#include "direct.h"

/* The least working memory of a thread in bytes; -1 where it would exceed `most`, and where this build has no such kernels. */
ptrdiff_t xpc_depthwise_bytes(const xpc_direct *conv, int itemsize, ptrdiff_t most);

/* y = the convolution of x with w (F, kh kw, contiguous) plus b (F) if that is not NULL, max(y, 0) if `relu`. All images
 * have contiguous planes. `most` bounds the working memory of all threads in bytes, as far as one row at a time in one
 * thread allows. These return 0, or -1 where there is no memory. */
int xpc_depthwise_f32(const xpc_direct *conv, const xpc_array4 *x, const float *w, const float *b, int relu,
                      const xpc_array4 *y, ptrdiff_t most);
int xpc_depthwise_f64(const xpc_direct *conv, const xpc_array4 *x, const double *w, const double *b, int relu,
                      const xpc_array4 *y, ptrdiff_t most);

int xpc_depthwise_dx_f32(const xpc_direct *conv, const xpc_array4 *dy, const float *w, const xpc_array4 *dx,
                         ptrdiff_t most);
int xpc_depthwise_dx_f64(const xpc_direct *conv, const xpc_array4 *dy, const double *w, const xpc_array4 *dx,
                         ptrdiff_t most);

/* dw (F, kh kw, contiguous), db (F) unless that is NULL, and dx from w unless that is NULL. */
int xpc_depthwise_gradients_f32(const xpc_direct *conv, const xpc_array4 *dy, const xpc_array4 *x, const float *w,
                                const xpc_array4 *dx, float *dw, float *db, ptrdiff_t most);
int xpc_depthwise_gradients_f64(const xpc_direct *conv, const xpc_array4 *dy, const xpc_array4 *x, const double *w,
                                const xpc_array4 *dx, double *dw, double *db, ptrdiff_t most);

#endif
