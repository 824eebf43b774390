#!/usr/bin/env bash
# Prove of the packages for GPUs what a machine without a GPU can: they fit, and recipes and plugins work with them.
#
# usage: [VENV=FOLDER] bash scripts/gpu_proofs.sh
#
#   VENV   folder of scripts/install.sh --gpu --dev, .venv-gpu by default
#
# 'pip check', the plugins' unit tests, every recipe by both frameworks' own parsers and by verl's launch code to an
# engine of vLLM's, a ZeRO-2 step of two ranks, packed rows by verl's own FSDP2 engine, LoRA. Needs cc and nm.
#
# example: VENV=/data/gream-gpu bash scripts/gpu_proofs.sh
set -euo pipefail
show_help() { awk 'NR > 1 && !/^#/ { exit } NR > 1 { sub(/^# ?/, ""); print }' "$0"; exit; } # the lines above
case "${1:-}" in -h | --help) show_help ;; esac
cd "$(dirname "$0")/.."

python=${VENV:-.venv-gpu}/bin/python
if ! "$python" -c 'import pytest' 2> /dev/null; then
    echo "error: $python: no environment with the test tools; bash scripts/install.sh --gpu --dev" >&2
    exit 2
fi
export CUDA_VISIBLE_DEVICES="" OMP_NUM_THREADS=1
set -x
"$python" -m pip check
"$python" -m pytest -m "not slow and not e2e" tests/test_srpo_*.py tests/test_llamafactory_plugin.py
"$python" -m pytest -m slow -rA tests/test_gpu_environment.py tests/test_srpo_packed.py tests/test_lora.py
