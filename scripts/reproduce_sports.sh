#!/usr/bin/env bash
# GREAM on Amazon Sports and Outdoors (2014), the paper's settings: from the dump to the table. scripts/reproduce.sh says how.
set -euo pipefail
name=sports
layouts=(
    amazon-2014 reviews_Sports_and_Outdoors_5.json meta_Sports_and_Outdoors.json
    published Sports.inter.json Sports.item.json
)
counts=(35598 18357 296337 94165)
published="Julian McAuley's group at UC San Diego publishes the Amazon reviews of 2014"
# shellcheck source=scripts/reproduce.sh
source "$(dirname "$0")/reproduce.sh"
