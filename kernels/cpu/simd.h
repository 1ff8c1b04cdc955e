/* Vectors of one instruction set and one type, under names that do not say which.
 *
 * Included once for each pair, with ISA (of isa.h) and DOUBLE (0 or 1) defined; `simd_end.h` takes the names back.
 *
 *     REAL, LANES, VEC        the type, how many are in a vector, and the vector
 *     TARGET                  attribute of every function that uses vectors
 *     REGISTERS               how many vectors there are: decides the size of tiles
 *     LOAD STORE SPLAT FMA    unaligned memory, one number in all lanes, a * b + c
 *     MASK FIRST ALL          the first n lanes; all of them
 *     LOAD_FIRST STORE_FIRST  only the lanes of a mask touch memory; others load as 0
 *     SUM                     of all lanes
 *     POSITIVE                negative numbers made zero; a NaN stays
 *     STREAM                  to aligned memory past the caches, for results that are not read again soon; FENCE after
 *
 * Without vectors (MSVC) only REAL, TARGET and INLINE exist, for loops that leave vectors to the compiler.
 */
#if DOUBLE
#define REAL double
#else
#define REAL float
#endif

#ifndef XPC_HAS_VECTORS

#define TARGET

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
#define LOAD(from) SIMD(loadu)(from)
#define STORE(to, v) SIMD(storeu)(to, v)
#define SPLAT(number) SIMD(set1)(number)
#define FMA(a, b, c) SIMD(fmadd)(a, b, c)
#define SUM(v) SIMD(reduce_add)(v)
#define POSITIVE(v) SIMD(max)(SPLAT(0), v) /* of two numbers that do not compare, the second */
#define STREAM(to, v) SIMD(stream)(to, v)
#define FENCE() _mm_sfence()

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
#define LOAD(from) SIMD(loadu)(from)
#define STORE(to, v) SIMD(storeu)(to, v)
#define SPLAT(number) SIMD(set1)(number)
#define FMA(a, b, c) SIMD(fmadd)(a, b, c)
#define SUM(v) xpc_sum_lanes((v), LANES)
#define POSITIVE(v) SIMD(max)(SPLAT(0), v)
#define STREAM(to, v) SIMD(stream)(to, v)
#define FENCE() _mm_sfence()

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
#define SUM(v) xpc_sum_lanes((v), LANES)
#define POSITIVE(v) \
    __extension__({ VEC any_ = (v); (VEC)((__typeof__(any_ < any_))any_ & ~(any_ < SPLAT((REAL)0))); })
#define STREAM(to, v) STORE(to, v)
#define FENCE() ((void)0)

#endif

/* pairwise, so that the order does not depend on the compiler */
#define xpc_sum_lanes(v, lanes) \
    __extension__({ \
        VEC vector_ = (v); \
        REAL lane_[LANES]; \
        memcpy(lane_, &vector_, sizeof(vector_)); \
        for (int half_ = (lanes) / 2; half_ >= 1; half_ /= 2) \
            for (int l_ = 0; l_ < half_; l_++) \
                lane_[l_] += lane_[l_ + half_]; \
        lane_[0]; \
    })
#define ALL FIRST(LANES)
#ifdef XPC_HAS_VECTORS
#define INLINE TARGET static inline __attribute__((always_inline))
#else
#define INLINE static inline
#endif
