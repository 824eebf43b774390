#!/usr/bin/env bash
# From raw reviews to recommendations with reasoning, on a machine without a GPU. Interrupted, it goes on where it was;
# run again unchanged, it only prints the table.
#
# usage: bash scripts/quickstart.sh [--reviews R --meta M (--name NAME | --run FOLDER)] [--recipe FILE] [--overwrite]
#
#   --reviews FILE   your reviews, in the format of the Amazon dumps of 2018; an invented shop's by default
#   --meta FILE      their metadata
#   --name NAME      run folder runs/NAME for them
#   --run FOLDER     or another run folder
#   --recipe FILE    data recipe, for tables of another format; 'gream shop ORDERS PRODUCTS' writes one and calls this script
#   --overwrite      replace what another configuration made
#
# GREAM_RUNS names another folder than runs/ for run folders.
#
# example: bash scripts/quickstart.sh --reviews Gift_Cards_5.json.gz --meta meta_Gift_Cards.json.gz --name gifts
set -euo pipefail
show_help() { awk 'NR > 1 && !/^#/ { exit } NR > 1 { sub(/^# ?/, ""); print }' "$0"; exit; } # the lines above
case " $* " in *" -h "* | *" --help "*) show_help ;; esac
cd "$(dirname "$0")/.."
# shellcheck source=scripts/pipeline.sh
source scripts/pipeline.sh

usage="usage: bash scripts/quickstart.sh [--reviews R --meta M (--name NAME | --run FOLDER)] [--recipe FILE] [--overwrite]"
name=
run=
recipe=recipes/data/quickstart.yaml
reviews=
meta=
overwrite=()
while [ $# -gt 0 ]; do
    case "$1" in
        --reviews | --meta | --name | --run | --recipe)
            [ $# -ge 2 ] || fail "$1 needs a value; $usage"
            printf -v "${1#--}" '%s' "$2"
            shift 2
            ;;
        --overwrite) overwrite=(--overwrite); shift ;;
        *) fail "unknown option '$1'; $usage" ;;
    esac
done
if [ -n "$reviews$meta" ]; then
    [ -n "$reviews" ] && [ -n "$meta" ] && [ "${name:-quickstart}${run}" != quickstart ] ||
        fail "--reviews, --meta and --name go together, or --run in its place; $usage"
fi

enter
run=${run:-$runs/${name:-quickstart}}
platform=(VERL_PLATFORM=cpu)
began=$SECONDS

title "Interactions: filtered, chronological, leave-one-out"
if [ -n "$reviews" ]; then
    data interactions --reviews "$reviews" --metadata "$meta"
else
    data synthesize
    data interactions
fi

title "Item text, embeddings, semantic ids"
data enrich
data embed
data semantic-ids

title "Training rows, prompts, a language model that knows the ids"
data sft
data rl
data model

title "SFT with LLaMA-Factory: alignment, then the reasoning curriculum"
sft quickstart_alignment alignment model
sft quickstart_reasoning reasoning checkpoints/alignment

title "SRPO with verl"
srpo quickstart

title "Evaluation: direct and reasoning, beside baselines on the same split"
evaluate baselines
evaluate_both_modes

title "Results"
evaluate report
show python -m eval table --run "$run"
echo
echo "report: $run/report.html    (whole run: $((SECONDS - began)) s)"
