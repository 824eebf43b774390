#!/usr/bin/env bash
# GREAM on Amazon Beauty (2014), the paper's settings: from the dump to the table. scripts/reproduce.sh says how.
set -euo pipefail
name=beauty
layouts=(
    amazon-2014 reviews_Beauty_5.json meta_Beauty.json
    published Beauty.inter.json Beauty.item.json
)
counts=(22363 12101 198502 71486)
published="Julian McAuley's group at UC San Diego publishes the Amazon reviews of 2014"
# shellcheck source=scripts/reproduce.sh
source "$(dirname "$0")/reproduce.sh"
