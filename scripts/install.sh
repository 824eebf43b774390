#!/usr/bin/env bash
# Install both frameworks and the plugins into a folder of their own. Run again, it does nothing; interrupted, it goes on.
#
# usage: [PYTHON=INTERPRETER] [VENV=FOLDER] bash scripts/install.sh [--gpu | --sglang] [--dev]
#
#   --gpu    for NVIDIA GPUs, into .venv-gpu: CUDA builds, vLLM, DeepSpeed and Liger, 10 GB
#   --sglang SGLang and its plugin, into .venv-sglang; without a GPU with a stand-in for its kernels (tests/sglang_cpu),
#            which is for tests, 3.4 GB
#   --dev    the test tools as well
#   PYTHON   interpreter, 3.11 or 3.12; the first one found by default
#   VENV     folder of the environment, .venv by default; a folder holds one set of packages for good
#
# Every package is pinned with its hashes (requirements/, scripts/pins.sh). uv installs them where it is at hand, else pip.
#
# example: PYTHON=python3.12 bash scripts/install.sh --dev
set -euo pipefail
show_help() { awk 'NR > 1 && !/^#/ { exit } NR > 1 { sub(/^# ?/, ""); print }' "$0"; exit; } # the lines above
fail() { echo "error: $*" >&2; exit 2; }

set=cpu
dev=
for argument in "$@"; do
    case "$argument" in
        -h | --help) show_help ;;
        --gpu) set=gpu ;;
        --sglang) if nvidia-smi -L > /dev/null 2>&1; then set=sglang; else set=sglang-cpu; fi ;;
        --dev) dev=yes ;;
        *) fail "unknown option '$argument'; usage: bash scripts/install.sh [--gpu | --sglang] [--dev]" ;;
    esac
done
case "$set" in # folder, and GB of disk that it needs
    cpu) venv=${VENV:-.venv} room=3 ;;
    gpu) venv=${VENV:-.venv-gpu} room=12 ;;
    sglang) venv=${VENV:-.venv-sglang} room=12 ;;
    sglang-cpu) venv=${VENV:-.venv-sglang} room=4 ;;
esac
cd "$(dirname "$0")/.."
files=("requirements/$set.txt" ${dev:+requirements/dev.txt})

# The stamp says whose set the folder holds from its first moment, and by content what has been installed.
stamp=$venv/.gream-installed
if [ -e "$stamp" ]; then
    held=$(sed -n 's/^set //p' "$stamp")
    [ "${held:-cpu}" = "$set" ] || fail "$venv holds the set '${held:-cpu}': name another folder for '$set', VENV=FOLDER"
elif [ -e "$venv" ] && [ ! -e "$venv/pyvenv.cfg" ] && [ -n "$(ls -A "$venv" 2> /dev/null || echo file)" ]; then
    fail "$venv is there and is no virtual environment: remove it, or name another folder, VENV=FOLDER"
fi
# What somebody has removed, or a full disk has cut short, is found by its absence: a stamp alone proves nothing.
complete() { "$venv/bin/python" -I scripts/installed.py "$@"; }
wanted=$(cat "${files[@]}" pyproject.toml scripts/install.sh | sha256sum | cut -d' ' -f1)
if grep -qxF "$wanted" "$stamp" 2> /dev/null && complete "${files[@]}" 2> /dev/null; then
    exit 0
fi

find_python() {
    for candidate in ${PYTHON:-python3.11 python3.12 python3}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2> /dev/null; then
            echo "$candidate"
            return
        fi
    done
    fail "Python 3.11 or 3.12 is needed: install one, or name it, PYTHON=/path/to/python bash scripts/install.sh"
}

log=$(mktemp)
trap 'rm -f "$log"' EXIT
try() { # COMMAND..., whose output is shown only where it fails
    "$@" > "$log" 2>&1 && return
    tail -n 20 "$log" | sed 's/^/  | /' >&2
    if grep -qiE 'no space left|disk quota' "$log"; then
        fail "the disk is full: $room GB are needed for $venv, and room for temporary files in ${TMPDIR:-/tmp}"
    elif grep -qiE 'do not match the hashes|hash mismatch' "$log"; then
        fail "a package is not the one that was pinned: its index offers another build; nothing of it was installed"
    elif grep -qiE 'resolve|connection|network|timed? ?out|proxy|unreachable|error sending request' "$log"; then
        fail "no package index answered: connect to a network, or point pip or uv to a mirror, and run this again"
    fi
    fail "'$(printf '%.60s' "$*")' failed, see above; mend it and run this again, or start anew: rm -r $venv"
}

start=$SECONDS
step() { echo "install [$((SECONDS - start)) s]: $*"; }
if ! "$venv/bin/python" -m pip --version > /dev/null 2>&1; then
    python=$(find_python)
    step "virtual environment in $venv ($("$python" --version))"
    above=$venv
    until [ -e "$above" ]; do above=$(dirname "$above"); done
    free=$(($(df -Pk "$above" | awk 'NR == 2 { print $4 }') / 1000000))
    [ "$free" -ge "$room" ] || fail "$venv needs $room GB of disk, $free are free: make room, or VENV=FOLDER elsewhere"
    try "$python" -m venv --clear "$venv"
    echo "set $set" > "$stamp"
fi
pip=("$venv/bin/python" -m pip --disable-pip-version-check --no-input)
# What is imported is compiled then; to compile all 24,000 files now takes a minute and a half of a core.
tool=("${pip[@]}" install --no-compile)
if command -v uv > /dev/null; then
    tool=(uv pip install --python "$venv/bin/python")
fi

# A set is complete, so nothing is resolved: what the frameworks ask for contradicts itself on paper.
for file in "${files[@]}"; do
    step "$file ($(grep -c '^[^ #]' "$file") packages, by $([ "${tool[0]}" = uv ] && echo uv || echo pip))"
    try "${tool[@]}" --quiet --no-deps --require-hashes -r "$file"
done
if [[ $set == *cpu ]]; then
    # By version, without a hash, and by pip, which knows where this machine's builds are (requirements/cpu.in).
    torch=$(grep '^torch==' requirements/cpu.in)
    step "$torch"
    try "${pip[@]}" install --no-compile --quiet "$torch"
    if ! "$venv/bin/python" -c 'import sys, torch; sys.exit(torch.version.cuda is None)'; then
        # torchaudio's wheels hold CUDA libraries that a CPU build of torch cannot load; without them it works in Python.
        rm -f "$venv"/lib/python3.*/site-packages/torchaudio/lib/*.so
    fi
fi
if [ "$set" = sglang-cpu ]; then
    step "no GPU: a stand-in for SGLang's kernels, for tests (tests/sglang_cpu)"
    try "${pip[@]}" install --quiet --no-deps --no-build-isolation ./tests/sglang_cpu
fi
step "gream"
try "${pip[@]}" install --quiet --no-deps --no-build-isolation -e .
try complete "${files[@]}"
# A stamp for the longer list also vouches for the shorter one.
{
    echo "set $set"
    cat "${files[0]}" pyproject.toml scripts/install.sh | sha256sum | cut -d' ' -f1
    echo "$wanted"
} > "$stamp"
step "done"
