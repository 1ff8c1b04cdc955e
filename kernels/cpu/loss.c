#include "loss.h"

#include <math.h>
#include <string.h>

#include "geometry.h"
#include "isa.h"
#include "threads.h"

enum {
    PARTS = 16, /* maxima and sums side by side; a row's last part is filled up */
    COST = 8    /* of a score, in elements */
};

#define XPC_SOURCE "loss_impl.h"
#include "instances.h"

double xpc_softmax_cross_entropy_f32(const float *scores, const int64_t *labels, float *dscores, ptrdiff_t count,
                                     ptrdiff_t classes, double smoothing, double *losses)
{
    return XPC_PICK(softmax_cross_entropy, f32)(scores, labels, dscores, count, classes, smoothing, losses);
}

double xpc_softmax_cross_entropy_f64(const double *scores, const int64_t *labels, double *dscores, ptrdiff_t count,
                                     ptrdiff_t classes, double smoothing, double *losses)
{
    return XPC_PICK(softmax_cross_entropy, f64)(scores, labels, dscores, count, classes, smoothing, losses);
}
