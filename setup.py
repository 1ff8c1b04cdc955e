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

KERNELS = "kernels/cpu"
SOURCES = [
    "_kernels.pyx", "threads.c", "arena.c", "isa.c", "columns.c", "direct.c", "depthwise.c", "winograd.c", "blocked.c",
    "pool.c", "norm.c", "norm_rows.c", "dropout.c", "activation.c", "optim.c", "loss.c", "linear.c",
]  # fmt: skip

# No -march: a wheel has to run on every machine of its architecture. No fast-math either; these two flags only say
# that nobody reads errno or floating-point exception flags, so that loops with comparisons vectorise. Contraction to
# fused multiply-add is off, so that one source gives the same bits on every architecture.
FLAGS = ["-O3", "-g0", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-fvisibility=hidden"]
MSVC_FLAGS = ["/O2", "/std:c11"]

THREADS_PROBE = """
#include <pthread.h>
#include <stdatomic.h>
static void *nothing(void *argument) { return argument; }
int main(void) {
    pthread_t thread;
    atomic_int number = 0;
    atomic_fetch_add(&number, 1);
    return pthread_create(&thread, 0, nothing, 0) || pthread_join(thread, 0);
}
"""

# One function for two instruction sets, the loader picks; takes GCC or Clang, x86-64 and glibc.
CLONES_PROBE = """
__attribute__((target_clones("avx2", "default"))) static int twice(int number) { return 2 * number; }
static int call(int (*function)(int), int number) { return function(number); }
int main(int count, char **values) { (void)values; return call(twice, count) == 0; }
"""


def side_by_side(compile):
    """``compile(sources, ...)`` with a compiler for every core: most of the kernels are compiled six times over."""

    def compile_all(sources, *arguments, **options):
        first, *others = sources  # makes the folder for all objects
        objects = compile([first], *arguments, **options)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for more in pool.map(lambda source: compile([source], *arguments, **options), others):
                objects += more
        return objects

    return compile_all


class BuildExt(build_ext):
    """build_ext that asks the compiler what it can do first."""

    def build_extensions(self):
        """Add the flags that work, then build."""
        msvc = self.compiler.compiler_type == "msvc"
        flags = MSVC_FLAGS if msvc else [flag for flag in FLAGS if self.compiles("int main(void) { return 0; }", flag)]
        serial = os.environ.get("XPCONV_SERIAL", "0") not in ("", "0")
        threads = [] if serial else self.thread_flags()
        clones = self.compiles(CLONES_PROBE, link=True)
        for extension in self.extensions:
            if threads:
                extension.define_macros.append(("XPC_THREADS", "1"))
            if clones:
                extension.define_macros.append(("XPC_TARGET_CLONES", "1"))
            extension.extra_compile_args += [*flags, *threads, *shlex.split(os.environ.get("CFLAGS", ""))]
            extension.extra_link_args += threads
        if not threads:
            print("xpconv: building serial kernels" + ("" if serial else ", the compiler has no POSIX threads"))
        self.compiler.compile = side_by_side(self.compiler.compile)
        super().build_extensions()

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
        },
    ),
    cmdclass={"build_ext": BuildExt},
)
