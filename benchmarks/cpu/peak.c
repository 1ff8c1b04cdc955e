/* The most multiply-adds that a core can do: independent sums in registers, no memory.
 *
 *   sum[0] = sum[0] * a + b     each sum waits for itself, 4 or 5 cycles;
 *   sum[1] = sum[1] * a + b     twelve of them keep two units busy meanwhile
 *   ...
 */

#if defined(__AVX512F__)
#define BYTES 64
#elif defined(__AVX__)
#define BYTES 32
#else
#define BYTES 16
#endif
#define LANES (BYTES / 4)
#define SUMS 12

typedef float vector __attribute__((vector_size(BYTES)));

/* Returns the number of floating-point operations, a multiply-add counting as two. */
double multiply_adds(long rounds, float factor, float term, float *result)
{
    vector a = (vector){0} + factor, b = (vector){0} + term, sum[SUMS];
    for (int k = 0; k < SUMS; k++)
        sum[k] = b + (float)k;
    for (long round = 0; round < rounds; round++)
        for (int k = 0; k < SUMS; k++)
            sum[k] = sum[k] * a + b;
    /* the result is stored, so that no compiler leaves the work out */
    vector total = sum[0];
    for (int k = 1; k < SUMS; k++)
        total += sum[k];
    for (int lane = 0; lane < LANES; lane++)
        result[lane] = total[lane];
    return 2.0 * SUMS * LANES * (double)rounds;
}
