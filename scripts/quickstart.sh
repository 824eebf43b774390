#!/usr/bin/env bash
# From raw reviews to recommendations with reasoning, on a machine without a GPU. Interrupted, it goes on where it was;
# run again unchanged, it only prints the table.
#
# usage: bash scripts/quickstart.sh [--base MODEL] [--reviews R --meta M (--name NAME | --run FOLDER)] [--recipe FILE]
#                                   [--tiny] [--overwrite]
#
#   --base MODEL     a pretrained model in place of a tiny one made from nothing: smollm2, which is fetched (93 MB), or the
#                    folder of another one of its size; an hour in place of minutes (docs/pretrained.md)
#   --reviews FILE   your reviews, in the format of the Amazon dumps of 2018; an invented shop's by default
#   --meta FILE      their metadata
#   --name NAME      run folder runs/NAME for them
#   --run FOLDER     or another run folder
#   --recipe FILE    data recipe, for tables of another format; 'gream shop ORDERS PRODUCTS' writes one and calls this script
#   --tiny           all stages with few users and steps, in some five minutes: whether everything works here
#   --overwrite      replace what another configuration made
#
# GREAM_RUNS names another folder than runs/ for run folders.
#
# example: bash scripts/quickstart.sh --reviews Gift_Cards_5.json.gz --meta meta_Gift_Cards.json.gz --name gifts
set -euo pipefail
show_help() { awk 'NR > 1 && !/^#/ { exit } NR > 1 { sub(/^# ?/, ""); print }' "$0"; exit; } # the lines above
case " $* " in *" -h "* | *" --help "*) show_help ;; esac
original=$PWD
cd "$(dirname "$0")/.."
# shellcheck source=scripts/pipeline.sh
source scripts/pipeline.sh

usage="usage: bash scripts/quickstart.sh [--base MODEL] [--reviews R --meta M (--name NAME | --run FOLDER)] [--recipe FILE]"
usage+=" [--tiny] [--overwrite]"
base=
tiny=
name=
run=
recipe=
reviews=
meta=
overwrite=()
while [ $# -gt 0 ]; do
    case "$1" in
        --base | --reviews | --meta | --name | --run | --recipe)
            [ $# -ge 2 ] || fail "$1 needs a value; $usage"
            printf -v "${1#--}" '%s' "$2"
            shift 2
            ;;
        --tiny) tiny=yes; shift ;;
        --overwrite) overwrite=(--overwrite); shift ;;
        *) fail "unknown option '$1'; $usage" ;;
    esac
done
[[ $name =~ ^[A-Za-z0-9_.-]*$ ]] || fail "--name '$name': letters, digits, '-', '_' and '.' only"
if [ "$original" != "$PWD" ]; then # paths are those of whoever calls
    for option in reviews meta run recipe base; do
        [ -z "${!option}" ] || [ "$option ${!option}" = "base smollm2" ] ||
            printf -v "$option" '%s' "$(cd "$original" && realpath -ms -- "${!option}")"
    done
fi
if [ -n "$reviews$meta" ]; then
    [ -n "$reviews" ] && [ -n "$meta" ] && [ "${name:-quickstart}${run}" != quickstart ] ||
        fail "--reviews, --meta and --name go together, or --run in its place; $usage"
fi
[ -z "$tiny" ] || [ -z "$base$recipe" ] || fail "--tiny has its own model and recipe: leave out --base and --recipe"

enter
recipes=quickstart
model=()
if [ -n "$base" ]; then
    recipes=smollm2 # of all three kinds
    if [ "$base" = smollm2 ]; then
        base=models/smollm2
        show gream model get smollm2 --to "$base"
    fi
    model=(--base "$base")
    asked+=(--users 150)
    reasoning=(--chain-tokens 160)
fi
if [ -n "$tiny" ]; then
    cut_short
    run=${run:-$runs/${name:-quickstart-tiny}}
fi
run=${run:-$runs/${name:-$recipes}} recipe=${recipe:-recipes/data/$recipes.yaml}
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
data model "${model[@]}"

title "SFT with LLaMA-Factory: alignment, then the reasoning curriculum"
sft "${recipes}_alignment" alignment model
sft "${recipes}_reasoning" reasoning checkpoints/alignment

title "SRPO with verl"
srpo "$recipes"

title "Evaluation: direct and reasoning, beside baselines on the same split"
evaluate baselines
evaluate_both_modes

title "Results"
evaluate report
show python -m eval table --run "$run"
echo
echo "report: $run/report.html    (whole run: $((SECONDS - began)) s)"
