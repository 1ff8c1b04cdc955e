/* Included once for each type by norm.c, which defines REAL and NAME. */

typedef struct {
    xpc_runs x, y, residual, dy, dx, dresidual;
    const REAL *weight, *bias;
    REAL *mean, *variance, *inv_std, *dw, *db;
    double eps;
    int given, relu, training;
} NAME(norm_job);

XPC_INLINE REAL *NAME(run)(const xpc_runs *array, ptrdiff_t n, ptrdiff_t c)
{
    return array->data ? (REAL *)(array->data + n * array->strides[0] + c * array->strides[1]) : NULL;
}

XPC_INLINE void NAME(add_run)(wide *restrict lanes, const REAL *restrict x, ptrdiff_t count)
{
    ptrdiff_t k = 0;
    for (; k + LANES <= count; k += LANES)
        for (int lane = 0; lane < LANES; lane++)
            lanes[lane] += x[k + lane];
    for (; k < count; k++)
        lanes[k % LANES] += x[k];
}

/* Sums of the centred values and of their squares. */
XPC_INLINE void NAME(add_centred)(wide *restrict rest, wide *restrict squares, const REAL *restrict x, ptrdiff_t count,
                                  wide mean)
{
    ptrdiff_t k = 0;
    for (; k + LANES <= count; k += LANES)
        for (int lane = 0; lane < LANES; lane++) {
            wide centred = x[k + lane] - mean;
            rest[lane] += centred;
            squares[lane] += centred * centred;
        }
    for (; k < count; k++) {
        wide centred = x[k] - mean;
        rest[k % LANES] += centred;
        squares[k % LANES] += centred * centred;
    }
}

/* The corrected two-pass algorithm of Chan, Golub, LeVeque (1983). */
XPC_INLINE void NAME(moments)(const xpc_runs *x, ptrdiff_t c, wide *mean, wide *variance)
{
    wide lanes[LANES] = {0}, rest[LANES] = {0}, squares[LANES] = {0};
    wide count = (wide)x->shape[0] * (wide)x->shape[2];
    for (ptrdiff_t n = 0; n < x->shape[0]; n++)
        NAME(add_run)(lanes, NAME(run)(x, n, c), x->shape[2]);
    wide first = sum_of_lanes(lanes) / count;
    for (ptrdiff_t n = 0; n < x->shape[0]; n++)
        NAME(add_centred)(rest, squares, NAME(run)(x, n, c), x->shape[2], first);
    wide correction = sum_of_lanes(rest) / count;
    wide found = sum_of_lanes(squares) / count - correction * correction;
    *mean = first + correction;
    *variance = found < 0 ? 0 : found; /* a NaN stays */
}

/* The flags are constants at each call, so that each becomes a loop without branches. */
XPC_INLINE void NAME(apply)(REAL *restrict y, const REAL *restrict x, const REAL *restrict residual, ptrdiff_t count,
                            REAL mean, REAL scale, REAL shift, int add, int relu)
{
    for (ptrdiff_t k = 0; k < count; k++) {
        REAL value = (x[k] - mean) * scale + shift;
        if (add)
            value += residual[k];
        y[k] = relu && value <= 0 ? 0 : value; /* a NaN stays */
    }
}

XPC_CLONES
static void NAME(batch_norm_channel)(const void *argument, ptrdiff_t c, ptrdiff_t row_begin, ptrdiff_t row_end)
{
    const NAME(norm_job) *job = argument;
    wide mean, variance;
    (void)row_begin;
    (void)row_end; /* a channel is one row */
    if (job->given) {
        mean = job->mean[c];
        variance = job->variance[c];
    } else {
        NAME(moments)(&job->x, c, &mean, &variance);
        job->mean[c] = (REAL)mean;
        job->variance[c] = (REAL)variance;
    }
    wide inv_std = 1 / sqrt(variance + job->eps), scale = job->weight ? inv_std * job->weight[c] : inv_std;
    job->inv_std[c] = (REAL)inv_std;
    /* values are centred by the rounded mean, and what rounding took of it is in the shift */
    REAL centre = (REAL)mean, factor = (REAL)scale;
    REAL shift = (REAL)((job->bias ? job->bias[c] : 0) - (mean - centre) * scale);
    for (ptrdiff_t n = 0; n < job->x.shape[0]; n++) {
        REAL *y = NAME(run)(&job->y, n, c);
        const REAL *x = NAME(run)(&job->x, n, c), *residual = NAME(run)(&job->residual, n, c);
        ptrdiff_t count = job->x.shape[2];
        if (residual && job->relu)
            NAME(apply)(y, x, residual, count, centre, factor, shift, 1, 1);
        else if (residual)
            NAME(apply)(y, x, residual, count, centre, factor, shift, 1, 0);
        else if (job->relu)
            NAME(apply)(y, x, x, count, centre, factor, shift, 0, 1);
        else
            NAME(apply)(y, x, x, count, centre, factor, shift, 0, 0);
    }
}

void NAME(xpc_batch_norm)(const xpc_runs *x, const xpc_runs *residual, const xpc_runs *y, const REAL *weight,
                          const REAL *bias, REAL *mean, REAL *variance, REAL *inv_std, double eps, int given, int relu)
{
    NAME(norm_job) job = {.x = *x, .y = *y, .residual = *residual, .weight = weight, .bias = bias, .mean = mean,
                          .variance = variance, .inv_std = inv_std, .eps = eps, .given = given, .relu = relu};
    xpc_parallel_rows(NAME(batch_norm_channel), &job, x->shape[1], 1, x->shape[0] * x->shape[2]);
}

/* What the ReLU lets through of dy. */
XPC_INLINE void NAME(let_through)(REAL *restrict to, const REAL *restrict dy, const REAL *restrict y, ptrdiff_t count)
{
    for (ptrdiff_t k = 0; k < count; k++) {
        REAL gradient = dy[k]; /* loaded always: a conditional load would be a branch */
        to[k] = y[k] > 0 ? gradient : 0;
    }
}

/* Sums of dy, and of dy times the centred values. */
XPC_INLINE void NAME(add_gradients)(wide *restrict db, wide *restrict dw, const REAL *restrict dy,
                                    const REAL *restrict x, ptrdiff_t count, REAL mean)
{
    ptrdiff_t k = 0;
    for (; k + LANES <= count; k += LANES)
        for (int lane = 0; lane < LANES; lane++) {
            db[lane] += dy[k + lane];
            dw[lane] += (wide)dy[k + lane] * (x[k + lane] - mean);
        }
    for (; k < count; k++) {
        db[k % LANES] += dy[k];
        dw[k % LANES] += (wide)dy[k] * (x[k] - mean);
    }
}

XPC_INLINE void NAME(spread)(REAL *restrict dx, const REAL *restrict dy, const REAL *restrict x, ptrdiff_t count,
                             REAL mean, REAL scale, REAL slope, REAL offset)
{
    for (ptrdiff_t k = 0; k < count; k++)
        dx[k] = (dy[k] - offset - (x[k] - mean) * slope) * scale;
}

/* The same where dx holds dy. */
XPC_INLINE void NAME(spread_in_place)(REAL *restrict dx, const REAL *restrict x, ptrdiff_t count, REAL mean,
                                      REAL scale, REAL slope, REAL offset)
{
    for (ptrdiff_t k = 0; k < count; k++)
        dx[k] = (dx[k] - offset - (x[k] - mean) * slope) * scale;
}

/* The same where mean and inv_std do not depend on x, which may be infinite. */
XPC_INLINE void NAME(scale_run)(REAL *dx, const REAL *dy, ptrdiff_t count, REAL scale)
{
    for (ptrdiff_t k = 0; k < count; k++)
        dx[k] = dy[k] * scale;
}

XPC_CLONES
static void NAME(backward_channel)(const void *argument, ptrdiff_t c, ptrdiff_t row_begin, ptrdiff_t row_end)
{
    const NAME(norm_job) *job = argument;
    ptrdiff_t batch = job->x.shape[0], length = job->x.shape[2];
    int relu = job->y.data != NULL;
    /* where the gradient behind the ReLU is: in memory of its own only if the caller wants it */
    const xpc_runs *gradient = !relu ? &job->dy : job->dresidual.data ? &job->dresidual : &job->dx;
    REAL mean = job->mean[c];
    wide sums[LANES] = {0}, products[LANES] = {0}, count = (wide)batch * (wide)length;
    (void)row_begin;
    (void)row_end;

    for (ptrdiff_t n = 0; n < batch; n++) {
        if (relu)
            NAME(let_through)(NAME(run)(gradient, n, c), NAME(run)(&job->dy, n, c), NAME(run)(&job->y, n, c), length);
        NAME(add_gradients)(sums, products, NAME(run)(gradient, n, c), NAME(run)(&job->x, n, c), length, mean);
    }
    wide inv_std = job->inv_std[c], db = sum_of_lanes(sums), dw = sum_of_lanes(products) * inv_std;
    job->dw[c] = (REAL)dw;
    job->db[c] = (REAL)db;
    REAL scale = (REAL)(job->weight ? inv_std * job->weight[c] : inv_std);
    REAL slope = (REAL)(inv_std * dw / count), offset = (REAL)(db / count);
    for (ptrdiff_t n = 0; n < batch; n++) {
        REAL *dx = NAME(run)(&job->dx, n, c);
        const REAL *x = NAME(run)(&job->x, n, c);
        if (!job->training)
            NAME(scale_run)(dx, NAME(run)(gradient, n, c), length, scale);
        else if (gradient == &job->dx)
            NAME(spread_in_place)(dx, x, length, mean, scale, slope, offset);
        else
            NAME(spread)(dx, NAME(run)(gradient, n, c), x, length, mean, scale, slope, offset);
    }
}

void NAME(xpc_batch_norm_backward)(const xpc_runs *dy, const xpc_runs *y, const xpc_runs *x, const xpc_runs *dx,
                                   const xpc_runs *dresidual, const REAL *weight, const REAL *mean,
                                   const REAL *inv_std, REAL *dw, REAL *db, int training)
{
    NAME(norm_job) job = {.x = *x, .y = *y, .dy = *dy, .dx = *dx, .dresidual = *dresidual, .weight = weight,
                          .mean = (REAL *)mean, .inv_std = (REAL *)inv_std, .dw = dw, .db = db, .training = training};
    xpc_parallel_rows(NAME(backward_channel), &job, x->shape[1], 1, x->shape[0] * x->shape[2]);
}
