#!/usr/bin/env bash
# A data set in the published layout, learned from nothing on two CPU cores: ids, a small model of whole sequences trained by
# LLaMA-Factory, its checkpoint chosen on validation, and the table beside counted lists, alone and fused. Interrupted, it
# goes on where it was; run again unchanged, it only prints the table.
#
# usage: bash scripts/from_nothing.sh --data DIR --name NAME [--overwrite]
#
#   --data DIR     folder with *.inter.json and *.item.json, plain, .gz or .zst; where no texts were published, with
#                  *.item2id in place of the latter: ids are then made of co-purchases alone
#   --name NAME    run folder runs/NAME
#   --overwrite    replace what another configuration made
#
# example: bash scripts/from_nothing.sh --data data/beauty --name beauty_scratch
set -euo pipefail
show_help() { awk 'NR > 1 && !/^#/ { exit } NR > 1 { sub(/^# ?/, ""); print }' "$0"; exit; } # the lines above
case " $* " in *" -h "* | *" --help "*) show_help ;; esac
original=$PWD
cd "$(dirname "$0")/.."
# shellcheck source=scripts/pipeline.sh
source scripts/pipeline.sh

usage="usage: bash scripts/from_nothing.sh --data DIR --name NAME [--overwrite]"
name=
data=
recipe=recipes/data/beauty_scratch.yaml
overwrite=()
texts=() # settings of embed, where there are none
while [ $# -gt 0 ]; do
    case "$1" in
        --data | --name)
            [ $# -ge 2 ] || fail "$1 needs a value; $usage"
            printf -v "${1#--}" '%s' "$2"
            shift 2
            ;;
        --overwrite) overwrite=(--overwrite); shift ;;
        *) fail "unknown option '$1'; $usage" ;;
    esac
done
[ -n "$data" ] && [ -n "$name" ] || fail "--data and --name are needed; $usage"
[[ $name =~ ^[A-Za-z0-9_.-]+$ ]] || fail "--name '$name': letters, digits, '-', '_' and '.' only"
folder=$(cd "$original" && realpath -ms -- "$data")
only_file() { # PATTERN: the one file of the folder
    local files
    mapfile -t files < <(compgen -G "$folder/$1*" | grep -E "${1#\*}(\.gz|\.zst)?\$")
    [ ${#files[@]} = 1 ] || fail "$folder: ${#files[@]} files named $1*, one needed"
    echo "${files[0]}"
}
interactions=$(only_file '*.inter.json')
if compgen -G "$folder/*.item2id*" > /dev/null && ! compgen -G "$folder/*.item.json*" > /dev/null; then
    items=$(only_file '*.item2id')
    texts=(embed.collaborative=1)
else
    items=$(only_file '*.item.json')
fi

enter
run=$runs/$name
began=$SECONDS

title "Interactions, texts, embeddings, ids, rows, model"
data interactions --reviews "$interactions" --metadata "$items"
data enrich
data embed "${texts[@]}"
for each in semantic-ids sft model; do data "$each"; done

title "Training"
sft beauty_scratch alignment model

title "Checkpoint, chosen on validation"
evaluate select --checkpoint "$run/checkpoints/alignment" --name valid --users 5000 "${asked[@]}" | tee "$run/selected.txt"
best=$(tail -n 1 "$run/selected.txt")

title "Test"
evaluate baselines
evaluate direct --checkpoint "$best" --name direct "${asked[@]}"
evaluate direct --checkpoint "$best" --name direct-fused "${asked[@]}" --fuse transitions
evaluate report
show python -m eval table --run "$run"
printf '\nreport: %s/report.html    (whole run: %d s)\n' "$run" $((SECONDS - began))
