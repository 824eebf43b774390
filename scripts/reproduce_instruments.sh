#!/usr/bin/env bash
# GREAM on Amazon Musical Instruments (2018), the paper's settings: from the dump to the table. scripts/reproduce.sh says how.
set -euo pipefail
name=instruments
layouts=(
    amazon-2018 Musical_Instruments_5.json meta_Musical_Instruments.json
    published Instruments.inter.json Instruments.item.json
    published Instruments.inter.json Instruments.item2id
)
counts=(24772 9922 206153 65380)
published="Julian McAuley's group at UC San Diego publishes the Amazon reviews of 2018"
# shellcheck source=scripts/reproduce.sh
source "$(dirname "$0")/reproduce.sh"
