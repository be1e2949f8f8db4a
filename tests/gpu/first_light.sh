#!/usr/bin/env bash
# Check and measure this project on one GPU, starting with the most valuable step; see tests/gpu/README.md.
#
#   bash tests/gpu/first_light.sh OUT [--clips FOLDER] [--rehearse] [--only a,b,c] [--budget SECONDS]
#
# OUT gets summary.md, steps.json and first_light.tar.gz, which holds all logs and results.
set -u
here=$PWD
cd "$(dirname "$0")/../.." || exit

usage() { echo "usage: $0 OUT [--clips FOLDER] [--rehearse] [--only a,b,c] [--budget SECONDS]" >&2; exit 2; }
OUT="" CLIPS="" REHEARSE="" ONLY="" BUDGET=""
while (($#)); do
    case $1 in
        --clips) CLIPS=${2:?}; shift ;;
        --only) ONLY=${2:?}; shift ;;
        --budget) BUDGET=${2:?}; shift ;;
        --rehearse) REHEARSE=--rehearse ;;
        -*) usage ;;
        *) OUT=$1 ;;
    esac
    shift
done
[[ $OUT && ( $CLIPS || $REHEARSE ) ]] || usage
OUT=$(cd "$here" && realpath -m "$OUT")
[[ ! $CLIPS ]] || CLIPS=$(cd "$here" && realpath -m "$CLIPS")
mkdir -p "$OUT" || exit

# States of 0.3 GB and weights are written after each epoch; write them to memory if there is plenty.
shared_gib=$(df --output=avail -BG /dev/shm 2>/dev/null | tr -dc 0-9)
((${shared_gib:-0} >= 40)) && export TMPDIR=/dev/shm
RAW=$(mktemp -d)/first_light
mkdir "$RAW"
trap 'jobs -rp | xargs -r kill 2>/dev/null; pack; rm -rf "$(dirname "$RAW")"' EXIT
trap 'exit 143' TERM INT HUP

export PYTHONUNBUFFERED=1 PYTHONPATH=$PWD:$PWD/tests${PYTHONPATH:+:$PYTHONPATH}
export AUDIOCLIP_CACHE=$RAW/cache TORCHINDUCTOR_CACHE_DIR=$RAW/cache/inductor AUDIOCLIP_MIRROR=http://127.0.0.1:9
unset PYTHONDONTWRITEBYTECODE # otherwise each step compiles torch's sources for ten seconds
AT_ONCE=1 PATIENCE=1

step() { # NAME USUAL LIMIT COMMAND...: run once fewer than AT_ONCE others are running; times in seconds
    [[ ! $ONLY || ,$ONLY, == *,$1,* ]] || return 0
    while (($(jobs -rp | wc -l) >= AT_ONCE)); do wait -n; done
    local left=$((BUDGET - SECONDS))
    if ((left < $2)); then
        note "$1" 0 "skipped: usually takes $2 s, but only $left s remain" "${@:4}"
    else
        run "$1" $((PATIENCE * $3 < left ? PATIENCE * $3 : left)) "${@:4}" &
    fi
}

run() { # NAME LIMIT COMMAND...: keep the log, and record the outcome
    local start=$SECONDS status
    timeout -k 5 "$2" "${@:3}" >"$RAW/$1.log" 2>&1 &
    trap "kill $!" TERM
    wait $!
    case $? in
        0) status=ok ;;
        124 | 137) status="timed out after $2 s" ;;
        *) status=failed ;;
    esac
    note "$1" $((SECONDS - start)) "$status" "${@:3}"
    [[ $status == ok ]] || tail -n 12 "$RAW/$1.log" | cut -c 1-300 | sed 's/^/    /'
    pack
}

note() { # NAME SECONDS STATUS COMMAND...
    local command="${*:4}"
    command=${command//\\/\\\\}
    printf '{"name": "%s", "seconds": %d, "status": "%s", "command": "%s"}\n' \
        "$1" "$2" "$3" "${command//\"/\\\"}" >>"$RAW/steps.jsonl"
    printf '%-24s %4d s  %s\n' "$1" "$2" "$3"
}

pack() { # pack the results so far, in case the machine is lost
    [[ -s $RAW/steps.jsonl ]] || return 0
    ( flock 9
      sed '1s/^/[/; $!s/$/,/; $s/$/]/' "$RAW/steps.jsonl" >"$RAW/steps.json"
      python tests/gpu/summary.py "$RAW" >"$RAW/summary.log" 2>&1 || cat "$RAW/summary.log"
      cp "$RAW/steps.json" "$RAW/summary.md" "$OUT"
      tar -C "$RAW/.." -czf "$OUT/first_light.tar.gz" --exclude=cache --exclude=checkpoints --exclude='*.png' \
          --exclude='*.html' --exclude=exhibits --exclude=clips first_light 2>/dev/null
    ) 9>"$RAW/../lock"
}

if [[ $REHEARSE ]]; then
    # The same steps in miniature on the CPU, two at a time; their measurements are meaningless.
    export OMP_NUM_THREADS=1 CUDA_VISIBLE_DEVICES= TORCHDYNAMO_DISABLE=1
    AT_ONCE=2 PATIENCE=5 BUDGET=${BUDGET:-3600} CLIPS=$RAW/clips
    SPEED=(-c tests/gpu/protocols/miniature.json --Dataset.args.root "$CLIPS") LONG=("${SPEED[@]}")
    QUICK=(-c tests/gpu/protocols/toy.json --trust toy_research)
    SMALL=("${QUICK[@]}") OTHERS=("${QUICK[@]}")
    ROUNDS=1 EPOCHS=1 FOLDS=(1 2) BATCH=4
    TOO_LARGE=("${QUICK[@]}" --Task '{"class": "toy_research.failing.Greedy", "args": {"most": 4}}')
    KILLS=(--kills 1 --workers 0 --epochs 3 --step-seconds 0.05)
    MEMORY=(--batch 2 --seconds 0.1 --chunk 0)
    made="MadeSounds('$CLIPS', seconds=0.1, clips_per_class_and_fold=1, progress=False)"
    python -c "from utils.datasets import MadeSounds; $made" && sed -i s/False/True/ "$CLIPS/meta/esc50.csv" || exit
else
    SPEED=(-c tests/gpu/protocols/speed.json --Dataset.args.root "$CLIPS")
    # Each clip five times, so that an epoch has as many steps as with ESC-50.
    mkdir -p "$RAW/clips/audio" "$RAW/clips/meta"
    awk 'NR == 1 { print; next } { for (i = 0; i < 5; i++) print i "x" $0 }' "$CLIPS/meta/esc50.csv" \
        >"$RAW/clips/meta/esc50.csv"
    for file in "$CLIPS"/audio/*; do
        for copy in 0 1 2 3 4; do ln -s "$(realpath "$file")" "$RAW/clips/audio/${copy}x${file##*/}"; done
    done
    LONG=(-c tests/gpu/protocols/speed.json --Dataset.args.root "$RAW/clips") OTHERS=("${LONG[@]}")
    SMALL=(-c protocols/quickstart.json -e 3 -L 1 --Reporters '[{"class": "ignite_trainer.reporters.JsonLines"}]')
    ROUNDS=5 EPOCHS=20 FOLDS=(1 2 3 4 5) BATCH=32
    long=2646000 # samples, 60 s: 64 such clips need more than 100 GB
    TOO_LARGE=("${SPEED[@]}" --Setup.precision bf16 -B 8)
    for index in 3 4 6 7; do TOO_LARGE+=("--Transforms.$index.args.out_len" "$long"); done
    KILLS=(--kills 3 --workers 0 --epochs 6)
    MEMORY=(--batch 64 --precision bf16 --chunk 0 32 16)
fi
: "${BUDGET:=480}"
# As in the quickstart, which also starts from random weights.
ESC10=(--Optimizer '{"class": "torch.optim.AdamW", "args": {"lr": 5e-4, "weight_decay": 5e-4}}'
    --Scheduler.args.gamma 0.9 --Task.args.positives same_label -S -e "$EPOCHS" -b "$BATCH" -B 80)
benchmark() { # NAME USUAL LIMIT SCRIPT OVERRIDES...
    step "benchmark-$1" "$2" "$3" python "${@:4}" --benchmark "$ROUNDS" -M "$RAW/benchmark-$1"
}
mode() { # NAME OVERRIDES...: one epoch
    step "mode-$1" 30 80 python main.py "${SPEED[@]}" -e 1 -S -M "$RAW/mode-$1" "${@:2}"
}
read -ra gpu_tests < <(grep -rl 'mark\.gpu' tests --include='test_*.py' | tr '\n' ' ')

step machine 5 30 python tests/gpu/machine.py --json "$RAW/machine.json"
step tests 30 120 python -m pytest -m gpu -p no:cacheprovider "${gpu_tests[@]}"
step parity 25 90 python tests/gpu/parity.py --json "$RAW/parity.json" --clips "$CLIPS" $REHEARSE
benchmark bf16 45 120 tests/benchmarks/published_code.py "${LONG[@]}" --Setup.precision bf16
benchmark bf16-compiled 90 300 main.py "${OTHERS[@]}" --Setup.precision bf16 --Setup.compile true
step profile 25 60 python tests/gpu/profile_step.py "${OTHERS[@]}" --Setup.precision bf16 --output "$RAW/profile.txt"
step profile-compiled 40 120 python tests/gpu/profile_step.py "${OTHERS[@]}" --Setup.precision bf16 \
    --Setup.compile true --output "$RAW/profile-compiled.txt"
benchmark fp16 35 90 main.py "${OTHERS[@]}" --Setup.precision fp16
benchmark fp32 35 90 main.py "${OTHERS[@]}" --Setup.precision fp32
step variants 40 100 python tests/gpu/variants.py --json "$RAW/variants.json" $REHEARSE
step too-large 40 100 python tests/gpu/too_large.py --json "$RAW/too-large.json" -M "$RAW/too-large" \
    "${TOO_LARGE[@]}"

# Nothing below is timed.
[[ $REHEARSE ]] || { wait; AT_ONCE=4; }
step esc10 60 200 python main.py "${SPEED[@]}" "${ESC10[@]}" --Setup.precision bf16 -M "$RAW/esc10" \
    --Sweep.Dataset.args.fold "${FOLDS[@]}"
step resume 40 120 python tests/gpu/resume.py --json "$RAW/resume.json" -M "$RAW/resume" "${SMALL[@]}"
step resume-deterministic 40 120 env CUBLAS_WORKSPACE_CONFIG=:4096:8 python tests/gpu/resume.py --deterministic \
    --json "$RAW/resume-deterministic.json" -M "$RAW/resume-deterministic" "${SMALL[@]}"
step kill 40 120 python tests/endurance/kill_and_resume.py "${KILLS[@]}"
mode recompute-ema-skip --Setup.precision bf16 --Setup.recompute true --Setup.ema 0.9 --Faults.not_finite skip
mode fp16 --Setup.precision fp16
mode chunk --Setup.precision bf16 -b "$BATCH" --Setup.chunk "$((BATCH / 2))"
step memory 30 100 python tests/benchmarks/step_memory.py "${MEMORY[@]}"
wait
pack
cat "$OUT/summary.md"
! grep -qE '"status": "(failed|timed out)' "$RAW/steps.jsonl"
