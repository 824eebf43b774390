#!/usr/bin/env bash
# Install everything into .venv: both frameworks and the plugins. Run again, it does nothing.
#
# usage: [PYTHON=INTERPRETER] [VENV=FOLDER] bash scripts/install.sh [--dev]
#
#   --dev    the test tools as well
#   PYTHON   interpreter, 3.11 or 3.12; the first one found by default
#   VENV     folder of the environment, .venv by default
#
# example: PYTHON=python3.12 bash scripts/install.sh --dev
set -euo pipefail
show_help() { awk 'NR > 1 && !/^#/ { exit } NR > 1 { sub(/^# ?/, ""); print }' "$0"; exit; } # the lines above

requirements=(requirements.txt)
for argument in "$@"; do
    case "$argument" in
        -h | --help) show_help ;;
        --dev) requirements+=(requirements-dev.txt) ;;
        *) echo "error: unknown option '$argument'; usage: bash scripts/install.sh [--dev]" >&2; exit 2 ;;
    esac
done

cd "$(dirname "$0")/.."
venv=${VENV:-.venv}
find_python() {
    for candidate in ${PYTHON:-python3.11 python3.12 python3}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "error: Python 3.11 or 3.12 is needed; install one, or name it: PYTHON=/path/to/python bash scripts/install.sh" >&2
    exit 2
}

# What was installed is remembered by content: the same files again are not installed again.
wanted=$(cat "${requirements[@]}" pyproject.toml scripts/install.sh | sha256sum | cut -d' ' -f1)
stamp="$venv/.gream-installed"
if [ -x "$venv/bin/python" ] && grep -qxF "$wanted" "$stamp" 2>/dev/null; then
    exit 0
fi

start=$SECONDS
step() { echo "install [$((SECONDS - start)) s]: $*"; }
python=$(find_python)
if ! "$venv/bin/python" -c '' 2>/dev/null; then
    step "virtual environment in $venv ($("$python" --version))"
    "$python" -m venv --clear "$venv"
fi
pip() { "$venv/bin/python" -m pip --disable-pip-version-check "$@"; }

# torch first and with its dependencies: they differ by platform. Everything else is pinned whole, so nothing is resolved:
# the frameworks' own requirements contradict each other on paper, this set runs both.
step "torch"
pip install --quiet "$(grep '^torch==' requirements.txt)"
for file in "${requirements[@]}"; do
    step "$file ($(grep -c '==' "$file") packages)"
    pip install --quiet --no-deps -r "$file"
done
if ! "$venv/bin/python" -c 'import sys, torch; sys.exit(torch.version.cuda is None)'; then
    # torchaudio's wheels hold CUDA libraries that a CPU build of torch cannot load; without them it works in Python.
    rm -f "$venv"/lib/python3.*/site-packages/torchaudio/lib/*.so
fi
step "gream"
pip install --quiet --no-deps --no-build-isolation -e .
# A stamp for the longer list also vouches for the shorter one.
cat requirements.txt pyproject.toml scripts/install.sh | sha256sum | cut -d' ' -f1 > "$stamp"
echo "$wanted" >> "$stamp"
step "done"
