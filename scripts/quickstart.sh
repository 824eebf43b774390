#!/usr/bin/env bash
# From raw reviews to recommendations with reasoning, on a machine without a GPU. Interrupted, it goes on where it was;
# run again unchanged, it only prints the table.
set -euo pipefail
cd "$(dirname "$0")/.."

usage="usage: bash scripts/quickstart.sh [--reviews R.json.gz --meta M.json.gz --name NAME] [--overwrite]"
fail() { echo "error: $*" >&2; exit 2; }
name=quickstart
reviews=
meta=
overwrite=()
while [ $# -gt 0 ]; do
    case "$1" in
        --reviews | --meta | --name)
            [ $# -ge 2 ] || fail "$1 needs a value; $usage"
            printf -v "${1#--}" '%s' "$2"
            shift 2
            ;;
        --overwrite) overwrite=(--overwrite); shift ;;
        *) fail "unknown option '$1'; $usage" ;;
    esac
done
if [ -n "$reviews$meta" ]; then
    [ -n "$reviews" ] && [ -n "$meta" ] && [ "$name" != quickstart ] || fail "--reviews, --meta and --name go together; $usage"
fi

bash scripts/install.sh
# shellcheck source=/dev/null
source "${VENV:-.venv}/bin/activate"
# shellcheck source=scripts/environment.sh
source scripts/environment.sh

run=runs/$name
recipe=recipes/data/quickstart.yaml
began=$SECONDS
number=0
title() { number=$((number + 1)); printf '\n== %d. %s\n' "$number" "$1"; }
show() { echo "\$ $*"; "$@"; }
data() { show python -m data_processing "$@" --config "$recipe" --run "$run" "${overwrite[@]}"; }
evaluate() { show python -m eval "$@" --run "$run" "${overwrite[@]}"; }

title "Interactions: 5-core, chronological, leave-one-out"
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
sft() { # NAME MODEL
    python -m gream stage "sft-$1" --run "$run" --recipe "recipes/sft/quickstart_$1.yaml" \
        --input "$run/$2" --input "$run/sft" --output "checkpoints/$1" "${overwrite[@]}" -- \
        llamafactory-cli train "recipes/sft/quickstart_$1.yaml" \
        "model_name_or_path=$run/$2" "dataset_dir=$run/sft" "output_dir={out}/checkpoints/$1"
}
sft alignment model
sft reasoning checkpoints/alignment

title "SRPO with verl"
python -m gream stage srpo --run "$run" --recipe recipes/rl/quickstart.yaml \
    --input "$run/checkpoints/reasoning" --input "$run/rl" --input "$run/index.json" --output checkpoints/srpo "${overwrite[@]}" -- \
    env VERL_PLATFORM=cpu VERL_USE_EXTERNAL_MODULES=verl_srpo.plugin "VERL_FILE_LOGGER_PATH={out}/checkpoints/srpo/metrics.jsonl" \
    python -m verl.trainer.main_ppo --config-dir recipes/rl --config-name quickstart \
    "algorithm.srpo.catalog=$run/index.json" "actor_rollout_ref.model.path=$run/checkpoints/reasoning" \
    "data.train_files=$run/rl/train.parquet" "data.val_files=$run/rl/val.parquet" \
    "trainer.default_local_dir={out}/checkpoints/srpo" "trainer.validation_data_dir={out}/checkpoints/srpo/validation"

title "Evaluation: direct and reasoning, beside three baselines on the same split"
evaluate baselines
for mode in direct reasoning; do
    evaluate "$mode" --checkpoint "$run/checkpoints/reasoning" --name "$mode-sft"
    evaluate "$mode" --checkpoint "$run/checkpoints/srpo/global_step_22/actor/huggingface" --name "$mode-srpo"
done
evaluate rewards

title "Results"
evaluate report
show python -m eval table --run "$run"
echo
echo "report: $run/report.html    (whole run: $((SECONDS - began)) s)"
