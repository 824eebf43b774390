#!/usr/bin/env bash
# Install with the test tools, then lint, type-check and test. GREAM_REAL_DATA names a folder of real data for the tests
# that need it; without it they are skipped. Further arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."

bash scripts/install.sh --dev
# shellcheck source=/dev/null
source "${VENV:-.venv}/bin/activate"

ruff check .
ruff format --check .
mypy
python -m pytest "$@"
