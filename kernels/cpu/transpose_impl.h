/* Transposes of LANES vectors in registers, from planes of an image to lanes that are channels and back. Included after
 * simd.h, once for each type and instruction set.
 *
 *     rows[r], lane c   ->   rows[c], lane r
 *
 * In blocks of 128 bits first, which every instruction set interleaves at full speed, then the blocks among themselves.
 */
#ifdef XPC_HAS_VECTORS

/* From two vectors, in each block of 128 bits: the lower, or the upper, halves in turn; by single numbers and, where a
 * block has four of them, by pairs. */
#if ISA == XPC_AVX512 && !DOUBLE
#define LOW(a, b) _mm512_unpacklo_ps(a, b)
#define HIGH(a, b) _mm512_unpackhi_ps(a, b)
#define LOW_PAIR(a, b) \
    _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)))
#define HIGH_PAIR(a, b) \
    _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)))
#define EVEN_BLOCKS(a, b) _mm512_shuffle_f32x4(a, b, 0x88)
#define ODD_BLOCKS(a, b) _mm512_shuffle_f32x4(a, b, 0xdd)
#elif ISA == XPC_AVX512
#define LOW(a, b) _mm512_unpacklo_pd(a, b)
#define HIGH(a, b) _mm512_unpackhi_pd(a, b)
#define EVEN_BLOCKS(a, b) _mm512_shuffle_f64x2(a, b, 0x88)
#define ODD_BLOCKS(a, b) _mm512_shuffle_f64x2(a, b, 0xdd)
#elif ISA == XPC_AVX2 && !DOUBLE
#define LOW(a, b) _mm256_unpacklo_ps(a, b)
#define HIGH(a, b) _mm256_unpackhi_ps(a, b)
#define LOW_PAIR(a, b) \
    _mm256_castpd_ps(_mm256_unpacklo_pd(_mm256_castps_pd(a), _mm256_castps_pd(b)))
#define HIGH_PAIR(a, b) \
    _mm256_castpd_ps(_mm256_unpackhi_pd(_mm256_castps_pd(a), _mm256_castps_pd(b)))
#define EVEN_BLOCKS(a, b) _mm256_permute2f128_ps(a, b, 0x20)
#define ODD_BLOCKS(a, b) _mm256_permute2f128_ps(a, b, 0x31)
#elif ISA == XPC_AVX2
#define LOW(a, b) _mm256_unpacklo_pd(a, b)
#define HIGH(a, b) _mm256_unpackhi_pd(a, b)
#define EVEN_BLOCKS(a, b) _mm256_permute2f128_pd(a, b, 0x20)
#define ODD_BLOCKS(a, b) _mm256_permute2f128_pd(a, b, 0x31)
#elif defined(XPC_HAS_X86) && !DOUBLE
#define LOW(a, b) ((VEC)_mm_unpacklo_ps((__m128)(a), (__m128)(b)))
#define HIGH(a, b) ((VEC)_mm_unpackhi_ps((__m128)(a), (__m128)(b)))
#define LOW_PAIR(a, b) ((VEC)_mm_unpacklo_pd((__m128d)(a), (__m128d)(b)))
#define HIGH_PAIR(a, b) ((VEC)_mm_unpackhi_pd((__m128d)(a), (__m128d)(b)))
#elif defined(XPC_HAS_X86)
#define LOW(a, b) ((VEC)_mm_unpacklo_pd((__m128d)(a), (__m128d)(b)))
#define HIGH(a, b) ((VEC)_mm_unpackhi_pd((__m128d)(a), (__m128d)(b)))
#elif defined(__aarch64__) && !DOUBLE
#define LOW(a, b) ((VEC)vzip1q_f32((float32x4_t)(a), (float32x4_t)(b)))
#define HIGH(a, b) ((VEC)vzip2q_f32((float32x4_t)(a), (float32x4_t)(b)))
#define LOW_PAIR(a, b) ((VEC)vzip1q_f64((float64x2_t)(a), (float64x2_t)(b)))
#define HIGH_PAIR(a, b) ((VEC)vzip2q_f64((float64x2_t)(a), (float64x2_t)(b)))
#elif defined(__aarch64__)
#define LOW(a, b) ((VEC)vzip1q_f64((float64x2_t)(a), (float64x2_t)(b)))
#define HIGH(a, b) ((VEC)vzip2q_f64((float64x2_t)(a), (float64x2_t)(b)))
#elif !DOUBLE
#define LOW(a, b) ((VEC){(a)[0], (b)[0], (a)[1], (b)[1]})
#define HIGH(a, b) ((VEC){(a)[2], (b)[2], (a)[3], (b)[3]})
#define LOW_PAIR(a, b) ((VEC){(a)[0], (a)[1], (b)[0], (b)[1]})
#define HIGH_PAIR(a, b) ((VEC){(a)[2], (a)[3], (b)[2], (b)[3]})
#else
#define LOW(a, b) ((VEC){(a)[0], (b)[0]})
#define HIGH(a, b) ((VEC){(a)[1], (b)[1]})
#endif

/* Vectors of blocks of 128 bits, `step` numbers apart in memory. */
#if ISA == XPC_AVX512 && !DOUBLE
#define LOAD_BLOCKS(from, step) \
    _mm512_insertf32x4(_mm512_insertf32x4(_mm512_insertf32x4(_mm512_castps128_ps512(_mm_loadu_ps(from)), \
        _mm_loadu_ps((from) + (step)), 1), _mm_loadu_ps((from) + 2 * (step)), 2), _mm_loadu_ps((from) + 3 * (step)), 3)
#elif ISA == XPC_AVX512
#define LOAD_BLOCKS(from, step) \
    _mm512_insertf64x2(_mm512_insertf64x2(_mm512_insertf64x2(_mm512_castpd128_pd512(_mm_loadu_pd(from)), \
        _mm_loadu_pd((from) + (step)), 1), _mm_loadu_pd((from) + 2 * (step)), 2), _mm_loadu_pd((from) + 3 * (step)), 3)
#elif ISA == XPC_AVX2 && !DOUBLE
#define LOAD_BLOCKS(from, step) _mm256_loadu2_m128((from) + (step), from)
#elif ISA == XPC_AVX2
#define LOAD_BLOCKS(from, step) _mm256_loadu2_m128d((from) + (step), from)
#else
#define LOAD_BLOCKS(from, step) LOAD(from)
#endif

enum { NAME(BLOCK) = 16 / sizeof(REAL), NAME(BLOCKS) = LANES / NAME(BLOCK) }; /* numbers in a block, blocks in a vector */

INLINE void NAME(transpose)(VEC rows[LANES])
{
    /* within blocks: afterwards block k of vector i + j has lanes j + k * BLOCK of rows i to i + BLOCK - 1 */
    VEC parts[LANES];
    for (int i = 0; i < LANES; i += NAME(BLOCK)) {
#if DOUBLE
        parts[i] = LOW(rows[i], rows[i + 1]);
        parts[i + 1] = HIGH(rows[i], rows[i + 1]);
#else
        VEC a = LOW(rows[i], rows[i + 1]), b = HIGH(rows[i], rows[i + 1]);
        VEC c = LOW(rows[i + 2], rows[i + 3]), d = HIGH(rows[i + 2], rows[i + 3]);
        parts[i] = LOW_PAIR(a, c);
        parts[i + 1] = HIGH_PAIR(a, c);
        parts[i + 2] = LOW_PAIR(b, d);
        parts[i + 3] = HIGH_PAIR(b, d);
#endif
    }
    for (int j = 0; j < NAME(BLOCK); j++) {
#if ISA == XPC_AVX512
        enum { B = NAME(BLOCK) };
        VEC even = EVEN_BLOCKS(parts[j], parts[B + j]), odd = ODD_BLOCKS(parts[j], parts[B + j]);
        VEC later_even = EVEN_BLOCKS(parts[2 * B + j], parts[3 * B + j]);
        VEC later_odd = ODD_BLOCKS(parts[2 * B + j], parts[3 * B + j]);
        rows[j] = EVEN_BLOCKS(even, later_even);
        rows[B + j] = EVEN_BLOCKS(odd, later_odd);
        rows[2 * B + j] = ODD_BLOCKS(even, later_even);
        rows[3 * B + j] = ODD_BLOCKS(odd, later_odd);
#elif ISA == XPC_AVX2
        rows[j] = EVEN_BLOCKS(parts[j], parts[NAME(BLOCK) + j]);
        rows[NAME(BLOCK) + j] = ODD_BLOCKS(parts[j], parts[NAME(BLOCK) + j]);
#else
        rows[j] = parts[j];
#endif
    }
}

/* LANES rows from memory, `row` numbers apart. Blocks come from memory to where they belong, which leaves only the half
 * of the shuffles that is within blocks: all of them take turns at one port. */
INLINE void NAME(load_transposed)(const REAL *from, ptrdiff_t row, VEC rows[LANES])
{
    XPC_UNROLL
    for (int b = 0; b < LANES; b += NAME(BLOCK)) {
        VEC parts[NAME(BLOCK)];
        XPC_UNROLL
        for (int i = 0; i < NAME(BLOCK); i++)
            parts[i] = LOAD_BLOCKS(from + i * row + b, NAME(BLOCK) * row);
#if DOUBLE
        rows[b] = LOW(parts[0], parts[1]);
        rows[b + 1] = HIGH(parts[0], parts[1]);
#else
        VEC a = LOW(parts[0], parts[1]), c = HIGH(parts[0], parts[1]);
        VEC d = LOW(parts[2], parts[3]), e = HIGH(parts[2], parts[3]);
        rows[b] = LOW_PAIR(a, d);
        rows[b + 1] = HIGH_PAIR(a, d);
        rows[b + 2] = LOW_PAIR(c, e);
        rows[b + 3] = HIGH_PAIR(c, e);
#endif
    }
}

#undef LOAD_BLOCKS
#undef LOW
#undef HIGH
#undef LOW_PAIR
#undef HIGH_PAIR
#undef EVEN_BLOCKS
#undef ODD_BLOCKS

#endif
