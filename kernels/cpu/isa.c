#include "isa.h"

static int chosen = XPC_NO_ISA;

int xpc_isa_works(int isa)
{
#ifdef XPC_HAS_X86
    __builtin_cpu_init();
    if (isa == XPC_AVX512)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("avx512dq");
    if (isa == XPC_AVX2)
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
#ifdef XPC_HAS_VECTORS
    return isa == XPC_BASELINE;
#else
    return 0;
#endif
}

int xpc_isa(void)
{
    if (chosen == XPC_NO_ISA)
        for (int isa = XPC_ISA_COUNT - 1; isa >= 0 && chosen == XPC_NO_ISA; isa--)
            if (xpc_isa_works(isa))
                chosen = isa;
    return chosen;
}

int xpc_use_isa(int isa)
{
    if (!xpc_isa_works(isa))
        return 0;
    chosen = isa;
    return 1;
}
