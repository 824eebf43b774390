#!/usr/bin/env bash
# Install with the test tools, then lint, type-check and test. GREAM_REAL_DATA names a folder of real data for the tests
# that need it; without it they are skipped. Arguments, where given, go to pytest.
set -euo pipefail
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
# File by file on two processes, a thread each; then the quickstart, which has both cores for itself.
OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder \
    --ignore tests/test_quickstart.py
python -m pytest tests/test_quickstart.py
