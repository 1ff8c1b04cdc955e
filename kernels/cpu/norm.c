#include "norm.h"

#include <math.h>

#include "geometry.h"
#include "threads.h"

/* A float32 sum in double keeps all its digits; of float64 the squares are those of centred values. */
typedef double wide;

enum { LANES = 8 }; /* partial sums side by side */

static wide sum_of_lanes(const wide *lanes)
{
    wide sum = 0;
    for (int lane = 0; lane < LANES; lane++)
        sum += lanes[lane];
    return sum;
}

#define REAL float
#define NAME(name) name##_f32
#include "norm_impl.h"
#undef REAL
#undef NAME

#define REAL double
#define NAME(name) name##_f64
#include "norm_impl.h"
