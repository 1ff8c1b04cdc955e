/* Vectors of one instruction set and one type, under names that do not say which.
 *
 * Included once for each pair, with ISA (of isa.h) and DOUBLE (0 or 1) defined; `simd_end.h` takes the names back.
 *
 *     REAL, LANES, VEC        the type, how many are in a vector, and the vector
 *     TARGET                  attribute of every function that uses vectors
 *     REGISTERS               how many vectors there are: decides the size of tiles
 *     LOAD STORE SPLAT FMA    unaligned memory, one number in all lanes, a * b + c
 *     MULADD                  a * b + c of numbers, in one operation where the instruction set has it
 *     KEEP                    a variable that stays in a register: it is not loaded again for each use
 *     MASK FIRST ALL          the first n lanes; all of them
 *     LOAD_FIRST STORE_FIRST  only the lanes of a mask touch memory; others load as 0
 *     ONLY                    the lanes of a mask, others are 0
 *     SUM WIDE_SUM            of all lanes; in double
 *     SIEVE LOAD_SIEVE        the first n lanes (SIEVE_FIRST) of memory that may all be read. For inner loops: a load
 *                             by a mask is slow, or to GCC a call that may touch any memory, which keeps sums out of
 *                             registers
 *     POSITIVE                negative numbers made zero; a NaN stays
 *     WHERE_POSITIVE          the lanes of v where `test` > 0, others are 0
 *     WHERE_EQUAL             the lanes of v where a == b, others are 0
 *     TAKE_BETTER             where `value` is greater than `best`, or the first NaN, it becomes `best`,
 *                             and `mark` `at`
 *     EVEN ODD                of the lanes of two vectors one behind the other, every other one
 *     ZIP_LOW ZIP_HIGH        the reverse: lanes of two vectors in turn
 *     PREFETCH                into the second-level cache; any address
 *     STREAM                  to aligned memory past the caches, for results that are not read again soon; FENCE after
 *
 * Without vectors (MSVC) there is one lane: a source over these names compiles there too, and loops that leave vectors
 * to the compiler use REAL, TARGET and INLINE alone.
 */
#if DOUBLE
#define REAL double
#else
#define REAL float
#endif

#ifndef XPC_HAS_VECTORS

#define TARGET
#define REGISTERS 16
#define LANES 1
#define VEC REAL
#define MASK int
#define FIRST(n) (n)
#define LOAD_FIRST(mask, from) ((mask) ? *(const REAL *)(from) : 0)
#define STORE_FIRST(to, mask, v) ((mask) ? (void)(*(REAL *)(to) = (v)) : (void)0)
#define ONLY(mask, v) ((mask) ? (v) : 0)
#define LOAD(from) (*(const REAL *)(from))
#define STORE(to, v) ((void)(*(REAL *)(to) = (v)))
#define SPLAT(number) ((REAL)(number))
#define FMA(a, b, c) ((a) * (b) + (c))
#define SUM(v) (v)
#define WIDE_SUM(v) ((double)(v))
#define WHERE_POSITIVE(test, v) ((test) > 0 ? (v) : 0)
#define WHERE_EQUAL(a, b, v) ((a) == (b) ? (v) : 0)
#define TAKE_BETTER(best, at, value, mark) \
    do { \
        REAL value_ = (value); \
        if (!(value_ <= best) && best == best) \
            best = value_, at = (mark); \
    } while (0)
#define POSITIVE(v) ((v) <= 0 ? 0 : (v))
#define STREAM(to, v) STORE(to, v)
#define FENCE() ((void)0)

#elif ISA == XPC_AVX512

#define TARGET __attribute__((target("avx512f,avx512vl,avx512dq,avx2,fma")))
#define REGISTERS 32
#if DOUBLE
#define LANES 8
#define VEC __m512d
#define MASK __mmask8
#define SIMD(name) _mm512_##name##_pd
#else
#define LANES 16
#define VEC __m512
#define MASK __mmask16
#define SIMD(name) _mm512_##name##_ps
#endif
#define FIRST(n) ((MASK)((1u << (n)) - 1))
#define LOAD_FIRST(mask, from) SIMD(maskz_loadu)(mask, from)
#define STORE_FIRST(to, mask, v) SIMD(mask_storeu)(to, mask, v)
#define ONLY(mask, v) SIMD(maskz_mov)(mask, v)
#define LOAD(from) SIMD(loadu)(from)
#define STORE(to, v) SIMD(storeu)(to, v)
#define SPLAT(number) SIMD(set1)(number)
#define FMA(a, b, c) SIMD(fmadd)(a, b, c)
#define SUM(v) SIMD(reduce_add)(v)
#if DOUBLE
#define WIDE_SUM(v) SUM(v)
#define COMPARE(a, b, how) _mm512_cmp_pd_mask(a, b, how)
#else
#define WIDE_SUM(v) \
    _mm512_reduce_add_pd(_mm512_add_pd(_mm512_cvtps_pd(_mm512_castps512_ps256(v)), \
                                       _mm512_cvtps_pd(_mm512_extractf32x8_ps(v, 1))))
#define COMPARE(a, b, how) _mm512_cmp_ps_mask(a, b, how)
#endif
#define WHERE_POSITIVE(test, v) SIMD(maskz_mov)(COMPARE(test, SPLAT(0), _CMP_GT_OQ), v)
#define WHERE_EQUAL(a, b, v) SIMD(maskz_mov)(COMPARE(a, b, _CMP_EQ_OQ), v)
#define TAKE_BETTER(best, at, value, mark) \
    do { \
        VEC value_ = (value); \
        MASK take_ = COMPARE(value_, best, _CMP_NLE_UQ) & COMPARE(best, best, _CMP_ORD_Q); \
        best = SIMD(mask_mov)(best, take_, value_); \
        at = SIMD(mask_mov)(at, take_, mark); \
    } while (0)
#define POSITIVE(v) SIMD(max)(SPLAT(0), v) /* of a NaN and another number it gives the second */
#define STREAM(to, v) SIMD(stream)(to, v)
#define FENCE() _mm_sfence()
#define SIEVE MASK
#define SIEVE_FIRST(n) FIRST(n)
#define LOAD_SIEVE(sieve, from) ONLY(sieve, LOAD(from))
#define PREFETCH(from) _mm_prefetch((const char *)(from), _MM_HINT_T1)
#define KEEP(v) __asm__("" : "+v"(v))
#if DOUBLE
#define LANES_OF(...) _mm512_setr_epi64(__VA_ARGS__)
#define EVEN(a, b) SIMD(permutex2var)(a, LANES_OF(0, 2, 4, 6, 8, 10, 12, 14), b)
#define ODD(a, b) SIMD(permutex2var)(a, LANES_OF(1, 3, 5, 7, 9, 11, 13, 15), b)
#define ZIP_LOW(a, b) SIMD(permutex2var)(a, LANES_OF(0, 8, 1, 9, 2, 10, 3, 11), b)
#define ZIP_HIGH(a, b) SIMD(permutex2var)(a, LANES_OF(4, 12, 5, 13, 6, 14, 7, 15), b)
#else
#define LANES_OF(...) _mm512_setr_epi32(__VA_ARGS__)
#define EVEN(a, b) SIMD(permutex2var)(a, LANES_OF(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30), b)
#define ODD(a, b) SIMD(permutex2var)(a, LANES_OF(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31), b)
#define ZIP_LOW(a, b) SIMD(permutex2var)(a, LANES_OF(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23), b)
#define ZIP_HIGH(a, b) SIMD(permutex2var)(a, LANES_OF(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31), b)
#endif

#elif ISA == XPC_AVX2

#define TARGET __attribute__((target("avx2,fma")))
#define REGISTERS 16
#define MASK __m256i
#if DOUBLE
#define LANES 4
#define VEC __m256d
#define SIMD(name) _mm256_##name##_pd
#define FIRST(n) _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), _mm256_setr_epi64x(0, 1, 2, 3))
#else
#define LANES 8
#define VEC __m256
#define SIMD(name) _mm256_##name##_ps
#define FIRST(n) _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))
#endif
#define LOAD_FIRST(mask, from) SIMD(maskload)(from, mask)
#define STORE_FIRST(to, mask, v) SIMD(maskstore)(to, mask, v)
#define ONLY(mask, v) ((VEC)((mask) & (__m256i)(v)))
#define LOAD(from) SIMD(loadu)(from)
#define STORE(to, v) SIMD(storeu)(to, v)
#define SPLAT(number) SIMD(set1)(number)
#define FMA(a, b, c) SIMD(fmadd)(a, b, c)
#define SUM(v) xpc_sum_lanes(REAL, v)
#define WIDE_SUM(v) xpc_sum_lanes(double, v)
#define WHERE_POSITIVE(test, v) SIMD(and)(SIMD(cmp)(test, SPLAT(0), _CMP_GT_OQ), v)
#define WHERE_EQUAL(a, b, v) SIMD(and)(SIMD(cmp)(a, b, _CMP_EQ_OQ), v)
#define TAKE_BETTER(best, at, value, mark) \
    do { \
        VEC value_ = (value); \
        VEC take_ = SIMD(and)(SIMD(cmp)(value_, best, _CMP_NLE_UQ), SIMD(cmp)(best, best, _CMP_ORD_Q)); \
        best = SIMD(blendv)(best, value_, take_); \
        at = SIMD(blendv)(at, mark, take_); \
    } while (0)
#define POSITIVE(v) SIMD(max)(SPLAT(0), v) /* of a NaN and another number it gives the second */
#define STREAM(to, v) SIMD(stream)(to, v)
#define FENCE() _mm_sfence()
#define SIEVE MASK
#define SIEVE_FIRST(n) FIRST(n)
#define LOAD_SIEVE(sieve, from) ONLY(sieve, LOAD(from))
#define PREFETCH(from) _mm_prefetch((const char *)(from), _MM_HINT_T1)
#define KEEP(v) __asm__("" : "+x"(v))
#define ZIP_LOW(a, b) SIMD(permute2f128)(SIMD(unpacklo)(a, b), SIMD(unpackhi)(a, b), 0x20)
#define ZIP_HIGH(a, b) SIMD(permute2f128)(SIMD(unpacklo)(a, b), SIMD(unpackhi)(a, b), 0x31)
#if DOUBLE
#define EVEN(a, b) _mm256_permute4x64_pd(_mm256_unpacklo_pd(a, b), 0xd8)
#define ODD(a, b) _mm256_permute4x64_pd(_mm256_unpackhi_pd(a, b), 0xd8)
#else
#define XPC_ACROSS(v) _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(v), 0xd8))
#define EVEN(a, b) XPC_ACROSS(_mm256_shuffle_ps(a, b, 0x88))
#define ODD(a, b) XPC_ACROSS(_mm256_shuffle_ps(a, b, 0xdd))
#endif

#else /* what every processor of the architecture has: SSE2, NEON */

#define TARGET
#ifdef __aarch64__
#define REGISTERS 32
#else
#define REGISTERS 16
#endif
#define MASK int
#if DOUBLE
#define LANES 2
#define VEC xpc_double2
#else
#define LANES 4
#define VEC xpc_float4
#endif
#define FIRST(n) (n)
#define LOAD_FIRST(mask, from) \
    __extension__({ VEC some_ = {0}; memcpy(&some_, from, (size_t)(mask) * sizeof(REAL)); some_; })
#define STORE_FIRST(to, mask, v) \
    __extension__({ VEC all_ = (v); memcpy(to, &all_, (size_t)(mask) * sizeof(REAL)); })
#define ONLY(mask, v) __extension__({ VEC kept_ = (v); LOAD_FIRST(mask, &kept_); })
#define LOAD(from) __extension__({ VEC all_; memcpy(&all_, from, sizeof(VEC)); all_; })
#define STORE(to, v) __extension__({ VEC all_ = (v); memcpy(to, &all_, sizeof(VEC)); })
#define SPLAT(number) ((number) - (VEC){0})
#if defined(__aarch64__) && DOUBLE
#define FMA(a, b, c) ((VEC)vfmaq_f64((float64x2_t)(c), (float64x2_t)(a), (float64x2_t)(b)))
#elif defined(__aarch64__)
#define FMA(a, b, c) ((VEC)vfmaq_f32((float32x4_t)(c), (float32x4_t)(a), (float32x4_t)(b)))
#else
#define FMA(a, b, c) ((a) * (b) + (c))
#endif
#define SUM(v) xpc_sum_lanes(REAL, v)
#define WIDE_SUM(v) xpc_sum_lanes(double, v)
#if DOUBLE
#define AS_BITS(v) ((xpc_bits2)(v))
#else
#define AS_BITS(v) ((xpc_bits4)(v))
#endif
#define WHERE_POSITIVE(test, v) ((VEC)(AS_BITS((test) > 0) & AS_BITS(v)))
#define WHERE_EQUAL(a, b, v) ((VEC)(AS_BITS((a) == (b)) & AS_BITS(v)))
#define TAKE_BETTER(best, at, value, mark) \
    do { \
        VEC value_ = (value), mark_ = (mark); \
        __typeof__(AS_BITS(best)) take_ = ~AS_BITS(value_ <= best) & AS_BITS(best == best); \
        best = (VEC)((take_ & AS_BITS(value_)) | (~take_ & AS_BITS(best))); \
        at = (VEC)((take_ & AS_BITS(mark_)) | (~take_ & AS_BITS(at))); \
    } while (0)
#define POSITIVE(v) __extension__({ VEC any_ = (v); (VEC)(~AS_BITS(any_ <= 0) & AS_BITS(any_)); })
#define STREAM(to, v) STORE(to, v)
#define FENCE() ((void)0)
#define SIEVE VEC
#define SIEVE_FIRST(n) __extension__({ VEC some_ = {0}; memset(&some_, 255, (size_t)(n) * sizeof(REAL)); some_; })
#define LOAD_SIEVE(sieve, from) \
    __extension__({ VEC any_ = LOAD(from); (VEC)(AS_BITS(any_) & AS_BITS(sieve)); })
#define PREFETCH(from) __builtin_prefetch(from, 0, 2)
#define KEEP(v) ((void)(v))
#if DOUBLE
#define EVEN(a, b) ((VEC){(a)[0], (b)[0]})
#define ODD(a, b) ((VEC){(a)[1], (b)[1]})
#define ZIP_LOW(a, b) EVEN(a, b)
#define ZIP_HIGH(a, b) ODD(a, b)
#else
#define EVEN(a, b) ((VEC){(a)[0], (a)[2], (b)[0], (b)[2]})
#define ODD(a, b) ((VEC){(a)[1], (a)[3], (b)[1], (b)[3]})
#define ZIP_LOW(a, b) ((VEC){(a)[0], (b)[0], (a)[1], (b)[1]})
#define ZIP_HIGH(a, b) ((VEC){(a)[2], (b)[2], (a)[3], (b)[3]})
#endif

#endif

/* pairwise, so that the order does not depend on the compiler */
#define xpc_sum_lanes(type, v) \
    __extension__({ \
        VEC vector_ = (v); \
        REAL lane_[LANES]; \
        type sum_[LANES]; \
        memcpy(lane_, &vector_, sizeof(vector_)); \
        for (int l_ = 0; l_ < LANES; l_++) \
            sum_[l_] = lane_[l_]; \
        for (int half_ = LANES / 2; half_ >= 1; half_ /= 2) \
            for (int l_ = 0; l_ < half_; l_++) \
                sum_[l_] += sum_[l_ + half_]; \
        sum_[0]; \
    })
#if ISA == XPC_BASELINE && !(defined(XPC_HAS_VECTORS) && defined(__aarch64__))
#define MULADD(a, b, c) ((a) * (b) + (c))
#elif DOUBLE
#define MULADD(a, b, c) __builtin_fma(a, b, c)
#else
#define MULADD(a, b, c) __builtin_fmaf(a, b, c)
#endif
#define ALL FIRST(LANES)
/* each(r) for every number of rows of a tile of two vectors: 14 by 2 sums fill 32 registers, 6 by 2 fill 16 */
#if REGISTERS >= 32
#define XPC_EACH_ROWS(each) \
    each(14) each(13) each(12) each(11) each(10) each(9) each(8) each(7) each(6) each(5) each(4) each(3) each(2) each(1)
#else
#define XPC_EACH_ROWS(each) each(6) each(5) each(4) each(3) each(2) each(1)
#endif
/* before a loop that has to become straight code, as it counts through registers */
#if defined(__clang__)
#define XPC_UNROLL _Pragma("clang loop unroll(full)")
#else
#define XPC_UNROLL _Pragma("GCC unroll 16")
#endif
#ifdef XPC_HAS_VECTORS
#define INLINE TARGET static inline __attribute__((always_inline))
#else
#define INLINE static inline
#endif
