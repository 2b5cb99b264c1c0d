#!/usr/bin/env bash
# Instructions a word of the kernels for 64-bit ARM, counted by qemu, where no such machine is.
# Needs Debian's gcc-aarch64-linux-gnu and qemu-user-static. With ARCH=x86_64, those for x86-64.
set -euo pipefail
cd "$(dirname "$0")/../.."

arch=${ARCH:-aarch64}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
native=sparsediff/kernels/native
"$arch-linux-gnu-gcc" -std=gnu11 -static -O3 -I "$native" tests/fuzz/one_pass.c \
    "$native"/{bucket,loops_avx2,loops_avx512,loops_baseline,loops_neon}.c -o "$work/one_pass"

# With one instruction a block and no links between blocks, each makes a line.
count() {
    "qemu-$arch-static" -cpu max -singlestep -d exec,nochain -D /dev/stdout "$work/one_pass" "$@" |
        grep -c '^Trace'
}

n_words=32768
if [ "$arch" = aarch64 ]; then fast=neon; else fast=avx2; fi
printf '%-9s %9s %6s %6s\n' loops changed diff patch
for changed in 25 184; do
    words=$(count baseline words $n_words $changed)
    coded=$(count baseline coded $n_words $changed)
    for loops in baseline $fast; do
        diff=$(count $loops diff $n_words $changed)
        patch=$(count $loops patch $n_words $changed)
        awk -v n=$n_words -v c=$changed -v d=$((diff - words)) -v p=$((patch - coded)) -v l=$loops \
            'BEGIN { printf "%-9s %7.2f %% %6.2f %6.2f\n", l, c / 100, d / n, p / n }'
    done
done
