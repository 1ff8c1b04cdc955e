/* The exponential of numbers that are not positive, in operations that compilers turn into vectors. Included once for
 * each type and instruction set, after simd.h.
 *
 *     x = k ln 2 + r,  |r| <= ln 2 / 2        exp(x) = 2^k (1 + r + r^2 g(r))
 *
 * k comes out of a sum whose last place is 1; ln 2 has two parts, of which k times the first is exact. The coefficients
 * of g are those of interpolation at the Chebyshev nodes, computed in 50 digits. The error is below 0.8 units of the last
 * place, also of numbers that are not normal; NaN stays NaN. */
#if DOUBLE
#define EXP_WORD uint64_t
#define EXP_MANTISSA 52
#define EXP_BIAS 1023
#define EXP_ROUNDER 6755399441055744.0 /* 1.5 * 2^52 */
#define EXP_LEAST -746.0               /* below, the result is 0 */
#define EXP_SMALL -600.0               /* below, the power of two is made in two steps */
#define EXP_STEP 128
#define EXP_STEP_DOWN 0x1p-128
#define LOG2_E 1.4426950408889634
#define LN2_FIRST 6.93147180369123816490e-01
#define LN2_SECOND 1.90821492927058770002e-10
#else
#define EXP_WORD uint32_t
#define EXP_MANTISSA 23
#define EXP_BIAS 127
#define EXP_ROUNDER 12582912.0f /* 1.5 * 2^23 */
#define EXP_LEAST -104.0f
#define EXP_SMALL -60.0f
#define EXP_STEP 64
#define EXP_STEP_DOWN 0x1p-64f
#define LOG2_E 1.44269504f
#define LN2_FIRST 0.693359375f
#define LN2_SECOND -2.12194440e-4f
#endif

INLINE EXP_WORD NAME(bits_of)(REAL number)
{
    EXP_WORD bits;
    memcpy(&bits, &number, sizeof(bits));
    return bits;
}

INLINE REAL NAME(number_of)(EXP_WORD bits)
{
    REAL number;
    memcpy(&number, &bits, sizeof(number));
    return number;
}

INLINE REAL NAME(exp_below_0)(REAL x)
{
    x = x < EXP_LEAST ? EXP_LEAST : x;
    int is_small = x < EXP_SMALL;
    REAL rounded = MULADD(x, LOG2_E, EXP_ROUNDER), k = rounded - EXP_ROUNDER;
    REAL r = MULADD(k, -LN2_SECOND, MULADD(k, -LN2_FIRST, x));
#if DOUBLE
    REAL g = 2.09147553258932e-09;
    g = MULADD(g, r, 2.5105312729622103e-08);
    g = MULADD(g, r, 2.755727347871858e-07);
    g = MULADD(g, r, 2.755725517000089e-06);
    g = MULADD(g, r, 2.480158732567746e-05);
    g = MULADD(g, r, 0.0001984126987500228);
    g = MULADD(g, r, 0.0013888888888883711);
    g = MULADD(g, r, 0.008333333333326084);
    g = MULADD(g, r, 0.04166666666666667);
    g = MULADD(g, r, 0.1666666666666667);
    g = MULADD(g, r, 0.5);
#else
    REAL g = 0.00019891080463998843f;
    g = MULADD(g, r, 0.0013933730715792083f);
    g = MULADD(g, r, 0.008333310844647862f);
    g = MULADD(g, r, 0.04166646419740569f);
    g = MULADD(g, r, 0.16666666681704215f);
    g = MULADD(g, r, 0.500000001353873f);
#endif
    /* k as an integer is how far `rounded` is from EXP_ROUNDER in units of the last place */
    EXP_WORD exponent = NAME(bits_of)(rounded) - NAME(bits_of)(EXP_ROUNDER) + EXP_BIAS + (is_small ? EXP_STEP : 0);
    REAL power = NAME(number_of)(exponent << EXP_MANTISSA);
    REAL first = 1 + r, lost = r - (first - 1); /* so only the last sum rounds in the places that count */
    return (first + MULADD(r * r, g, lost)) * power * (is_small ? EXP_STEP_DOWN : 1);
}

#undef EXP_WORD
#undef EXP_MANTISSA
#undef EXP_BIAS
#undef EXP_ROUNDER
#undef EXP_LEAST
#undef EXP_SMALL
#undef EXP_STEP
#undef EXP_STEP_DOWN
#undef LOG2_E
#undef LN2_FIRST
#undef LN2_SECOND
