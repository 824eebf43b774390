#!/usr/bin/env bash
# What only a GPU can show, one step after the other.
#
# usage: [PYTHON=INTERPRETER] [OUT=FOLDER] bash scripts/bench/gpu.sh [--rehearse] [STEP ...]
#
#   --rehearse   the same path on a CPU, small
#   STEP         only these steps; all by default
#
# example: OUT=bench-gpu bash scripts/bench/gpu.sh --rehearse kmeans
#
# Needs torch, transformers, numpy and safetensors in PYTHON (python3), nothing else of this project's list. A step
# that fails or takes too long is reported and the others go on; the exit status is the number of failed steps.
# OUT (bench-gpu) gets gpu.json, the last line of each step, and STEP.log.
#
# To add a step: one line `step NAME SECONDS COMMAND...` below; its last line of output must be a JSON object.
set -uo pipefail
show_help() { awk 'NR > 1 && !/^#/ { exit } NR > 1 { sub(/^# ?/, ""); print }' "$0"; exit; } # the lines above
case "${1:-}" in -h | --help) show_help ;; esac
cd "$(dirname "$0")/../.."

PYTHON=${PYTHON:-python3}
OUT=${OUT:-bench-gpu}
export PYTHONPATH="$PWD:$PWD/plugins${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
rehearse=
if [ "${1:-}" = "--rehearse" ]; then
    rehearse=yes
    shift
fi
chosen=" $* "
mkdir -p "$OUT"
results=()
failed=0

step() {
    local name=$1 limit=$2 start=$SECONDS status last
    shift 2
    if [ "$chosen" != "  " ] && [[ "$chosen" != *" $name "* ]]; then
        return
    fi
    echo "== $name: $*"
    timeout --kill-after=10 "$limit" "$@" >"$OUT/$name.log" 2>&1
    status=$?
    last=$(grep -v '^[[:space:]]*$' "$OUT/$name.log" | tail -n 1)
    if [ $status -eq 0 ] && ! "$PYTHON" -c 'import json, sys; assert isinstance(json.loads(sys.argv[1]), dict)' "$last" 2>/dev/null; then
        status=no-json
    fi
    if [ "$status" = 0 ]; then
        results+=("\"$name\": $last")
        echo "   $((SECONDS - start)) s: $last"
    else
        failed=$((failed + 1))
        results+=("\"$name\": {\"failed\": \"$status\", \"seconds\": $((SECONDS - start))}")
        echo "   FAILED ($status; 124: over $limit s) after $((SECONDS - start)) s, the end of $OUT/$name.log:"
        tail -n 8 "$OUT/$name.log" | sed 's/^/   | /'
    fi
    # Written after every step: what is measured stays, whatever becomes of the rest.
    (IFS=,; echo "{${results[*]}}" | "$PYTHON" -m json.tool) >"$OUT/gpu.json"
}

if [ -n "$rehearse" ]; then
    kmeans=(--device cpu --items 4000 --dimensions 32 --codes 16)
    encoder=(--device cpu --items 64 --batch-tokens 1024 --shape)
    shapes=(tiny tiny)
    decoding=(--device cpu --hidden 64 --layers 1 --users 8 --repeats 1)
    update=(--device cpu --tokens 256)
else
    kmeans=()
    encoder=(--shape)
    shapes=(0.6B 4B)
    decoding=()
    update=()
fi

step machine 60 "$PYTHON" -c '
import json, platform, torch, transformers
gpu = torch.cuda.is_available()
print(json.dumps({
    "python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__,
    "gpu": torch.cuda.get_device_name() if gpu else None, "cuda": torch.version.cuda, "gpus": torch.cuda.device_count(),
}))'
step encode-0.6B 120 "$PYTHON" scripts/bench/encoder.py "${encoder[@]}" "${shapes[0]}"
step encode-4B 180 "$PYTHON" scripts/bench/encoder.py "${encoder[@]}" "${shapes[1]}"
step kmeans 400 "$PYTHON" scripts/bench/gpu_kmeans.py "${kmeans[@]}"
for shape in $(printf '%s\n' "${shapes[@]}" | uniq); do
    step "update-$shape" 120 "$PYTHON" scripts/bench/gpu_update.py --shape "$shape" "${update[@]}"
done
for beams in 10 20 50; do
    step "decoding-$beams" 160 "$PYTHON" scripts/bench/gpu_decoding.py --beams "$beams" "${decoding[@]}"
done

echo "$OUT/gpu.json: ${#results[@]} steps, $failed failed"
exit "$failed"
