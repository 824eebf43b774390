#!/usr/bin/env bash
# Start inference servers for a model, one per tensor-parallel group, and keep them until a signal comes or one ends.
# When all are healthy their addresses are printed, ready for 'gream eval remote'.
#
# usage: bash scripts/deploy.sh MODEL NAME GPUS [--engine sglang|vllm] [--catalogue NAME=INDEX] [--tp N] [--port N]
#                               [--python PYTHON] [-- FLAGS]
#
#   MODEL             checkpoint folder in Hugging Face format
#   NAME              names the logs: logs/deploy/NAME-PORT.log
#   GPUS              devices, e.g. 0,1,2,3; or cpu, for one server without any (slow: for tests)
#   --engine ENGINE   sglang (default) or vllm
#   --catalogue NAME=INDEX   index.json of a run, which SGLang's beam search is to be kept to, repeat; or, once, what vLLM
#                     may write behind <answer>
#   --tp N            GPUs per server, 1 by default: four GPUs and --tp 2 make two servers, on PORT and PORT + 1
#   --port N          port of the first server, 30000 by default
#   --python PYTHON   interpreter of the environment that the engine is installed in; for SGLang by default that of
#                     'scripts/install.sh --sglang'
#   -- FLAGS          for the engine, e.g. -- --dtype float32
#
# example: bash scripts/deploy.sh runs/beauty/checkpoints/reasoning beauty 0,1 --engine vllm --python ~/vllm/bin/python
set -euo pipefail

show_help() { awk 'NR > 1 && !/^#/ { exit } NR > 1 { sub(/^# ?/, ""); print }' "$0"; exit; } # the lines above
usage="usage: bash scripts/deploy.sh MODEL NAME GPUS [--engine sglang|vllm] [--catalogue NAME=INDEX] [--tp N] [--port N]"
fail() { echo "error: $*" >&2; exit 2; }
positional=()
flags=()
engine=sglang
tp=1
port=30000
python=
catalogues=()
while [ $# -gt 0 ]; do
    case "$1" in
        --engine | --tp | --port | --python)
            [ $# -ge 2 ] || fail "$1 needs a value; $usage"
            printf -v "${1#--}" '%s' "$2"
            shift 2
            ;;
        --catalogue)
            [[ ${2:-} == ?*=?* ]] || fail "--catalogue '${2:-}': NAME=INDEX expected; $usage"
            [ -f "${2#*=}" ] || fail "--catalogue $2: ${2#*=} is not there; name the index.json of a run"
            catalogues+=("${2%%=*}=$(realpath "${2#*=}")")
            shift 2
            ;;
        -h | --help) show_help ;;
        --) shift; flags=("$@"); break ;;
        -*) fail "unknown option '$1'; $usage" ;;
        *) positional+=("$1"); shift ;;
    esac
done
[ ${#positional[@]} -eq 3 ] || fail "$usage"
model=${positional[0]} name=${positional[1]}
if [ -z "$python" ]; then
    own=$(dirname "$0")/../.venv-sglang/bin/python
    if [ "$engine" = sglang ] && [ -x "$own" ]; then python=$own; else python=python; fi
fi
IFS=, read -ra gpus <<< "${positional[2]}"
[ -f "$model/config.json" ] || fail "$model: no config.json; name a folder in Hugging Face format"
[[ $name =~ ^[A-Za-z0-9][A-Za-z0-9._-]*$ ]] || fail "NAME '$name': letters, digits, '-', '_' and '.' only"
[[ $engine == sglang || $engine == vllm ]] || fail "--engine $engine: sglang or vllm"
[[ $tp =~ ^[1-9][0-9]*$ ]] || fail "--tp $tp: a number of GPUs per server"
[[ $port =~ ^[1-9][0-9]*$ ]] || fail "--port $port: a number"
for gpu in "${gpus[@]}"; do
    [[ $gpu =~ ^[0-9]+$ || ${positional[2]} == cpu ]] || fail "GPUS '${positional[2]}': device numbers and commas, e.g. 0,1,2,3, or cpu"
done
[ $((${#gpus[@]} % tp)) -eq 0 ] || fail "${#gpus[@]} GPUs cannot be divided into groups of $tp"
command -v "$python" > /dev/null || fail "--python $python: not found"

# Seconds until a server must be healthy, and those it gets to end by itself.
patience=${GREAM_DEPLOY_PATIENCE:-900}
grace=${GREAM_DEPLOY_GRACE:-20}
logs=logs/deploy
mkdir -p "$logs"

# What the engines need where there is no GPU. SGLang: no more than so many tokens of keys and values, or it takes 15 GB.
sglang_on_cpu=(--device cpu --dtype float32 --attention-backend torch_native --sampling-backend pytorch
    --disable-cuda-graph --disable-overlap-schedule --sleep-on-idle --max-total-tokens 65536)
vllm_on_cpu=(--dtype float32 --enforce-eager --no-enable-chunked-prefill)
if [ "${positional[2]}" = cpu ]; then
    gpus=("")
    export SGLANG_USE_CPU_ENGINE=1 OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
    case "$engine" in
        sglang) flags=("${sglang_on_cpu[@]}" "${flags[@]}") ;;
        vllm) flags=("${vllm_on_cpu[@]}" "${flags[@]}") ;;
    esac
fi
GREAM_CATALOGUES=$(IFS=:; echo "${catalogues[*]}")
export GREAM_CATALOGUES
if [ "$engine" = vllm ] && [ ${#catalogues[@]} -gt 0 ]; then
    [ ${#catalogues[@]} -eq 1 ] || fail "--catalogue: a vLLM server keeps to one; SGLang holds several"
    named=$("$python" -c 'import json, sys; print(json.dumps({"gream": {"catalogue": sys.argv[1]}}))' "${catalogues[0]#*=}")
    flags=(--logits-processors vllm_gream.processor:AnswerProcessor --additional-config "$named" "${flags[@]}")
fi
export HF_HUB_OFFLINE="${HF_HUB_OFFLINE:-1}" # nothing is downloaded behind the user's back

command_of() { # PORT, as an array in $command
    # Nothing of the model's generation_config takes part in decoding, and ids are chosen by log-probabilities of single
    # tokens: vLLM answers for 20 of them unless told otherwise.
    case "$engine" in
        sglang)
            command=("$python" -m sglang.launch_server --model-path "$model" --host 127.0.0.1 --port "$1"
                --tp-size "$tp" --sampling-defaults openai)
            ;;
        vllm)
            command=("$python" -m vllm.entrypoints.openai.api_server --model "$model" --host 127.0.0.1 --port "$1"
                --tensor-parallel-size "$tp" --generation-config vllm --max-logprobs 128)
            ;;
    esac
    command+=("${flags[@]}")
}

pids=()
ports=()
alive() { kill -0 "$1" 2> /dev/null; }
stop() {
    trap '' INT TERM
    # Each server leads a process group: its workers end with it.
    for pid in "${pids[@]}"; do kill -TERM -- "-$pid" 2> /dev/null || true; done
    for ((waited = 0; waited < grace * 10; waited++)); do
        running=0
        for pid in "${pids[@]}"; do kill -0 -- "-$pid" 2> /dev/null && running=1; done
        [ "$running" = 1 ] || break
        sleep 0.1
    done
    for pid in "${pids[@]}"; do kill -KILL -- "-$pid" 2> /dev/null || true; done
    wait 2> /dev/null || true
}
trap 'stop; echo "stopped" >&2; exit 0' INT TERM
give_up() { # WHICH MESSAGE
    stop
    tail -n 20 "$logs/$name-${ports[$1]}.log" | sed 's/^/  | /' >&2
    echo "error: $2; whole log: $logs/$name-${ports[$1]}.log" >&2
    exit 1
}

for ((start = 0; start < ${#gpus[@]}; start += tp)); do
    this=$((port + start / tp))
    devices=$(IFS=,; echo "${gpus[*]:start:tp}")
    command_of "$this"
    log=$logs/$name-$this.log
    echo "\$ CUDA_VISIBLE_DEVICES=$devices ${command[*]} > $log"
    CUDA_VISIBLE_DEVICES=$devices setsid "${command[@]}" > "$log" 2>&1 &
    pids+=($!)
    ports+=("$this")
done

healthy() { "$python" -c 'import sys, urllib.request as u; u.urlopen(sys.argv[1], timeout=5)' "http://127.0.0.1:$1/health" 2> /dev/null; }
deadline=$((SECONDS + patience))
for which in "${!pids[@]}"; do
    until healthy "${ports[$which]}"; do
        for other in "${!pids[@]}"; do
            alive "${pids[$other]}" || give_up "$other" "the server on port ${ports[$other]} ended before it was healthy"
        done
        [ "$SECONDS" -lt "$deadline" ] || give_up "$which" "the server on port ${ports[$which]} is not healthy after $patience s"
        sleep 1
    done
    alive "${pids[$which]}" || give_up "$which" "port ${ports[$which]} is answered by another server; choose another --port"
done
echo "ready:$(printf ' --endpoint http://127.0.0.1:%s' "${ports[@]}") --engine $engine"

# A server that dies ends all, with its log: an evaluation that goes on with fewer would take longer than it says. They
# are looked at once a second: 'wait -n' would miss one that has ended before it is called.
while :; do
    for which in "${!pids[@]}"; do
        alive "${pids[$which]}" || give_up "$which" "the server on port ${ports[$which]} ended"
    done
    sleep 1
done
