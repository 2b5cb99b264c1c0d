/* Interleaved rANS (docs/format.md, "Entropy coding"). */
#ifndef SPARSEDIFF_RANS_H
#define SPARSEDIFF_RANS_H

#include "state.h"

/* A run of symbols coded with one frequency table of 256 entries that sum to 2^14. */
typedef struct {
    uint8_t *symbols;
    size_t n;
    const uint32_t *table;
} Run;

int rans_table_is_valid(const uint32_t *table);

/* Largest size that n symbols can take in so many lanes. */
size_t rans_limit(size_t n, size_t lanes);

/* Writes to the end of out[0 … limit); sets *size. */
enum status rans_encode(const Run *runs, size_t n_runs, size_t lanes, uint8_t *out, size_t limit,
                        size_t *size);

enum status rans_decode(const uint8_t *data, size_t size, Run *runs, size_t n_runs, size_t lanes);

#endif
