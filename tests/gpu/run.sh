#!/usr/bin/env bash
# Runs all checks that need a GPU, from a bundle (deploy/bundle.sh) or a build, without compiler and
# network.
#
#   tests/gpu/run.sh --phase first|tests|bench|peers|sanitize [--out DIR] [--bin DIR]
#
# A phase takes less than 8 minutes. DIR, gpu-results by default, keeps a log and a verdict for each
# step; steps that have passed are not run again, so a phase that was cut off continues. A step that
# fails does not stop the others. A table of the phase's steps comes last. Without a device it
# prints one line and exits with 77.
#
#   first     the first hour on a device: a part of each of the others, simple things first, so that
#             the first step that fails shows the place of the fault (RESULTS.md explains steps)
#   tests     the kernels' tests, the engine's tests and the goldens on the device
#   bench     single operations and whole models beside the device's own ceilings
#   peers     attention beside PyTorch's, if PyTorch is installed
#   sanitize  compute-sanitizer's four tools over the kernels' tests
set -uo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
phase=""
out=gpu-results
bin=$root/bin
[[ -d $bin ]] || bin=$root/build/bin
while (($# > 0)); do
  case $1 in
    --phase) phase=$2 && shift 2 ;;
    --out) out=$2 && shift 2 ;;
    --bin) bin=$2 && shift 2 ;;
    *) echo "run.sh: unknown argument $1" >&2 && exit 2 ;;
  esac
done
case $phase in
  first | tests | bench | peers | sanitize) ;;
  *) echo "run.sh: --phase first, tests, bench, peers or sanitize" >&2 && exit 2 ;;
esac

if [[ ! -x $bin/cuda_gpu_tests ]]; then
  echo "run.sh: no $bin/cuda_gpu_tests: build where nvcc is, or unpack a bundle" >&2
  exit 2
fi
export STRATA_SOURCE_DIR=$root
why=$("$bin/cuda_gpu_tests" --gtest_filter=CudaMemoryTest.SaysHowMuchWasTooMuch 2>&1 |
  grep -m 1 '^device cuda: ')
if [[ -n $why ]]; then
  echo "run.sh: nothing to run on: $why"
  exit 77
fi
out=$out/$phase
mkdir -p "$out"
deadline=$((SECONDS + 470))
failed=0
steps=()

# step NAME SECONDS COMMAND...: runs a step that has not passed; the table shows its last line.
step() {
  local name=$1 limit=$2 verdict
  shift 2
  steps+=("$name")
  [[ -s $out/$name.verdict && $(cat "$out/$name.verdict") == passed* ]] && return
  local left=$((deadline - SECONDS))
  if ((left < 20)); then
    echo "not run: the phase's time is up, run it again" >"$out/$name.verdict"
    failed=1
    return
  fi
  ((limit < left)) && left=$limit
  local begin=$SECONDS
  if timeout "$left" "$@" >"$out/$name.log" 2>&1; then
    verdict=passed
  else
    verdict="FAILED ($?)"
    failed=1
  fi
  # A skipped test has passed nothing.
  grep -q '\[  SKIPPED \]' "$out/$name.log" && verdict="skipped" && failed=1
  echo "$verdict, $((SECONDS - begin)) s: $(tail -n 1 "$out/$name.log" | cut -c1-120)" \
    >"$out/$name.verdict"
}

tests() { # NAME SECONDS FILTER
  step "$1" "$2" "$bin/cuda_gpu_tests" --gtest_brief=1 --gtest_filter="$3"
}
engine_bench() { # NAME SECONDS ARGUMENT...
  local name=$1 limit=$2
  shift 2
  step "$name" "$limit" "$bin/strata-enginebench" --device cuda --weights bf16 "$@"
}

sanitizer() { # TOOL FILTER
  step "$1" 200 compute-sanitizer --tool "$1" --error-exitcode 9 "$bin/cuda_gpu_tests" \
    --gtest_brief=1 --gtest_filter="$2"
}
# Puts a load on a server on the device; the last line is the report's.
served() { # NAME LOAD_ARGUMENT...
  local name=$1
  shift
  step "$name" 120 "$root/tests/gpu/served.sh" "$bin" --shape llama-3.2-1b -- "$@"
}

case $phase in
  first)
    step device 30 "$bin/strata-cudaprobe" device
    tests memory 60 'Cuda*Memory*:*CudaPack*'
    step copies 60 "$bin/strata-cudaprobe" copies ceilings
    step nodes 60 "$bin/strata-cudaprobe" nodes
    step sums 60 "$bin/strata-cudaprobe" sums
    for dtype in bf16 f16 int8 fp8 f32; do
      step "plans_$dtype" 60 "$bin/strata-cudaprobe" "$dtype"
    done
    tests rows 60 '*CudaRows*'
    # A device error lasts until the process ends: each kind of number has its own process.
    for dtype in f32 bf16 f16 int8 fp8; do
      tests "products_$dtype" 120 "*Cuda*Product*/${dtype}_*"
    done
    for dim in 32 64 128 20; do
      tests "attention_$dim" 120 "*CudaAttention*dim${dim}_*"
    done
    sanitizer memcheck '*CudaRows*:*CudaProduct*bf16_33x255*:*CudaAttention*bf16_bf16_dim64_*'
    sanitizer racecheck '*CudaProduct*bf16_33x255*:*CudaAttention*bf16_bf16_dim64_*'
    tests sampling 60 '*CudaSampling*'
    tests ahead 60 '*CudaAhead*'
    step operations 120 "$bin/strata-devicebench" --device cuda
    engine_bench model 200 --shape llama-3.2-1b --prompt 2048 --gen 32 --batch 1,64
    for draw in '--temperature 1' '--temperature 1 --top-p 0.9'; do
      read -ra arguments <<<"$draw"
      engine_bench "model_draws${arguments[2]:+_top_p}" 100 --shape llama-3.2-1b --prompt 512 \
        --gen 64 --batch 64 --profile "${arguments[@]}"
    done
    served served_temperature_1 --temperature 1
    served served_top_p --temperature 1 --mix 1:top_p=0.9
    step peers 300 python3 "$root/tests/gpu/peers.py" --bench "$bin/strata-devicebench"
    ;;
  tests)
    tests memory 60 'Cuda*Memory*:*CudaPack*'
    tests rows 60 '*CudaRows*'
    tests products 120 '*Cuda*Product*'
    tests sampling 60 '*CudaSampling*'
    tests attention 200 '*CudaAttention*'
    tests ahead 60 '*CudaAhead*'
    # Leaves out Int8, whose bounds fit the CPU's scales: one for each 256 inputs of a row.
    tests plans 300 'PlansVsNaive*-*Int8*'
    tests goldens 120 '*GoldenTest*-*Int8*'
    tests batching 200 '*BatchingTest*'
    tests determinism 200 '*DeterminismTest*'
    tests score_reuse 200 '*ScoreReuse*'
    for model in plain svformer-reuse; do
      step "soak_$model" 90 "$root/tests/gpu/soak.sh" "$bin" "$root/deploy/models/$model"
    done
    step soak_memory_share 90 "$root/tests/gpu/soak.sh" "$bin" "$root/deploy/models/svformer" \
      cuda 30 --memory-share 0.5
    step plans_default 200 env STRATA_TEST_BATCH_INVARIANT=off "$bin/cuda_gpu_tests" \
      --gtest_brief=1 --gtest_filter='PlansVsNaive*-*Int8*:*GoldenTest*'
    ;;
  bench)
    step operations_8b 120 "$bin/strata-devicebench" --device cuda
    step operations_8b_int8_cache 120 "$bin/strata-devicebench" --device cuda --cache-dtype int8
    step operations_8b_fp8 120 "$bin/strata-devicebench" --device cuda --weights fp8 --cache-dtype fp8
    step operations_8b_int8 120 "$bin/strata-devicebench" --device cuda --weights int8
    step operations_8b_invariant 120 "$bin/strata-devicebench" --device cuda --batch-invariant
    # Each also reports the share of time in which the device idles between decode steps.
    engine_bench model_1b 200 --shape llama-3.2-1b --prompt 2048 --gen 32 --batch 1,64
    engine_bench model_1b_in_step 120 --shape llama-3.2-1b --prompt 2048 --gen 32 --batch 64 --in-step
    engine_bench model_8b 400 --shape llama-3.1-8b --prompt 2048 --gen 16 --batch 1,64
    engine_bench model_1b_512_a_step 200 --shape llama-3.2-1b --prompt 2048 --gen 32 --batch 64 \
      --batch-tokens 512
    engine_bench model_1b_draws 100 --shape llama-3.2-1b --prompt 512 --gen 64 --batch 1,64 \
      --temperature 1 --profile
    engine_bench model_1b_draws_top_p 100 --shape llama-3.2-1b --prompt 512 --gen 64 --batch 64 \
      --temperature 1 --top-p 0.9 --profile
    for plan in plain svformer reuse svformer-reuse; do
      engine_bench "plan_$plan" 120 --shape llama-3.2-1b --plan "$plan" --prompt 32768 --gen 16 \
        --batch 4 --decode-only --profile
    done
    # 8 KV heads of 64 in bf16, 1 KiB a token: 16 MiB of values that all layers read.
    for shared in '' --forget-shared-planes; do
      engine_bench "svformer_16k${shared:+_forgotten}" 60 --shape llama-3.2-1b --plan svformer \
        --prompt 16384 --gen 32 --batch 1 --decode-only ${shared:+"$shared"}
    done
    # The most sequences of 2,048 tokens in 8 GiB, and the share of it that the plan's bytes fill.
    for plan in plain svformer reuse svformer-reuse; do
      engine_bench "held_$plan" 60 --shape llama-3.2-1b --plan "$plan" --prompt 2048 --fill 8589934592
    done
    ;;
  peers)
    step attention 300 python3 "$root/tests/gpu/peers.py" --bench "$bin/strata-devicebench"
    ;;
  sanitize)
    for tool in memcheck racecheck initcheck synccheck; do
      sanitizer "$tool" \
        '*CudaRows*:*CudaProduct*33x255*:*CudaProduct*20x321*:*CudaAttention*dim64*:*CudaSampling*'
    done
    ;;
esac

echo
echo "== $phase on $(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null ||
  echo 'no device'), $(cat "$root/COMMIT" 2>/dev/null || git -C "$root" rev-parse HEAD), $(date -u +%F)"
for name in "${steps[@]}"; do
  printf '%-26s %s\n' "$name" "$(cat "$out/$name.verdict")"
done
exit "$failed"
