#!/usr/bin/env bash
# Print the path of the newest Python that linft supports and that runs here; or of one version only:
#
#     scripts/python.sh [3.12]
#
# Being on PATH is not enough: a pyenv shim answers "command not found" for a version that is
# installed but not selected, and some systems ship a Python that cannot make a virtual environment.
set -euo pipefail

works() { "$1" -c 'import ensurepip, venv, sys; print(sys.executable)' 2>/dev/null; }

for version in ${1:-3.13 3.12 3.11}; do
    works "python$version" && exit
    if command -v pyenv >/dev/null; then
        for path in $(ls -d "$(pyenv root)/versions/$version".*/bin/python 2>/dev/null | sort -rV); do
            works "$path" && exit
        done
    fi
done
echo "no Python ${1:-3.11, 3.12 or 3.13} that runs and can make virtual environments; install one" >&2
exit 1
