#include "optim.h"

#include <math.h>

#include "geometry.h"
#include "isa.h"
#include "stream.h"
#include "threads.h"

enum {
    CHUNK = 8192,  /* elements that a thread takes at a time; of no tensor more */
    STRIDE = 128,  /* elements between hints of what is read soon */
    AHEAD = 384,   /* elements that the hints are ahead: the latency of memory */
    COST = 8,      /* up to seven arrays are touched */
    PARTS = 16     /* sums side by side */
};

ptrdiff_t xpc_number_chunks(xpc_tensor *tensors, ptrdiff_t count)
{
    ptrdiff_t chunks = 0;
    for (ptrdiff_t t = 0; t < count; t++) {
        tensors[t].first_chunk = chunks;
        chunks += xpc_ceil_div(tensors[t].count, CHUNK);
    }
    return chunks;
}

/* Which tensor has a chunk: the last one that does not begin behind it. Empty ones have none. */
static ptrdiff_t tensor_of_chunk(const xpc_tensor *tensors, ptrdiff_t count, ptrdiff_t chunk)
{
    ptrdiff_t low = 0, high = count;
    while (high - low > 1) {
        ptrdiff_t middle = low + (high - low) / 2;
        if (tensors[middle].first_chunk <= chunk)
            low = middle;
        else
            high = middle;
    }
    return low;
}

typedef enum { PLAIN, MOMENTUM, NESTEROV } momentum_kind;
typedef enum { UNDECAYED, COUPLED, DECOUPLED } decay_kind;

/* Before a loop: no iteration writes what another touches, which compilers forget of `restrict` when they inline. */
#if defined(__GNUC__) && !defined(__clang__)
#define XPC_INDEPENDENT _Pragma("GCC ivdep")
#else
#define XPC_INDEPENDENT
#endif

#define XPC_SOURCE "optim_impl.h"
#include "instances.h"

#define BOTH_TYPES(name, options_type) \
    void xpc_##name##_f32(const xpc_tensor *tensors, ptrdiff_t count, ptrdiff_t chunks, const options_type *options) \
    { \
        XPC_PICK(name, f32)(tensors, count, chunks, options); \
    } \
    void xpc_##name##_f64(const xpc_tensor *tensors, ptrdiff_t count, ptrdiff_t chunks, const options_type *options) \
    { \
        XPC_PICK(name, f64)(tensors, count, chunks, options); \
    }

BOTH_TYPES(sgd_steps, xpc_sgd)
BOTH_TYPES(rmsprop_steps, xpc_rmsprop)
BOTH_TYPES(adam_steps, xpc_adam)

double xpc_squared_norm_f32(const xpc_tensor *tensors, ptrdiff_t count, ptrdiff_t chunks, double *partial)
{
    return XPC_PICK(squared_norm, f32)(tensors, count, chunks, partial);
}

double xpc_squared_norm_f64(const xpc_tensor *tensors, ptrdiff_t count, ptrdiff_t chunks, double *partial)
{
    return XPC_PICK(squared_norm, f64)(tensors, count, chunks, partial);
}
