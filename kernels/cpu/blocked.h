/* Convolution of any shape as a product of matrices of which only small pieces exist.
 *
 * A piece of work is a few images, or some output rows of one. What it reads is laid out once, padded with zeros and
 * split by the phases of the stride, so that a tap sees a run of memory for each output row (the band):
 *
 *     padded row, stride 2      0 1 2 3 4 5 6
 *     phase 0 / phase 1         0 2 4 6 / 1 3 5      tap j reads phase (j mod 2) from entry j / 2 on
 *
 * Forward. The outputs of a piece, one after the other, make tiles of NV vectors. For each tile a chunk of its columns
 * is gathered from the band into the cache, and all filters pass over it, MR at a time:
 *
 *       weights          columns of a tile
 *     [ K ][ MR ]  x     [ K ][ NV vectors ]     MR * NV sums stay in registers while the chunk of K goes by
 *
 * Where the outputs of a tile are whole vectors of the band's rows, gathering waits for nothing: the first MR filters take
 * their columns from the band and leave a copy. The images of the next piece are fetched meanwhile, a few lines for each
 * stretch of K. With stride 2, whole vectors of outputs in a row and up to three taps there, a band would be written and
 * read for little: columns are every other number of the images themselves.
 *
 * Weights are packed for it, except where one image has only a tile or two of outputs: there the rows of w are read
 * where they lie.
 *
 * The gradient to the image is the same with the gradient of the outputs for images, filters for channels and the taps
 * turned round. With a stride its pixels fall into phases that see different taps; each is a convolution of stride 1 of
 * its own, and they are woven together: as soon as both phases of a tile are there, where rows are of whole vectors and
 * the stride is 2, so that products go on while results are written; else at the end of a piece.
 *
 * Where planes are small and there are many images, these are the lanes instead: the band is [C][H][W][images] without
 * padding, columns are its rows, and every pixel leaves out the taps that it does not see.
 *
 * Gradient to the weights. The sums run over pixels: some channels as rows, vectors of filters as lanes. Images and
 * the gradient of the outputs are turned for it, so that the channels of a pixel, and the filters of an output, lie
 * side by side. Nothing is gathered: each tap walks over the outputs that see a pixel through it, and leaves out the others.
 * A kernel of one tap with a stride sees some pixels only, which are picked out of the images first.
 *
 *       image of a piece                       gradient of its outputs
 *     [ pixels ][ up to DR channels ]   x    [ outputs ][ 2 vectors of filters ]
 *
 *     . . . . .      tap (0, 0) of 3 x 3 with a pad of 1: outputs o meet pixels one row higher, one column to the left;
 *     . o o o o      those marked '.' would meet padding. A row of o is a run in both: the sums, DR by 2 vectors,
 *     . o o o o      stay in registers for all rows and images of the piece.
 *
 * With few channels that would make small tiles, whose sums wait for each other. There the taps of a row of the kernel are
 * rows of tiles, too: what they see lies side by side in an image that is padded on both sides.
 *
 *     r g b  r g b  r g b  r g b  r g b      pixels of a row, of three channels; 3 taps, stride 2: the rows of a tile
 *     |___ output 0 ____|                    are nine numbers, for the next output they begin six numbers later
 *                   |___ output 1 ____|
 *
 * The sums of a share of the pieces stay in the second-level cache; the number of shares depends on the shape alone,
 * and so do the results.
 */
#ifndef XPC_BLOCKED_H
#define XPC_BLOCKED_H

#include "geometry.h"

/* Planes (H, W) are contiguous; images and channels lie anywhere, in numbers apart. */
typedef struct {
    const void *data;
    ptrdiff_t image, channel;
} xpc_planes;

typedef struct {
    ptrdiff_t groups, batch;
    ptrdiff_t channels, filters; /* of one group */
    ptrdiff_t height, width, out_h, out_w;
    xpc_axis vertical, horizontal;
} xpc_blocked;

enum { XPC_BLOCKED_DONE = 0, XPC_BLOCKED_NO_MEMORY = -1, XPC_BLOCKED_NO_KERNELS = -2 };

/* All sizes are at least 1. Groups run one after the other. Working memory stays below `limit` bytes where the shape
 * allows that. Results are contiguous.
 *
 * y = x * w (F, C / groups, kh, kw) + b unless that is NULL; with `relu` max(y, 0), which keeps NaN. */
int xpc_blocked_forward_f32(const xpc_blocked *conv, xpc_planes x, const float *w, const float *b, float *y, int relu,
                            ptrdiff_t limit);
int xpc_blocked_forward_f64(const xpc_blocked *conv, xpc_planes x, const double *w, const double *b, double *y,
                            int relu, ptrdiff_t limit);

/* dx, plus b (C) unless that is NULL: the forward pass of a transposed convolution. */
int xpc_blocked_input_gradient_f32(const xpc_blocked *conv, xpc_planes dy, const float *w, const float *b, float *dx,
                                   ptrdiff_t limit);
int xpc_blocked_input_gradient_f64(const xpc_blocked *conv, xpc_planes dy, const double *w, const double *b,
                                   double *dx, ptrdiff_t limit);

/* db, the sums of dy over images and pixels, unless that is NULL. */
int xpc_blocked_weight_gradient_f32(const xpc_blocked *conv, xpc_planes dy, xpc_planes x, float *dw, float *db,
                                    ptrdiff_t limit);
int xpc_blocked_weight_gradient_f64(const xpc_blocked *conv, xpc_planes dy, xpc_planes x, double *dw, double *db,
                                    ptrdiff_t limit);

#endif
