/* What normalisation of channels and of rows share: sums over runs, and runs made of them. Included by norm_impl.h and
 * norm_rows_impl.h, after simd.h. */

/* Sums in the lanes of a few vectors, of values and of their squares, or of gradients and of their products. */
typedef struct {
    VEC first, second;
} NAME(lanes);

/* The same in double. */
typedef struct {
    double first, second;
} NAME(sums);

/* What makes y of x: (x - centre) * scale + shift. What rounding took of the mean is in the shift. */
typedef struct {
    REAL centre, scale, shift;
} NAME(factors);

/* What makes dx: dy * scale + (x - mean) * slope + offset. */
typedef struct {
    REAL mean, scale, slope, offset;
} NAME(slopes);

INLINE void NAME(store)(REAL *to, VEC v, int stream)
{
    if (stream)
        STREAM(to, v);
    else
        STORE(to, v);
}

INLINE void NAME(flush)(NAME(lanes) *from, NAME(sums) *to)
{
    to->first += WIDE_SUM(from->first);
    to->second += WIDE_SUM(from->second);
    from->first = from->second = SPLAT(0);
}

/* How many vectors a run adds to each lane. */
INLINE ptrdiff_t NAME(depth)(ptrdiff_t count)
{
    return count / (4 * LANES) + 4;
}

/* Values relative to `centre`, and their squares; values go to `copy` too, if there is one, in whole vectors. */
INLINE void NAME(add_moments)(const REAL *x, ptrdiff_t count, REAL centre, REAL *copy, NAME(lanes) *lanes)
{
    VEC middle = SPLAT(centre), zero = SPLAT(0);
    VEC a = lanes->first, b = zero, c = zero, d = zero, aa = lanes->second, bb = zero, cc = zero, dd = zero;
    ptrdiff_t k = 0;
    for (; k + 4 * LANES <= count; k += 4 * LANES) {
        VEC p = LOAD(x + k) - middle, q = LOAD(x + k + LANES) - middle;
        VEC r = LOAD(x + k + 2 * LANES) - middle, s = LOAD(x + k + 3 * LANES) - middle;
        if (copy) {
            STORE(copy + k, p);
            STORE(copy + k + LANES, q);
            STORE(copy + k + 2 * LANES, r);
            STORE(copy + k + 3 * LANES, s);
        }
        a += p, b += q, c += r, d += s;
        aa = FMA(p, p, aa), bb = FMA(q, q, bb), cc = FMA(r, r, cc), dd = FMA(s, s, dd);
    }
    for (; k < count; k += LANES) {
        VEC p;
        if (count - k < LANES) {
            MASK some = FIRST(count - k);
            p = ONLY(some, LOAD_FIRST(some, x + k) - middle);
        } else {
            p = LOAD(x + k) - middle;
        }
        if (copy)
            STORE(copy + k, p);
        a += p;
        aa = FMA(p, p, aa);
    }
    lanes->first = (a + b) + (c + d);
    lanes->second = (aa + bb) + (cc + dd);
}

/* The same without a copy, called and not repeated in place. */
TARGET static void NAME(add_part)(const REAL *x, ptrdiff_t count, REAL centre, NAME(lanes) *lanes)
{
    NAME(add_moments)(x, count, centre, NULL, lanes);
}

/* A number near the mean of runs of `length` numbers `step` bytes apart: exactly theirs if they are all the same. */
TARGET static REAL NAME(guess)(const char *x, ptrdiff_t runs, ptrdiff_t step, ptrdiff_t length)
{
    double total = (double)runs * (double)length;
    if (total == 0)
        return 0;
    REAL first = *(const REAL *)x;
    NAME(lanes) lanes = {SPLAT(0), SPLAT(0)};
    ptrdiff_t seen = 0;
    for (int place = 0; place < SAMPLES; place++) {
        ptrdiff_t n = runs < SAMPLES ? place * runs / SAMPLES : runs / SAMPLES * place;
        ptrdiff_t k = runs < SAMPLES ? length / SAMPLES * place : 0;
        ptrdiff_t count = xpc_min(SAMPLE, length - k);
        NAME(add_part)((const REAL *)(x + n * step) + k, count, first, &lanes);
        seen += count;
    }
    REAL found = first + (REAL)(WIDE_SUM(lanes.first) / (double)seen);
    return isfinite(found) ? found : first;
}

/* All in double: sums of x - mean and of its square over one run. */
INLINE void NAME(add_wide)(const REAL *restrict x, ptrdiff_t count, double mean, double *restrict first,
                           double *restrict second)
{
    ptrdiff_t k = 0;
    for (; k + LANE_SUMS <= count; k += LANE_SUMS)
        for (int lane = 0; lane < LANE_SUMS; lane++) {
            double centred = x[k + lane] - mean;
            first[lane] += centred;
            second[lane] += centred * centred;
        }
    for (; k < count; k++) {
        double centred = x[k] - mean;
        first[k % LANE_SUMS] += centred;
        second[k % LANE_SUMS] += centred * centred;
    }
}

/* The corrected two-pass algorithm, of runs `step` bytes apart. */
TARGET static void NAME(moments_in_double)(const char *x, ptrdiff_t runs, ptrdiff_t step, ptrdiff_t length,
                                           double *mean, double *variance)
{
    double count = (double)runs * (double)length;
    *mean = 0;
    for (int pass = 0; pass < 2; pass++) {
        double first[LANE_SUMS] = {0}, second[LANE_SUMS] = {0}, sum = 0, squares = 0;
        for (ptrdiff_t n = 0; n < runs; n++)
            NAME(add_wide)((const REAL *)(x + n * step), length, *mean, first, second);
        for (int lane = 0; lane < LANE_SUMS; lane++) {
            sum += first[lane];
            squares += second[lane];
        }
        sum /= count;
        *mean += sum;
        *variance = squares / count - sum * sum;
    }
    if (*variance < 0) /* a NaN stays */
        *variance = 0;
}

/* Moments from sums relative to a guess. Returns 0 if the guess was too far off. */
INLINE int NAME(conclude)(NAME(sums) sums, double count, double guess, double *mean, double *variance)
{
    double rest = sums.first / count, found = sums.second / count - rest * rest;
    *mean = guess + rest;
    *variance = found;
    if (sums.first == 0 && sums.second == 0) /* all the same */
        return 1;
    /* squares of REAL that overflow or vanish are no good either, and a NaN is not less than anything */
    return rest * rest < FAR * FAR * found && found > (DOUBLE ? 1e-280 : 1e-30) && found < (DOUBLE ? 1e280 : 1e30);
}

INLINE VEC NAME(normalised)(VEC x, VEC centre, VEC scale, VEC shift, VEC residual, int add, int relu)
{
    VEC value = FMA(x - centre, scale, shift);
    if (add)
        value += residual;
    return relu ? POSITIVE(value) : value;
}

/* The flags are constants at each call but for `stream`, which compilers take out of the loop as they do `soon`: memory from
 * there on is asked for, if that is not NULL. */
INLINE void NAME(apply)(REAL *y, const REAL *x, const REAL *residual, ptrdiff_t count, NAME(factors) f, int add,
                        int relu, int stream, const REAL *soon)
{
    VEC centre = SPLAT(f.centre), scale = SPLAT(f.scale), shift = SPLAT(f.shift);
    ptrdiff_t k = 0;
    for (; k + LANES <= count; k += LANES) {
        if (soon)
            XPC_SOON(soon + k);
        NAME(store)(y + k,
                    NAME(normalised)(LOAD(x + k), centre, scale, shift, add ? LOAD(residual + k) : centre, add, relu),
                    stream);
    }
    if (k < count) {
        MASK some = FIRST(count - k);
        VEC beside = add ? LOAD_FIRST(some, residual + k) : centre;
        STORE_FIRST(y + k, some, NAME(normalised)(LOAD_FIRST(some, x + k), centre, scale, shift, beside, add, relu));
    }
}

/* What the ReLU lets through of dy. */
INLINE VEC NAME(gradient)(const REAL *dy, const REAL *y, int relu)
{
    return relu ? WHERE_POSITIVE(LOAD(y), LOAD(dy)) : LOAD(dy);
}

INLINE VEC NAME(some_gradient)(MASK some, const REAL *dy, const REAL *y, int relu)
{
    return relu ? WHERE_POSITIVE(LOAD_FIRST(some, y), LOAD_FIRST(some, dy)) : LOAD_FIRST(some, dy);
}

/* Sums of the gradients, and of their products with x - mean. Both go to `copy` if there is one, a vector of this and a
 * vector of that. The gradients go to `dresidual` if there is one, and multiplied by `scale` to `dx` if there is one. */
INLINE void NAME(add_gradients)(const REAL *x, const REAL *dy, const REAL *y, REAL *dresidual, REAL *dx, REAL *copy,
                                ptrdiff_t count, REAL mean, REAL scale, int relu, int stream, NAME(lanes) *lanes)
{
    VEC middle = SPLAT(mean), factor = SPLAT(scale), zero = SPLAT(0);
    VEC a = lanes->first, b = zero, aa = lanes->second, bb = zero;
    ptrdiff_t k = 0;
    for (; k + 2 * LANES <= count; k += 2 * LANES) {
        VEC p = LOAD(x + k) - middle, q = LOAD(x + k + LANES) - middle;
        VEC g = NAME(gradient)(dy + k, y + k, relu), h = NAME(gradient)(dy + k + LANES, y + k + LANES, relu);
        if (copy) {
            STORE(copy + 2 * k, p);
            STORE(copy + 2 * k + LANES, g);
            STORE(copy + 2 * k + 2 * LANES, q);
            STORE(copy + 2 * k + 3 * LANES, h);
        }
        if (dresidual) {
            NAME(store)(dresidual + k, g, stream);
            NAME(store)(dresidual + k + LANES, h, stream);
        }
        if (dx) {
            NAME(store)(dx + k, g * factor, stream);
            NAME(store)(dx + k + LANES, h * factor, stream);
        }
        a += g, b += h;
        aa = FMA(p, g, aa), bb = FMA(q, h, bb);
    }
    for (; k < count; k += LANES) {
        MASK some = count - k < LANES ? FIRST(count - k) : ALL;
        VEC p = ONLY(some, LOAD_FIRST(some, x + k) - middle), g = NAME(some_gradient)(some, dy + k, y + k, relu);
        if (copy) {
            STORE(copy + 2 * k, p);
            STORE(copy + 2 * k + LANES, g);
        }
        if (dresidual)
            STORE_FIRST(dresidual + k, some, g);
        if (dx)
            STORE_FIRST(dx + k, some, g * factor);
        a += g;
        aa = FMA(p, g, aa);
    }
    lanes->first = a + b;
    lanes->second = aa + bb;
}

INLINE VEC NAME(spread)(VEC centred, VEC gradient, VEC scale, VEC slope, VEC offset)
{
    return FMA(gradient, scale, FMA(centred, slope, offset));
}

INLINE void NAME(spread_run)(REAL *dx, const REAL *x, const REAL *dy, const REAL *y, ptrdiff_t count, NAME(slopes) s,
                             int relu, int stream)
{
    VEC mean = SPLAT(s.mean), scale = SPLAT(s.scale), slope = SPLAT(s.slope), offset = SPLAT(s.offset);
    ptrdiff_t k = 0;
    for (; k + LANES <= count; k += LANES)
        NAME(store)(dx + k,
                    NAME(spread)(LOAD(x + k) - mean, NAME(gradient)(dy + k, y + k, relu), scale, slope, offset),
                    stream);
    if (k < count) {
        MASK some = FIRST(count - k);
        STORE_FIRST(dx + k, some,
                    NAME(spread)(LOAD_FIRST(some, x + k) - mean, NAME(some_gradient)(some, dy + k, y + k, relu),
                                 scale, slope, offset));
    }
}
