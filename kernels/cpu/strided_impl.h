/* Runs of numbers `step` bytes apart. Included once for each type, before the kernels of that type, by what defines
 * REAL and NAME. Steps of one and two numbers have loops of their own, which become vectors. */

XPC_INLINE void NAME(fill_zero)(char *to, ptrdiff_t step, ptrdiff_t count)
{
    if (step == sizeof(REAL)) {
        memset(to, 0, (size_t)count * sizeof(REAL));
        return;
    }
    for (ptrdiff_t k = 0; k < count; k++)
        *(REAL *)(to + k * step) = 0;
}

XPC_INLINE void NAME(copy)(char *to, ptrdiff_t to_step, const char *from, ptrdiff_t from_step, ptrdiff_t count)
{
    if (to_step == sizeof(REAL) && from_step == sizeof(REAL)) {
        memcpy(to, from, (size_t)count * sizeof(REAL));
    } else if (to_step == sizeof(REAL) && from_step == 2 * sizeof(REAL)) {
        REAL *restrict target = (REAL *)to;
        const REAL *restrict source = (const REAL *)from;
        for (ptrdiff_t k = 0; k < count; k++)
            target[k] = source[2 * k];
    } else {
        for (ptrdiff_t k = 0; k < count; k++)
            *(REAL *)(to + k * to_step) = *(const REAL *)(from + k * from_step);
    }
}

XPC_INLINE void NAME(add)(char *to, ptrdiff_t to_step, const char *from, ptrdiff_t from_step, ptrdiff_t count)
{
    REAL *restrict target = (REAL *)to;
    const REAL *restrict source = (const REAL *)from;
    if (to_step == sizeof(REAL) && from_step == sizeof(REAL)) {
        for (ptrdiff_t k = 0; k < count; k++)
            target[k] += source[k];
    } else if (to_step == 2 * sizeof(REAL) && from_step == sizeof(REAL)) {
        for (ptrdiff_t k = 0; k < count; k++)
            target[2 * k] += source[k];
    } else {
        for (ptrdiff_t k = 0; k < count; k++)
            *(REAL *)(to + k * to_step) += *(const REAL *)(from + k * from_step);
    }
}
