#include "columns.h"

#include <string.h>

#include "threads.h"

/* Rows of an image that stay in the first-level cache while all taps are added to them. */
enum { BAND_BYTES = 16384 };

#define REAL float
#define NAME(name) name##_f32
#include "strided_impl.h"
#include "columns_impl.h"
#undef REAL
#undef NAME

#define REAL double
#define NAME(name) name##_f64
#include "strided_impl.h"
#include "columns_impl.h"
