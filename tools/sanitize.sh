#!/usr/bin/env bash
# Build the CPU kernels with AddressSanitizer and UndefinedBehaviorSanitizer, then with ThreadSanitizer, and run their
# tests on them, all in a temporary folder: neither the source tree nor the installed package is touched.
#
#   bash tools/sanitize.sh            both
#   bash tools/sanitize.sh address    one of them: address or thread
#   SANITIZE_BUILD=FOLDER bash tools/sanitize.sh    keeps what was built there, for the next time
#
# By hand, for one test, after such a build:
#   LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)" ASAN_OPTIONS=detect_leaks=0 \
#     PYTHONPATH=FOLDER/address/lib python -m pytest tests/cpu -k NAME
#
# The interpreter is not instrumented, so the sanitizers' libraries have to be there before it starts. Leaks are not
# looked for: Python keeps memory until its end. NumPy is not instrumented either: what its threads do is no race of ours.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
if [ -n "${SANITIZE_BUILD:-}" ]; then
  mkdir -p "$SANITIZE_BUILD" && work=$(cd "$SANITIZE_BUILD" && pwd)
else
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
fi
compiler=${CC:-gcc}
export OPENBLAS_NUM_THREADS=1 PYTHONMALLOC=malloc

build() { # flags
  # no clones: their resolvers run before the sanitizers are ready
  CFLAGS="-g -O1 -fno-omit-frame-pointer -UXPC_TARGET_CLONES -DXPC_FRESH_MEMORY $1" LDFLAGS="$1" \
    python setup.py -q build --build-base "$work/$2" --build-lib "$work/$2/lib" >"$work/$2.log" 2>&1 ||
    { cat "$work/$2.log"; exit 1; }
}

run() { # libraries, name
  local preload=""
  for library in $1; do preload+=" $($compiler -print-file-name="$library")"; done
  # pytest -s: what a sanitizer has to say must not end in the capture of a test that it kills
  # away from the source tree, so that the instrumented package is the one that is imported
  rm -rf "$work/$2/tests"
  cp -r "$root/tests" "$root/pyproject.toml" "$work/$2/"
  cd "$work/$2"
  LD_PRELOAD="${preload# }" PYTHONPATH="$work/$2/lib" python -c '
import sys; from xpconv._cpu import _kernels
assert _kernels.__file__.startswith(sys.argv[1]), _kernels.__file__' "$work"
  LD_PRELOAD="${preload# }" PYTHONPATH="$work/$2/lib" python -m pytest tests/cpu -q -s -p no:cacheprovider "${@:3}"
  cd "$root"
}

for kind in ${1:-address thread}; do
  echo "=== $kind ==="
  case $kind in
  address)
    build "-fsanitize=address,undefined -fno-sanitize-recover=undefined" address
    # Without the tests of memory that is used again: here it never is, so that what is freed is watched. Others ask
    # for more memory than there is, and get the MemoryError of an allocator that returns null
    ASAN_OPTIONS=detect_leaks=0:abort_on_error=1:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1 \
      run "libasan.so libubsan.so" address -k "not memory_comes_back and not what_is_kept and not many_sizes"
    ;;
  thread)
    build "-fsanitize=thread" thread
    # without the tests that fork with threads running, which ThreadSanitizer cannot follow, and the one that counts
    # the threads of the process, of which ThreadSanitizer has one itself
    TSAN_OPTIONS=halt_on_error=1 run "libtsan.so" thread -k "not Fork and not together and not helpers_start"
    ;;
  *)
    echo "address or thread, not $kind" >&2
    exit 2
    ;;
  esac
done
