# Instruction sets.

cdef extern from "isa.h" nogil:
    int xpc_isa()
    int xpc_isa_works(int)
    int xpc_use_isa(int)

_ISAS = ("baseline", "avx2", "avx512")  # in the order of isa.h


def instruction_sets():
    """Names of those that this build has and this processor runs, the narrowest first; may be none."""
    return tuple(name for number, name in enumerate(_ISAS) if xpc_isa_works(number))


def instruction_set():
    """The one that kernels with explicit vectors use, or None where there is none."""
    cdef int isa = xpc_isa()
    return None if isa < 0 else _ISAS[isa]


def use_instruction_set(str name):
    """Choose one of `instruction_sets`; ValueError for any other."""
    if name not in _ISAS or not xpc_use_isa(_ISAS.index(name)):
        raise ValueError(f"instruction set: expected one of {', '.join(instruction_sets()) or 'none'}, got {name!r}")
