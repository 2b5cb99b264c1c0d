#!/usr/bin/env bash
# Build the kernels with AddressSanitizer and UBSan and fuzz them: run.sh [executions] [seed]
# With clang, CC=clang run.sh makes a coverage-guided fuzzer and gives it the executions. With CC
# for another processor, EMULATOR runs it.
set -euo pipefail
cd "$(dirname "$0")/../.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
native=sparsediff/kernels/native
sources=(tests/fuzz/fuzz_kernels.c "$native"/{bucket,files,loops_avx2,loops_avx512,loops_baseline,loops_neon,rans}.c)
flags=(-std=gnu11 -g -O2 -Wall -Wextra -I "$native" -fno-sanitize-recover=all)
if ${CC:-cc} --version | grep -q clang; then
    "$CC" "${flags[@]}" -DLIBFUZZER -fsanitize=fuzzer,address,undefined "${sources[@]}" -o "$work/fuzz"
    "$work/fuzz" -runs="${1:-1000000}" -seed="${2:-1}" -max_len=2048
else
    "${CC:-cc}" "${flags[@]}" -fsanitize=address,undefined "${sources[@]}" -o "$work/fuzz"
    ${EMULATOR:-} "$work/fuzz" "${1:-1000000}" "${2:-1}"
fi
