#!/usr/bin/env bash
# Install with the test tools, then lint, type-check and test.
#
# usage: [GREAM_REAL_DATA=FOLDER] bash scripts/test.sh [PYTEST ARGUMENTS]
#
#   GREAM_REAL_DATA    folder of real data, for the tests that need some; without it they are skipped
#   PYTEST ARGUMENTS   for pytest, in place of all tests
#
# example: bash scripts/test.sh tests/test_semantic_ids.py -x
set -euo pipefail
show_help() { awk 'NR > 1 && !/^#/ { exit } NR > 1 { sub(/^# ?/, ""); print }' "$0"; exit; } # the lines above
case "${1:-}" in -h | --help) show_help ;; esac
cd "$(dirname "$0")/.."

bash scripts/install.sh --dev
# shellcheck source=/dev/null
source "${VENV:-.venv}/bin/activate"

ruff check .
ruff format --check .
mypy
if [ $# -gt 0 ]; then
    exec python -m pytest "$@"
fi
# File by file on two processes, a thread each; the longest files first (tests/conftest.py).
OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder
