#!/usr/bin/env bash
# Build the kernels with AddressSanitizer and UBSan and fuzz them, beginning with the inputs that
# are kept in corpus/kernels.zip: run.sh [executions] [seed] [options of libFuzzer]
# With clang, CC=clang run.sh makes a coverage-guided fuzzer and gives it the executions, or with
# -1 and -max_total_time=3600, an hour; with RENEW=1, what it reached is what is kept. With CC
# for another processor, EMULATOR runs it. What takes Python's objects is fuzzed, too, where
# python3 has a library to embed and is for this processor.
set -euo pipefail
cd "$(dirname "$0")/../.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
native=sparsediff/kernels/native
sources=(tests/fuzz/fuzz_kernels.c "$native"/{bucket,files,integers,loops_avx2,loops_avx512,loops_baseline,loops_neon,payload,rans,tables}.c)
flags=(-std=gnu11 -g -O2 -Wall -Wextra -I "$native" -fno-sanitize-recover=all)
library=$(python3 -c 'if True:
    import sysconfig
    value = sysconfig.get_config_var
    print(value("LIBDIR"), "python" + value("LDVERSION"), sysconfig.get_path("include"))' || true)
read -r place name include <<< "$library"
if [ -z "${EMULATOR:-}" ] && [ -e "$include/Python.h" ] && [ -e "$place/lib$name.so" ]; then
    sources+=("$native/choices.c")
    flags+=(-DWITH_PYTHON -DPy_LIMITED_API=0x030b0000 -isystem "$include")
    libraries=(-L "$place" -Wl,-rpath,"$place" -l "$name" -lm)
    export PYTHONMALLOC=malloc # each object by itself
else
    libraries=(-lm)
fi
python3 -m zipfile -e tests/fuzz/corpus/kernels.zip "$work/corpus"
if ${CC:-cc} --version | grep -q clang; then
    "$CC" "${flags[@]}" -DLIBFUZZER -fsanitize=fuzzer,address,undefined "${sources[@]}" "${libraries[@]}" -o "$work/fuzz"
    same=() # addresses, which libFuzzer draws from, so that it draws the same each time
    if setarch -R true 2> /dev/null; then same=(setarch -R); fi
    "${same[@]}" "$work/fuzz" "$work/corpus" -runs="${1:-1000000}" -seed="${2:-1}" -max_len=2048 -reload=0 "${@:3}"
    if [ "${RENEW:-}" ]; then python3 -m tests.fuzz.corpora kernels "$work/corpus" "$work/fuzz"; fi
else
    "${CC:-cc}" "${flags[@]}" -fsanitize=address,undefined "${sources[@]}" "${libraries[@]}" -o "$work/fuzz"
    ${EMULATOR:-} "$work/fuzz" "${1:-1000000}" "${2:-1}" "$work"/corpus/*/*
fi
