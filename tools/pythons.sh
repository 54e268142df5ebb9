#!/bin/sh
# Run the pure tests, the store's (on SQLite) and the HTTP side's on every other Python that Postroom declares, where it is
# present.
set -eu

find_python() { # version
    for candidate in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$1".*/bin/python; do
        path=$(command -v "$candidate" 2>/dev/null) || continue
        "$path" -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$1')" 2>/dev/null || continue
        echo "$path"
        return
    done
}

for version in 3.12 3.13; do
    python=$(find_python "$version")
    if [ -z "$python" ]; then
        echo "Python $version is not here; its tests are left out"
        continue
    fi
    echo "== Python $version"
    make --no-print-directory VENV=".venv-$version" PYTHON="$python" \
        TESTS="-k 'not postgres' tests/unit tests/store tests/smtp tests/http tests/migrations" test
done
