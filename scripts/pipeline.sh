# shellcheck shell=bash
# The way from interactions to a table, shared by the scripts that choose its settings; sourced by them. They set
#
#   run, recipe     run folder, below $runs, and data recipe
#   overwrite       (--overwrite), or nothing
#
# and, where it differs from what stands here:

runs=${GREAM_RUNS:-runs} # folder of all run folders; tests have one of their own
dry_run=                # not empty: commands are printed and none is run
launcher=(python -m)    # runs a module on every GPU
trainer=()              # stands before llamafactory-gream
platform=()             # NAME=VALUE in verl's environment
inputs=()               # --input FILE, further ones of the next 'sft' or 'srpo'
asked=(--exclude-history) # options of each evaluation of a model: as the baselines are asked, no item twice
reasoning=()            # and of those after a chain
sft_settings=()         # KEY=VALUE of both SFT recipes
rl_settings=()          # and of SRPO's

cut_short() { # for --tiny: the same stages in few steps, with a model that no figure is worth mentioning of
    recipe=recipes/data/tiny.yaml
    sft_settings=(max_steps=10 per_device_train_batch_size=32)
    rl_settings=(trainer.total_training_steps=2 trainer.test_freq=2 data.train_batch_size=4
        actor_rollout_ref.actor.ppo_mini_batch_size=4 actor_rollout_ref.rollout.n=4)
    reasoning=(--chain-tokens 96)
    platform=(VERL_PLATFORM=cpu)
}

fail() { echo "error: $*" >&2; exit 2; }

enter() { # [--gpu]: the environment that everything below runs in, installed where it is missing
    local venv=${VENV:-.venv}
    # What GPUs need is large: it is used where somebody has asked for it, and the checks say so where nobody has.
    [ -z "${1:-}" ] || [ -n "${VENV:-}" ] || [ ! -d .venv-gpu ] || venv=.venv-gpu
    if grep -qx 'set gpu' "$venv/.gream-installed" 2> /dev/null; then set -- --gpu; else set --; fi
    VENV=$venv bash scripts/install.sh "$@"
    # shellcheck source=/dev/null
    source "$venv/bin/activate"
    # shellcheck source=scripts/environment.sh
    source scripts/environment.sh
}

number=0
title() { number=$((number + 1)); printf '\n== %d. %s\n' "$number" "$1"; }
show() { printf '$'; printf ' %q' "$@"; echo; [ -n "$dry_run" ] || "$@"; }
data() { show python -m data_processing "$@" --config "$recipe" --run "$run" "${overwrite[@]}"; }
evaluate() { show python -m eval "$@" --run "$run" "${overwrite[@]}"; }
on_all_gpus() { show "${launcher[@]}" "$@" --run "$run" "${overwrite[@]}"; } # MODULE ARGUMENT...

stage() { # NAME OPTION... -- COMMAND..., a framework's own command; 'gream stage' prints it where it runs
    if [ -z "$dry_run" ]; then
        python -m gream stage "$1" --run "$run" "${inputs[@]}" "${overwrite[@]}" "${@:2}"
        return
    fi
    while [ "$1" != -- ]; do shift; done
    shift
    show "${@//'{out}'/"$run"}"
}

sft() { # RECIPE NAME MODEL [KEY=VALUE ...], beside those of sft_settings
    stage "sft-$2" --recipe "recipes/sft/$1.yaml" \
        --input "$run/$3" --input "$run/sft" --output "checkpoints/$2" -- \
        "${trainer[@]}" llamafactory-gream train "recipes/sft/$1.yaml" \
        "model_name_or_path=$run/$3" "dataset_dir=$run/sft" "output_dir={out}/checkpoints/$2" "${@:4}" "${sft_settings[@]}"
}

srpo() { # RECIPE
    stage srpo --recipe "recipes/rl/$1.yaml" \
        --input "$run/checkpoints/reasoning" --input "$run/rl" --input "$run/index.json" --output checkpoints/srpo -- \
        env "${platform[@]}" VERL_USE_EXTERNAL_MODULES=verl_srpo.plugin \
        "VERL_FILE_LOGGER_PATH={out}/checkpoints/srpo/metrics.jsonl" \
        python -m verl.trainer.main_ppo --config-dir recipes/rl --config-name "$1" \
        "algorithm.srpo.catalog=$run/index.json" "actor_rollout_ref.model.path=$run/checkpoints/reasoning" \
        "data.train_files=$run/rl/train.parquet" "data.val_files=$run/rl/val.parquet" \
        "trainer.default_local_dir={out}/checkpoints/srpo" \
        "trainer.validation_data_dir={out}/checkpoints/srpo/validation" "${rl_settings[@]}"
}

evaluate_both_modes() { # before and after SRPO
    local checkpoints=("$run/checkpoints/reasoning")
    # Planned only, there may be no checkpoint yet.
    if [ -z "$dry_run" ] || [ -d "$run/checkpoints/srpo" ]; then
        checkpoints+=("$(python -m gream checkpoint "$run/checkpoints/srpo")")
    else
        checkpoints+=("$run/checkpoints/srpo/global_step_N/actor/huggingface")
    fi
    on_all_gpus eval direct --checkpoint "${checkpoints[0]}" --name direct-sft "${asked[@]}"
    on_all_gpus eval direct --checkpoint "${checkpoints[1]}" --name direct-srpo "${asked[@]}"
    on_all_gpus eval reasoning --checkpoint "${checkpoints[0]}" --name reasoning-sft "${asked[@]}" "${reasoning[@]}"
    on_all_gpus eval reasoning --checkpoint "${checkpoints[1]}" --name reasoning-srpo "${asked[@]}" "${reasoning[@]}"
    # With the counted transitions: worth what it is ahead of them, and of the model alone.
    on_all_gpus eval direct --checkpoint "${checkpoints[1]}" --name direct-fused --fuse transitions "${asked[@]}"
    evaluate rewards
}
