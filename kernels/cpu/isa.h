/* Which instruction sets this processor and this build have, and which one the kernels use.
 *
 * Kernels that gain from explicit vectors are compiled once for each of them from one source over `simd.h`. Compilers
 * without GCC's vector extensions have none: such kernels then do not exist, and others take their place.
 */
#ifndef XPC_ISA_H
#define XPC_ISA_H

/* XPC_NO_VECTORS builds as such a compiler would. */
#if (defined(__GNUC__) || defined(__clang__)) && !defined(XPC_NO_VECTORS)
#define XPC_HAS_VECTORS 1
#if defined(__x86_64__)
#define XPC_HAS_X86 1
#endif
#endif

/* Macros, because the preprocessor compares them: to it the names of an enum are all 0. */
#define XPC_NO_ISA (-1)
#define XPC_BASELINE 0
#define XPC_AVX2 1
#define XPC_AVX512 2
#define XPC_ISA_COUNT 3

/* Whether `isa` is compiled in and the processor can run it. */
int xpc_isa_works(int isa);

/* The one in use, the widest that works unless another was chosen; XPC_NO_ISA where there is none. */
int xpc_isa(void);

/* Choose one that works; returns 0 and changes nothing for any other. */
int xpc_use_isa(int isa);

#endif
