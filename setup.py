"""What pyproject.toml cannot say: the compiled extension, the flags its compiler knows, and the mapped CUDA package.

Environment
-----------
XPCONV_SERIAL=1
    Build without threads. A compiler without POSIX threads or C11 atomics gives the same.
CFLAGS
    Added after the flags of this file, so that they win.
"""

import os
import shlex
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

SERIAL = os.environ.get("XPCONV_SERIAL", "0") not in ("", "0")
KERNELS = "kernels/cpu"
# The smallest is first: it is compiled alone, to make the folders. Then those that take longest, so that all cores have
# work until the end.
SOURCES = [
    "isa.c", "pool.c", "blocked.c", "winograd.c", "_kernels.pyx", "linear.c", "norm.c", "direct.c", "depthwise.c",
    "norm_rows.c", "optim.c", "activation.c", "loss.c", "dropout.c", "columns.c", "threads.c", "arena.c",
]  # fmt: skip

# No -march: a wheel has to run on every machine of its architecture. No fast-math either; these two flags only say
# that nobody reads errno or floating-point exception flags, so that loops with comparisons vectorise. Contraction to
# fused multiply-add is off, so that one source gives the same bits on every architecture. No exception passes through
# the kernels, so that they need no tables for unwinding. Integers wrap around, which Pythons say in different words:
# with one of them, all Pythons of a machine have the same kernels, and a compiler cache knows them again.
WRAPPING = ("-fwrapv", "-fno-strict-overflow")
FLAGS = [
    "-g0", "-fwrapv", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-fvisibility=hidden",
    "-fno-asynchronous-unwind-tables",
]  # fmt: skip

# Speed where loops over tiles have to become straight code, which -O2 does not do; elsewhere -O2 with -O3's vectors, as
# fast and smaller; size where C only checks and converts what Python hands over. All of it at -O3 makes a library that
# is a third larger, and not faster (geometric mean over 130 calls of operators: within 2 %).
STRAIGHT = ("blocked.c", "columns.c", "depthwise.c", "direct.c", "linear.c", "pool.c", "winograd.c")
STRAIGHT_FLAGS, LOOP_FLAGS = ["-O3"], ["-O2", "-fvect-cost-model=dynamic"]
GLUE_FLAGS = ["-Os", "-Oz"]  # the last that the compiler knows
# Of pooling, the largest, GCC makes a seventh less with the limit, as fast over 70 calls; of others, what is half as
# fast. Its own vectors are needed here, and in norms: without them pooling takes up to ten times as long.
ENDS_FLAGS = ["--param=vect-epilogues-nomask=0"]  # ends of rows number by number, not in vectors of half the width
POOL_FLAGS = [*ENDS_FLAGS, "--param=max-completely-peeled-insns=90"]
MSVC_FLAGS = ["/O2", "/std:c11"]
LINK_FLAGS = ["-Wl,-s"]  # no table of symbols

THREADS_PROBE = """
#include <pthread.h>
#include <stdatomic.h>
static void *nothing(void *argument) { return argument; }
int main(void) {
    pthread_t thread;
    atomic_int number = 0;
    atomic_fetch_add(&number, 1);
    return pthread_create(&thread, 0, nothing, 0) || pthread_join(thread, 0) || pthread_atfork(0, 0, 0);
}
"""

# One function for two instruction sets, the loader picks; takes GCC or Clang, x86-64 and glibc.
CLONES_PROBE = """
__attribute__((target_clones("avx2", "default"))) static int twice(int number) { return 2 * number; }
static int call(int (*function)(int), int number) { return function(number); }
int main(int count, char **values) { (void)values; return call(twice, count) == 0; }
"""


def side_by_side(compile, flags_of):
    """``compile(sources, ...)`` with a compiler for every core, and the flags of each source before the common ones."""

    def compile_one(source, *arguments, extra_postargs=(), **options):
        return compile([source], *arguments, extra_postargs=[*flags_of(source), *extra_postargs], **options)

    def compile_all(sources, *arguments, **options):
        order = [Path(name).stem for name in SOURCES]  # build_ext has sorted them by name
        first, *others = sorted(sources, key=lambda source: order.index(Path(source).stem))
        objects = compile_one(first, *arguments, **options)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for more in pool.map(lambda source: compile_one(source, *arguments, **options), others):
                objects += more
        return objects

    return compile_all


class BuildExt(build_ext):
    """build_ext that asks the compiler what it can do first."""

    def build_extensions(self):
        """Add the flags that work, then build."""
        msvc = self.compiler.compiler_type == "msvc"
        if not msvc:
            self.compiler.compiler_so = [flag for flag in self.compiler.compiler_so if flag not in WRAPPING]
        flags = MSVC_FLAGS if msvc else self.working(FLAGS)
        threads = [] if SERIAL else self.thread_flags()
        clones = self.compiles(CLONES_PROBE, link=True)
        own = shlex.split(os.environ.get("CFLAGS", ""))
        debug = any(flag.startswith("-g") and flag != "-g0" for flag in own)
        for extension in self.extensions:
            if threads:
                extension.define_macros.append(("XPC_THREADS", "1"))
            if clones:
                extension.define_macros.append(("XPC_TARGET_CLONES", "1"))
            extension.extra_compile_args += [*flags, *threads, *own]
            extension.extra_link_args += [*threads, *([] if msvc or debug else self.working(LINK_FLAGS, link=True))]
        if not threads:
            print("xpconv: building serial kernels" + ("" if SERIAL else ", the compiler has no POSIX threads"))
        kinds = (STRAIGHT_FLAGS, LOOP_FLAGS, GLUE_FLAGS, POOL_FLAGS, ENDS_FLAGS)
        straight, loop, glue, pool, norm = ([] if msvc else self.working(flags) for flags in kinds)
        special = {"pool.c": pool, "norm.c": norm}

        def flags_of(source):
            name = Path(source).name
            if name == "_kernels.c":
                return glue
            return [*(straight if name in STRAIGHT else loop), *special.get(name, [])]

        self.compiler.compile = side_by_side(self.compiler.compile, flags_of)
        super().build_extensions()

    def working(self, flags, link=False):
        """Those of ``flags`` that the compiler takes."""
        return [flag for flag in flags if self.compiles("int main(void) { return 0; }", flag, link=link)]

    def thread_flags(self):
        """Flags that make threads work, or an empty list where nothing does."""
        return ["-pthread"] if self.compiles(THREADS_PROBE, "-pthread", link=True) else []

    def compiles(self, code, *flags, link=False):
        """Whether the compiler takes ``code`` with ``flags`` without a warning."""
        strict = [] if self.compiler.compiler_type == "msvc" else ["-Werror"]
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "probe.c")
            source.write_text(code)
            try:
                objects = self.compiler.compile([str(source)], output_dir=folder, extra_postargs=[*flags, *strict])
                if link:
                    linking = [*flags, *shlex.split(os.environ.get("LDFLAGS", ""))]
                    self.compiler.link_executable(objects, "probe", output_dir=folder, extra_postargs=linking)
            except Exception:  # CompileError or LinkError of whichever distutils is in use
                return False
        return True


extension = Extension(
    "xpconv._cpu._kernels",
    [f"{KERNELS}/{name}" for name in SOURCES],
    include_dirs=[KERNELS],
    depends=[str(path) for path in sorted(Path(KERNELS).iterdir()) if path.suffix in (".h", ".pxi")],
)

setup(
    packages=[*find_packages(include=["xpconv", "xpconv.*"]), "xpconv._cuda"],
    py_modules=["_xpconv_launcher"],
    package_dir={"xpconv": "xpconv", "xpconv._cuda": "kernels/cuda"},
    package_data={
        "xpconv": ["py.typed", "**/*.pyi", "data/bundled/**/*", "report/static/*", "testing/cuda_host/*.cuh"],
        "xpconv._cuda": ["*.cu", "*.cuh"],
    },
    include_package_data=False,  # a wheel holds what is named above, not whatever MANIFEST.in puts into the sdist
    ext_modules=cythonize(
        [extension],
        build_dir="build/cython",
        compiler_directives={
            "language_level": 3,
            "boundscheck": False,
            "wraparound": False,
            "cdivision": True,
            "initializedcheck": False,
            # nobody pickles, inspects or binds to classes what only xpconv calls: smaller without
            "auto_pickle": False,
            "binding": False,
            # the pool and the arena have locks of their own; only a serial build leans on the interpreter's
            "freethreading_compatible": not SERIAL,
        },
    ),
    cmdclass={"build_ext": BuildExt},
)
