#!/bin/sh
# Run the tests that need no server on every other Python that Postroom declares, each in an environment of its own.
# A Python that is not here is left out, or, with POSTROOM_REQUIRE_PYTHONS=1, fails the run.
set -eu

find_python() { # version
    for candidate in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$1".*/bin/python; do
        path=$(command -v "$candidate" 2>/dev/null) || continue
        "$path" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$1')" 2>/dev/null || continue
        echo "$path"
        return
    done
}

missing=
for version in 3.12 3.13; do
    python=$(find_python "$version")
    if [ -z "$python" ]; then
        echo "Python $version is not here; its tests are left out" >&2
        missing="$missing $version"
        continue
    fi
    echo "== Python $version"
    # Bytecode for what is never imported would take longer to make than the tests of the store.
    PIP_COMPILE=0 make --no-print-directory VENV=".venv-$version" PYTHON="$python" \
        TESTS="tests/unit tests/store tests/smtp tests/http" quick
done
if [ -n "$missing" ] && [ "${POSTROOM_REQUIRE_PYTHONS:-}" = 1 ]; then
    echo "POSTROOM_REQUIRE_PYTHONS=1, and these Pythons are not here:$missing" >&2
    exit 1
fi
