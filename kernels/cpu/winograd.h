/* Convolution of 3 x 3, stride 1, by Winograd's minimal filtering F(m x m, 3 x 3), m = 4 or 2.
 *
 * Outputs are computed in tiles of m x m from m + 2 x m + 2 pixels d, with (m + 2)^2 products for each channel and filter
 * instead of 9 m^2: 36 instead of 144 for m = 4, 16 instead of 36 for m = 2.
 *
 *     V = B' d B                     each channel of each tile           (m + 2)^2 points
 *     U = G g G'                     each filter g of each channel       (m + 2)^2 points
 *     M = sum over channels of U V   for each point a product of matrices, tiles by filters
 *     y = A' M A + b                 each filter of each tile            m x m outputs
 *
 * The points are those of a polynomial product by interpolation: 0, 1, -1 and infinity for m = 2; 0, +-1/sqrt 2, +-sqrt 2
 * and infinity for m = 4, which at the same cost round several times less than the usual 0, +-1, +-2.
 *
 * Lanes of vectors are channels, or filters. A block of tiles, of several images where these are small, goes through all
 * steps while it is in the cache:
 *
 *     x planes -> lanes -> V [point][channels / LANES][tile][LANES]
 *                 U [panel of filters][point][channel][PANEL * LANES]    transformed once for the call
 *                 M [panel][point][tile][PANEL * LANES] -> lanes -> y planes
 *
 * Each output is computed in the same way whatever else is in its block. A number of x that is not finite makes numbers of
 * its tile not finite that do not see it.
 */
#ifndef XPC_WINOGRAD_H
#define XPC_WINOGRAD_H

#include "geometry.h"

typedef struct {
    ptrdiff_t batch, channels, filters, height, width, out_h, out_w;
    ptrdiff_t pad_top, pad_left; /* negative: that many pixels are left out */
    int tile;                    /* m */
} xpc_winograd;

/* y (N, F, out_h, out_w, contiguous) = the convolution of x with w (F, C, 3, 3, contiguous) plus b (F) if that is not
 * NULL, negative numbers made zero with `relu`. With `rotated` w is (C, F, 3, 3) and turned by half a turn: from the
 * gradient of a convolution to that of its input. Planes of x are contiguous, those of different images and channels
 * anywhere. Takes up to `most` bytes of working memory if that is possible; 0 if the system has not enough. */
int xpc_winograd_f32(const xpc_winograd *conv, const xpc_array4 *x, const float *w, const float *b, int rotated, int relu,
                     float *y, size_t most);
int xpc_winograd_f64(const xpc_winograd *conv, const xpc_array4 *x, const double *w, const double *b, int rotated,
                     int relu, double *y, size_t most);

/* dw (F, C, 3, 3, contiguous) and db (F) from dy (N, F, out_h, out_w), which lies in memory as x does. Tiles of dy go to
 * the points by A, and those of dw = G' (sum over tiles of (A dy A') * V) G back by G', sums over tiles in shares of the
 * batch that depend on shapes and on `most`, never on the number of threads. */
int xpc_winograd_weights_f32(const xpc_winograd *conv, const xpc_array4 *dy, const xpc_array4 *x, float *dw, float *db,
                             size_t most);
int xpc_winograd_weights_f64(const xpc_winograd *conv, const xpc_array4 *dy, const xpc_array4 *x, double *dw, double *db,
                             size_t most);

#endif
