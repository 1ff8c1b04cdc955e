/* The exponential of numbers that are not positive, in operations that compilers turn into vectors. Included once for
 * each type and instruction set, after simd.h.
 *
 *     x = k ln 2 + r,  |r| <= ln 2 / 2        exp(x) = 2^k (1 + r + r^2 g(r))
 *
 * k comes out of a sum whose last place is 1; ln 2 has two parts, of which k times the first is exact. The coefficients
 * of g are those of interpolation at the Chebyshev nodes in 50 digits (tests/cpu/test_activation.py repeats it). The
 * error is below one unit of the last place. Results below the normal numbers are rounded twice, NaN stays NaN. */
#if DOUBLE
#define BITS uint64_t
#define MANTISSA 52
#define BIAS 1023
#define ROUNDER 6755399441055744.0 /* 1.5 * 2^52 */
#define LEAST -746.0               /* below, the result is 0 */
#define SMALL -600.0               /* below, the power of two is made in two steps */
#define STEP 128
#define STEP_DOWN 0x1p-128
#define LOG2_E 1.4426950408889634
#define LN2_FIRST 6.93147180369123816490e-01
#define LN2_SECOND 1.90821492927058770002e-10
#else
#define BITS uint32_t
#define MANTISSA 23
#define BIAS 127
#define ROUNDER 12582912.0f /* 1.5 * 2^23 */
#define LEAST -104.0f
#define SMALL -60.0f
#define STEP 64
#define STEP_DOWN 0x1p-64f
#define LOG2_E 1.44269504f
#define LN2_FIRST 0.693359375f
#define LN2_SECOND -2.12194440e-4f
#endif

INLINE BITS NAME(bits_of)(REAL number)
{
    BITS bits;
    memcpy(&bits, &number, sizeof(bits));
    return bits;
}

INLINE REAL NAME(number_of)(BITS bits)
{
    REAL number;
    memcpy(&number, &bits, sizeof(number));
    return number;
}

INLINE REAL NAME(exp_below_0)(REAL x)
{
    x = x < LEAST ? LEAST : x;
    int is_small = x < SMALL;
    REAL rounded = x * LOG2_E + ROUNDER, k = rounded - ROUNDER, r = x - k * LN2_FIRST - k * LN2_SECOND;
#if DOUBLE
    REAL g = 2.09147553258932e-09;
    g = g * r + 2.5105312729622103e-08;
    g = g * r + 2.755727347871858e-07;
    g = g * r + 2.755725517000089e-06;
    g = g * r + 2.480158732567746e-05;
    g = g * r + 0.0001984126987500228;
    g = g * r + 0.0013888888888883711;
    g = g * r + 0.008333333333326084;
    g = g * r + 0.04166666666666667;
    g = g * r + 0.1666666666666667;
    g = g * r + 0.5;
#else
    REAL g = 0.00019891080463998843f;
    g = g * r + 0.0013933730715792083f;
    g = g * r + 0.008333310844647862f;
    g = g * r + 0.04166646419740569f;
    g = g * r + 0.16666666681704215f;
    g = g * r + 0.500000001353873f;
#endif
    /* k as an integer is how far `rounded` is from ROUNDER in units of the last place */
    BITS exponent = NAME(bits_of)(rounded) - NAME(bits_of)(ROUNDER) + BIAS + (is_small ? STEP : 0);
    return (1 + (r + r * r * g)) * NAME(number_of)(exponent << MANTISSA) * (is_small ? STEP_DOWN : 1);
}

#undef BITS
#undef MANTISSA
#undef BIAS
#undef ROUNDER
#undef LEAST
#undef SMALL
#undef STEP
#undef STEP_DOWN
#undef LOG2_E
#undef LN2_FIRST
#undef LN2_SECOND
