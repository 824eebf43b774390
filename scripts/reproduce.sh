# shellcheck shell=bash
# The paper's chain on one data set, sourced by reproduce_{beauty,sports,instruments}.sh, which set
#
#   name      of the data set; its run folder is runs/NAME
#   layouts   (FORMAT REVIEWS METADATA ...): names of the two files, by layout
#   counts    (USERS ITEMS INTERACTIONS TARGETS) in the paper; targets of SRPO and of chains: at position 4 or later
#   published where the files come from
#
# Interrupted, it goes on where it was; run again unchanged, it only prints the table.

case " $* " in
    *" -h "* | *" --help "*)
        cat << EOF
The paper's chain on $name, from the dump to the table. Interrupted, it goes on where it was; run again unchanged, it only
prints the table.

usage: bash scripts/reproduce_$name.sh [--raw DIR] [--base MODEL] [--gpus N] [--dry-run] [--tiny] [--overwrite]

  --raw DIR      folder of the data set's files, data/$name by default; $published
  --base MODEL   folder of the language model, models/Qwen3-4B-Instruct-2507 by default
  --gpus N       GPUs of this machine to use: 1, 2, 4, 8 (default) or 16
  --dry-run      check everything, print every command and an estimate of its time, and run nothing
  --tiny         some of the users, a tiny model, minutes on two CPU cores
  --overwrite    replace what another configuration made

example: bash scripts/reproduce_$name.sh --raw data/$name --base models/Qwen3-4B-Instruct-2507 --dry-run
EOF
        exit
        ;;
esac
original=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=scripts/pipeline.sh
source scripts/pipeline.sh

usage="usage: bash scripts/reproduce_$name.sh [--raw DIR] [--base MODEL] [--gpus N] [--dry-run] [--tiny] [--overwrite]"
raw=
base=
gpus=
tiny=
overwrite=()
while [ $# -gt 0 ]; do
    case "$1" in
        --raw | --base | --gpus)
            [ $# -ge 2 ] || fail "$1 needs a value; $usage"
            value=$2
            # Paths are the caller's; everything below runs in the repository.
            [ "$1" = --gpus ] || value=$(cd "$original" && realpath -ms -- "$2")
            printf -v "${1#--}" '%s' "$value"
            shift 2
            ;;
        --dry-run) dry_run=yes; shift ;;
        --tiny) tiny=yes; shift ;;
        --overwrite) overwrite=(--overwrite); shift ;;
        *) fail "unknown option '$1'; $usage" ;;
    esac
done
[ -z "$tiny" ] || [ -z "$base$gpus" ] || fail "--tiny makes its own model and needs no GPU: leave out --base and --gpus"
gpus=${gpus:-8}
# 256 rows per step of SFT, and 256 prompts of SRPO, are divided among them without a remainder.
[[ $gpus =~ ^(1|2|4|8|16)$ ]] || fail "--gpus $gpus: 1, 2, 4, 8 or 16 of one machine"
raw=${raw:-data/$name} base=${base:-models/Qwen3-4B-Instruct-2507}

# What differs between the whole data set on GPUs and --tiny; the stages below are the same.
if [ -z "$tiny" ]; then
    run=$runs/$name
    recipe=recipes/data/paper.yaml
    recipes=(paper_alignment paper_reasoning paper)
    embedding=(embed.encoder=language-model "embed.model=$base")
    model=(--base "$base")
    assembly=(--passes 3 --cutoff-len 2560)
    # 8 rows at a time per GPU, 256 per step on any number of them.
    sft_settings=("gradient_accumulation_steps=$((32 / gpus))")
    rl_settings=("run_folder=$run" "trainer.total_training_steps=150" "trainer.n_gpus_per_node=$gpus")
    # One holds no 16 bytes per parameter beside a step, and its machine has few CPUs for Ray to count (one_gpu.yaml).
    [ "$gpus" != 1 ] || rl_settings+=(actor_rollout_ref.actor.fsdp_config.offload_policy=true
        transfer_queue.backend.SimpleStorage.num_data_storage_units=1 ray_kwargs.ray_init.num_cpus=16)
    reasoning=(--chain-tokens 1560)
    sasrec=()
    trainer=(env FORCE_TORCHRUN=1 "NPROC_PER_NODE=$gpus")
    [ "$gpus" = 1 ] || launcher=(torchrun --nproc-per-node "$gpus" -m --)
else
    cut_short
    run=$runs/$name-tiny
    recipes=(quickstart_alignment quickstart_reasoning quickstart)
    embedding=()
    model=()
    assembly=(--passes 3 --cutoff-len 512 --train-on-prompt)
    sasrec=(--epochs 3)
fi

existing() { # PATH, plain or compressed
    local suffix
    for suffix in "" .gz .zst; do
        [ ! -f "$1$suffix" ] || { echo "$1$suffix"; return; }
    done
}
# Of the first layout where none is there; the checks then say what was looked for.
format=${layouts[0]} reviews=$raw/${layouts[1]}.gz metadata=$raw/${layouts[2]}.gz
for ((which = 0; which < ${#layouts[@]}; which += 3)); do
    files=("$(existing "$raw/${layouts[which + 1]}")" "$(existing "$raw/${layouts[which + 2]}")")
    if [ -n "${files[0]}" ] && [ -n "${files[1]}" ]; then
        format=${layouts[which]} reviews=${files[0]} metadata=${files[1]}
        break
    fi
done

if [ -n "$tiny" ]; then enter; else enter --gpu; fi
began=$SECONDS

title "Checks"
ready=yes
wanted=()
for ((which = 0; which < ${#layouts[@]}; which += 3)); do
    wanted+=(--layout "${layouts[which + 1]} and ${layouts[which + 2]} (${layouts[which]})")
done
gream preflight --run "$run" --data "$recipe" --reviews "$reviews" --metadata "$metadata" --format "$format" \
    "${wanted[@]}" --source "$published" "${model[@]}" --gpus "$gpus" --passes "${assembly[1]}" --counts "${counts[@]}" \
    --sft "recipes/sft/${recipes[0]}.yaml" --sft "recipes/sft/${recipes[1]}.yaml" "${sft_settings[@]/#/--sft-setting=}" \
    --rl "recipes/rl/${recipes[2]}.yaml" "${rl_settings[@]/#/--rl-setting=}" || ready=
[ -n "$ready$dry_run" ] || fail "not started: mend what is marked x above"

title "Interactions: 5-core, chronological, leave-one-out"
data interactions --reviews "$reviews" --metadata "$metadata" "interactions.format=$format"
if [ -z "$tiny$dry_run" ]; then
    python -c '
import json, sys
have = [json.load(open(sys.argv[1]))[name] for name in ("users", "items", "interactions")]
want = [int(count) for count in sys.argv[2:5]]
shown = ["{:,} users, {:,} items, {:,} interactions".format(*counts) for counts in (have, want)]
print(f"{shown[0]}:", "as in the paper" if have == want else f"the paper has {shown[1]}; its figures are not comparable")
' "$run/statistics.json" "${counts[@]}"
fi

title "Item text, embeddings, semantic ids"
data enrich
on_all_gpus data_processing embed --config "$recipe" "${embedding[@]}"
data semantic-ids

title "Training rows, prompts, a language model that knows the ids"
data sft
data rl
data model "${model[@]}"
show llamafactory-gream assemble --run "$run" "${assembly[@]}" "${overwrite[@]}"

title "SFT with LLaMA-Factory: alignment, then the reasoning curriculum"
inputs=(--input "$run/assembled")
sft "${recipes[0]}" alignment model "tokenized_path=$run/assembled"
inputs=()
sft "${recipes[1]}" reasoning checkpoints/alignment

title "SRPO with verl"
srpo "${recipes[2]}"

title "Evaluation: direct and reasoning, beside baselines on the same split"
evaluate baselines
evaluate sasrec "${sasrec[@]}"
evaluate_both_modes

title "Results"
evaluate report
show python -m eval table --run "$run"
[ -n "$ready" ] || fail "nothing was run, nor could be: mend what is marked x above"
if [ -n "$dry_run" ]; then
    printf '\nnothing was run: leave out --dry-run to start\n'
else
    printf '\nreport: %s/report.html    (whole run: %d s)\n' "$run" $((SECONDS - began))
fi
