#!/usr/bin/env bash
# Make .venv with the newest Python here, and install linft in it, editable, at the versions it is tested with:
#
#     scripts/install.sh [EXTRAS]    dev by default
set -euo pipefail

if ! .venv/bin/python -c '' 2>/dev/null; then
    python=$(bash scripts/python.sh)
    "$python" -m venv --clear .venv
fi
versions=$(.venv/bin/python -c 'import sys; print("py311" if sys.version_info < (3, 12) else "py312")')
install() {
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint "constraints/$versions.txt" "$@"
}
install --editable ".[${1:-dev}]"
install --no-deps neural-tangents frozendict  # neural-tangents declares TensorFlow, which linft never imports
