/* Included once for each type and instruction set by loss.c. */
#include "simd.h"
#include "exp_impl.h"

typedef struct {
    const REAL *scores;
    const int64_t *labels;
    REAL *dscores;
    ptrdiff_t count, classes;
    double smoothing, *losses;
} NAME(loss_job);

/* A NaN is never the largest; it comes through the exponentials. */
INLINE void NAME(take_largest)(REAL largest[PARTS], const REAL *x)
{
    for (int part = 0; part < PARTS; part++)
        largest[part] = x[part] > largest[part] ? x[part] : largest[part];
}

INLINE void NAME(add_exponentials)(REAL sums[PARTS], REAL *e, const REAL *x, REAL largest)
{
    for (int part = 0; part < PARTS; part++) {
        e[part] = NAME(exp_below_0)(x[part] - largest);
        sums[part] += e[part];
    }
}

/* The loss of one row, and its gradient for a batch of this row alone but for the factor `weight`. */
TARGET static double NAME(row)(const REAL *x, REAL *dx, ptrdiff_t classes, int64_t label, REAL smoothing, REAL weight)
{
    REAL largest[PARTS], sums[PARTS] = {0}, end[PARTS], end_e[PARTS];
    ptrdiff_t whole = classes / PARTS * PARTS, rest = classes - whole;
    for (int part = 0; part < PARTS; part++) {
        largest[part] = -(REAL)INFINITY;
        end[part] = part < rest ? x[whole + part] : -(REAL)INFINITY;
    }
    for (ptrdiff_t k = 0; k < whole; k += PARTS)
        NAME(take_largest)(largest, x + k);
    NAME(take_largest)(largest, end);
    for (int half = PARTS / 2; half >= 1; half /= 2)
        for (int part = 0; part < half; part++)
            largest[part] = largest[part + half] > largest[part] ? largest[part + half] : largest[part];
    REAL m = largest[0];

    for (ptrdiff_t k = 0; k < whole; k += PARTS)
        NAME(add_exponentials)(sums, dx + k, x + k, m);
    if (rest) {
        NAME(add_exponentials)(sums, end_e, end, m);
        memcpy(dx + whole, end_e, (size_t)rest * sizeof(REAL));
    }
    for (int half = PARTS / 2; half >= 1; half /= 2)
        for (int part = 0; part < half; part++)
            sums[part] += sums[part + half];

    REAL total = sums[0], spread = smoothing / (REAL)classes;
    double log_total = log((double)total), loss = NAN;
    if (label < 0 || label >= classes)
        weight = (REAL)NAN;
    else
        loss = -(1 - (double)smoothing) * ((double)(x[label] - m) - log_total);
    if (smoothing != 0) {
        double sum = 0;
        for (ptrdiff_t k = 0; k < classes; k++)
            sum += (double)(x[k] - m) - log_total;
        loss -= (double)smoothing * (sum / (double)classes);
    }
    for (ptrdiff_t k = 0; k < classes; k++)
        dx[k] = (dx[k] / total - spread) * weight;
    if (label >= 0 && label < classes)
        dx[label] = (NAME(exp_below_0)(x[label] - m) / total - spread - (1 - smoothing)) * weight;
    return loss;
}

static void NAME(loss_rows)(const void *argument, ptrdiff_t begin, ptrdiff_t end, int slot)
{
    const NAME(loss_job) *job = argument;
    REAL weight = (REAL)(1 / (double)job->count);
    (void)slot;
    for (; begin < end; begin++)
        job->losses[begin] = NAME(row)(job->scores + begin * job->classes, job->dscores + begin * job->classes,
                                       job->classes, job->labels[begin], (REAL)job->smoothing, weight);
}

static double NAME(softmax_cross_entropy)(const REAL *scores, const int64_t *labels, REAL *dscores, ptrdiff_t count,
                                          ptrdiff_t classes, double smoothing, double *losses)
{
    NAME(loss_job) job = {scores, labels, dscores, count, classes, smoothing, losses};
    double sum = 0;
    xpc_parallel_items(NAME(loss_rows), &job, count, COST * classes, xpc_slots(count, COST * classes));
    for (ptrdiff_t row = 0; row < count; row++)
        sum += losses[row];
    return sum / (double)count;
}

#include "simd_end.h"
