/* Compiles one source for each type and instruction set.
 *
 *     #define XPC_SOURCE "direct_impl.h"
 *     #include "instances.h"
 *
 * includes that source once for each pair, with DOUBLE (0 or 1), ISA (of isa.h), and NAME(x), a name of the pair's own.
 * Compilers without vectors get the baseline alone. `XPC_PICK(f, f32)` is then the instance of NAME(f) to call now.
 */
#include "isa.h"

#ifndef XPC_PICK

#include <string.h>

#ifdef XPC_HAS_X86
#include <immintrin.h>
#endif
#if defined(XPC_HAS_VECTORS) && defined(__aarch64__)
#include <arm_neon.h>
#endif
#ifdef XPC_HAS_VECTORS
typedef float xpc_float4 __attribute__((vector_size(16)));
typedef double xpc_double2 __attribute__((vector_size(16)));
typedef int xpc_bits4 __attribute__((vector_size(16)));
typedef long long xpc_bits2 __attribute__((vector_size(16)));
#endif

#define XPC_JOIN_(a, b, c) a##_##b##_##c
#define XPC_JOIN(a, b, c) XPC_JOIN_(a, b, c)

#ifdef XPC_HAS_X86
#define XPC_PICK(name, type) \
    (xpc_isa() == XPC_AVX512 ? name##_##type##_avx512 \
     : xpc_isa() == XPC_AVX2 ? name##_##type##_avx2 \
                             : name##_##type##_baseline)
#else
#define XPC_PICK(name, type) name##_##type##_baseline
#endif

/* On x86-64 the baseline is for processors from before 2013, and for emulators: small code matters more than fast code
 * there, which halves its share of the library. */
#if defined(XPC_HAS_X86) && !defined(__clang__)
#define XPC_SMALL_BEGIN _Pragma("GCC push_options") _Pragma("GCC optimize(\"Os\")")
#define XPC_SMALL_END _Pragma("GCC pop_options")
#else
#define XPC_SMALL_BEGIN
#define XPC_SMALL_END
#endif

#endif

#define DOUBLE 0
XPC_SMALL_BEGIN
#define ISA XPC_BASELINE
#define NAME(name) XPC_JOIN(name, f32, baseline)
#include XPC_SOURCE
#undef NAME
#undef ISA
XPC_SMALL_END
#ifdef XPC_HAS_X86
#define ISA XPC_AVX2
#define NAME(name) XPC_JOIN(name, f32, avx2)
#include XPC_SOURCE
#undef NAME
#undef ISA
#define ISA XPC_AVX512
#define NAME(name) XPC_JOIN(name, f32, avx512)
#include XPC_SOURCE
#undef NAME
#undef ISA
#endif
#undef DOUBLE

#define DOUBLE 1
XPC_SMALL_BEGIN
#define ISA XPC_BASELINE
#define NAME(name) XPC_JOIN(name, f64, baseline)
#include XPC_SOURCE
#undef NAME
#undef ISA
XPC_SMALL_END
#ifdef XPC_HAS_X86
#define ISA XPC_AVX2
#define NAME(name) XPC_JOIN(name, f64, avx2)
#include XPC_SOURCE
#undef NAME
#undef ISA
#define ISA XPC_AVX512
#define NAME(name) XPC_JOIN(name, f64, avx512)
#include XPC_SOURCE
#undef NAME
#undef ISA
#endif
#undef DOUBLE
#undef XPC_SOURCE
