/* Included once for each type and instruction set by optim.c. */
#include "simd.h"

#if DOUBLE
#define ROOT sqrt
#else
#define ROOT sqrtf
#endif

/* The arrays of one chunk; those that are not needed are NULL. */
typedef struct {
    REAL *param;
    const REAL *grad;
    REAL *state[2];
    ptrdiff_t count;
} NAME(piece);

typedef void (*NAME(step))(NAME(piece) piece, const void *numbers);

typedef struct {
    const xpc_tensor *tensors;
    ptrdiff_t count;
    NAME(step) step;
    const void *numbers;
    double *partial;
} NAME(optim_job);

static NAME(piece) NAME(piece_of)(const xpc_tensor *tensor, ptrdiff_t chunk)
{
    ptrdiff_t begin = (chunk - tensor->first_chunk) * CHUNK;
    NAME(piece) piece = {NULL, (const REAL *)tensor->grad + begin, {NULL, NULL}, xpc_min(CHUNK, tensor->count - begin)};
    if (tensor->param)
        piece.param = (REAL *)tensor->param + begin;
    for (int s = 0; s < 2; s++)
        if (tensor->state[s])
            piece.state[s] = (REAL *)tensor->state[s] + begin;
    return piece;
}

static void NAME(step_chunks)(const void *argument, ptrdiff_t begin, ptrdiff_t end, int slot)
{
    const NAME(optim_job) *job = argument;
    (void)slot;
    while (begin < end) {
        const xpc_tensor *tensor = job->tensors + tensor_of_chunk(job->tensors, job->count, begin);
        ptrdiff_t last = xpc_min(end, tensor->first_chunk + xpc_ceil_div(tensor->count, CHUNK));
        for (; begin < last; begin++)
            job->step(NAME(piece_of)(tensor, begin), job->numbers);
    }
}

static void NAME(take_steps)(const xpc_tensor *tensors, ptrdiff_t count, ptrdiff_t chunks, NAME(step) step,
                             const void *numbers)
{
    NAME(optim_job) job = {tensors, count, step, numbers, NULL};
    xpc_parallel_items(NAME(step_chunks), &job, chunks, COST * CHUNK, xpc_slots(chunks, COST * CHUNK));
}

/* What comes AHEAD of element k. */
INLINE void NAME(hint)(const NAME(piece) *piece, ptrdiff_t k, int states)
{
    for (ptrdiff_t line = k + AHEAD; line < k + AHEAD + STRIDE; line += 64 / (ptrdiff_t)sizeof(REAL)) {
        XPC_SOON(piece->param + line);
        XPC_SOON(piece->grad + line);
        for (int s = 0; s < states; s++)
            XPC_SOON(piece->state[s] + line);
    }
}

/* ---- SGD ------------------------------------------------------------------------------------------------------------ */

typedef struct {
    REAL lr, momentum, damped, weight_decay;
} NAME(sgd_numbers);

INLINE void NAME(sgd_some)(REAL *restrict p, const REAL *restrict g, REAL *restrict v, ptrdiff_t count,
                           NAME(sgd_numbers) by, momentum_kind kind, int decayed)
{
    XPC_INDEPENDENT
    for (ptrdiff_t k = 0; k < count; k++) {
        REAL gradient = decayed ? p[k] * by.weight_decay + g[k] : g[k], step = gradient;
        if (kind != PLAIN) {
            REAL velocity = v[k] * by.momentum + gradient * by.damped;
            v[k] = velocity;
            step = kind == NESTEROV ? velocity * by.momentum + gradient : velocity;
        }
        p[k] -= step * by.lr;
    }
}

INLINE void NAME(sgd)(const NAME(piece) *piece, const void *numbers, momentum_kind kind, int decayed)
{
    NAME(sgd_numbers) by = *(const NAME(sgd_numbers) *)numbers;
    for (ptrdiff_t k = 0; k < piece->count; k += STRIDE) {
        REAL *v = kind == PLAIN ? NULL : piece->state[0] + k;
        NAME(hint)(piece, k, kind != PLAIN);
        NAME(sgd_some)(piece->param + k, piece->grad + k, v, xpc_min(STRIDE, piece->count - k), by, kind, decayed);
    }
}

#define SGD(function, kind, decayed) \
    TARGET static void NAME(function)(NAME(piece) piece, const void *numbers) \
    { \
        NAME(sgd)(&piece, numbers, kind, decayed); \
    }
SGD(sgd_plain, PLAIN, 0)
SGD(sgd_plain_decayed, PLAIN, 1)
SGD(sgd_momentum, MOMENTUM, 0)
SGD(sgd_momentum_decayed, MOMENTUM, 1)
SGD(sgd_nesterov, NESTEROV, 0)
SGD(sgd_nesterov_decayed, NESTEROV, 1)
#undef SGD

static void NAME(sgd_steps)(const xpc_tensor *tensors, ptrdiff_t count, ptrdiff_t chunks, const xpc_sgd *options)
{
    static const NAME(step) steps[][2] = {
        [PLAIN] = {NAME(sgd_plain), NAME(sgd_plain_decayed)},
        [MOMENTUM] = {NAME(sgd_momentum), NAME(sgd_momentum_decayed)},
        [NESTEROV] = {NAME(sgd_nesterov), NAME(sgd_nesterov_decayed)},
    };
    momentum_kind kind = options->momentum == 0 ? PLAIN : options->nesterov ? NESTEROV : MOMENTUM;
    NAME(sgd_numbers) numbers = {(REAL)options->lr, (REAL)options->momentum, (REAL)(1 - options->dampening),
                                 (REAL)options->weight_decay};
    NAME(take_steps)(tensors, count, chunks, steps[kind][options->weight_decay != 0], &numbers);
}

/* ---- RMSprop -------------------------------------------------------------------------------------------------------- */

typedef struct {
    REAL lr, alpha, rest, eps, momentum, weight_decay;
} NAME(rmsprop_numbers);

INLINE void NAME(rmsprop_some)(REAL *restrict p, const REAL *restrict g, REAL *restrict s, REAL *restrict v,
                               ptrdiff_t count, NAME(rmsprop_numbers) by, momentum_kind kind, int decayed)
{
    XPC_INDEPENDENT
    for (ptrdiff_t k = 0; k < count; k++) {
        REAL gradient = decayed ? p[k] * by.weight_decay + g[k] : g[k];
        REAL square = s[k] * by.alpha + gradient * gradient * by.rest;
        REAL step = gradient / (ROOT(square) + by.eps);
        s[k] = square;
        if (kind == MOMENTUM) {
            step = v[k] * by.momentum + step;
            v[k] = step;
        }
        p[k] -= step * by.lr;
    }
}

INLINE void NAME(rmsprop)(const NAME(piece) *piece, const void *numbers, momentum_kind kind, int decayed)
{
    NAME(rmsprop_numbers) by = *(const NAME(rmsprop_numbers) *)numbers;
    for (ptrdiff_t k = 0; k < piece->count; k += STRIDE) {
        REAL *p = piece->param + k, *s = piece->state[0] + k, *v = kind == PLAIN ? NULL : piece->state[1] + k;
        NAME(hint)(piece, k, kind == PLAIN ? 1 : 2);
        NAME(rmsprop_some)(p, piece->grad + k, s, v, xpc_min(STRIDE, piece->count - k), by, kind, decayed);
    }
}

#define RMSPROP(function, kind, decayed) \
    TARGET static void NAME(function)(NAME(piece) piece, const void *numbers) \
    { \
        NAME(rmsprop)(&piece, numbers, kind, decayed); \
    }
RMSPROP(rmsprop_plain, PLAIN, 0)
RMSPROP(rmsprop_plain_decayed, PLAIN, 1)
RMSPROP(rmsprop_momentum, MOMENTUM, 0)
RMSPROP(rmsprop_momentum_decayed, MOMENTUM, 1)
#undef RMSPROP

static void NAME(rmsprop_steps)(const xpc_tensor *tensors, ptrdiff_t count, ptrdiff_t chunks,
                                const xpc_rmsprop *options)
{
    static const NAME(step) steps[][2] = {
        [PLAIN] = {NAME(rmsprop_plain), NAME(rmsprop_plain_decayed)},
        [MOMENTUM] = {NAME(rmsprop_momentum), NAME(rmsprop_momentum_decayed)},
    };
    momentum_kind kind = options->momentum == 0 ? PLAIN : MOMENTUM;
    NAME(rmsprop_numbers) numbers = {(REAL)options->lr, (REAL)options->alpha, (REAL)(1 - options->alpha),
                                     (REAL)options->eps, (REAL)options->momentum, (REAL)options->weight_decay};
    NAME(take_steps)(tensors, count, chunks, steps[kind][options->weight_decay != 0], &numbers);
}

/* ---- Adam ----------------------------------------------------------------------------------------------------------- */

typedef struct {
    REAL lr, beta1, rest1, beta2, rest2, root, eps, weight_decay;
} NAME(adam_numbers);

INLINE void NAME(adam_some)(REAL *restrict p, const REAL *restrict g, REAL *restrict m, REAL *restrict v,
                            ptrdiff_t count, NAME(adam_numbers) by, decay_kind decay)
{
    XPC_INDEPENDENT
    for (ptrdiff_t k = 0; k < count; k++) {
        REAL param = decay == DECOUPLED ? p[k] * by.weight_decay : p[k];
        REAL gradient = decay == COUPLED ? param * by.weight_decay + g[k] : g[k];
        REAL mean = m[k] * by.beta1 + gradient * by.rest1, square = v[k] * by.beta2 + gradient * gradient * by.rest2;
        m[k] = mean;
        v[k] = square;
        p[k] = param - mean / (ROOT(square) * by.root + by.eps) * by.lr;
    }
}

INLINE void NAME(adam)(const NAME(piece) *piece, const void *numbers, decay_kind decay)
{
    NAME(adam_numbers) by = *(const NAME(adam_numbers) *)numbers;
    for (ptrdiff_t k = 0; k < piece->count; k += STRIDE) {
        REAL *p = piece->param + k, *m = piece->state[0] + k, *v = piece->state[1] + k;
        NAME(hint)(piece, k, 2);
        NAME(adam_some)(p, piece->grad + k, m, v, xpc_min(STRIDE, piece->count - k), by, decay);
    }
}

#define ADAM(function, decay) \
    TARGET static void NAME(function)(NAME(piece) piece, const void *numbers) \
    { \
        NAME(adam)(&piece, numbers, decay); \
    }
ADAM(adam_undecayed, UNDECAYED)
ADAM(adam_coupled, COUPLED)
ADAM(adam_decoupled, DECOUPLED)
#undef ADAM

static void NAME(adam_steps)(const xpc_tensor *tensors, ptrdiff_t count, ptrdiff_t chunks, const xpc_adam *options)
{
    NAME(adam_numbers) numbers = {
        (REAL)(options->lr / options->correction1),
        (REAL)options->beta1,
        (REAL)(1 - options->beta1),
        (REAL)options->beta2,
        (REAL)(1 - options->beta2),
        (REAL)(1 / sqrt(options->correction2)),
        (REAL)options->eps,
        (REAL)options->weight_decay,
    };
    NAME(step) step = options->weight_decay != 0 ? NAME(adam_coupled) : NAME(adam_undecayed);
    if (options->decoupled && options->weight_decay != 0) {
        numbers.weight_decay = (REAL)(1 - options->lr * options->weight_decay);
        step = NAME(adam_decoupled);
    }
    NAME(take_steps)(tensors, count, chunks, step, &numbers);
}

/* ---- the norm of gradients ------------------------------------------------------------------------------------------ */

/* In double, and PARTS sums side by side that are added in a fixed order. */
TARGET static double NAME(squares)(const REAL *restrict g, ptrdiff_t count)
{
    double sums[PARTS] = {0}, sum = 0;
    ptrdiff_t k = 0;
    for (; count - k >= PARTS; k += PARTS)
        for (int part = 0; part < PARTS; part++)
            sums[part] += (double)g[k + part] * (double)g[k + part];
    for (; k < count; k++)
        sums[k % PARTS] += (double)g[k] * (double)g[k];
    for (int part = 0; part < PARTS; part++)
        sum += sums[part];
    return sum;
}

static void NAME(square_chunks)(const void *argument, ptrdiff_t begin, ptrdiff_t end, int slot)
{
    const NAME(optim_job) *job = argument;
    (void)slot;
    for (; begin < end; begin++) {
        const xpc_tensor *tensor = job->tensors + tensor_of_chunk(job->tensors, job->count, begin);
        NAME(piece) piece = NAME(piece_of)(tensor, begin);
        job->partial[begin] = NAME(squares)(piece.grad, piece.count);
    }
}

static double NAME(squared_norm)(const xpc_tensor *tensors, ptrdiff_t count, ptrdiff_t chunks, double *partial)
{
    NAME(optim_job) job = {tensors, count, NULL, NULL, partial};
    double sum = 0;
    xpc_parallel_items(NAME(square_chunks), &job, chunks, CHUNK, xpc_slots(chunks, CHUNK));
    for (ptrdiff_t chunk = 0; chunk < chunks; chunk++)
        sum += partial[chunk];
    return sum;
}

#undef ROOT
#include "simd_end.h"
