/* Interleaved rANS (docs/format.md, "Entropy coding"). */
#ifndef SPARSEDIFF_RANS_H
#define SPARSEDIFF_RANS_H

#include "state.h"

int rans_table_is_valid(const uint32_t *table);

/* Room that coding n symbols in so many lanes needs: the largest size, and some more. */
size_t rans_limit(size_t n, size_t lanes);

/* Writes to the end of out[0 … limit); sets *size. */
enum status rans_encode(const Loops *loops, const Run *runs, size_t n_runs, size_t lanes,
                        uint8_t *out, size_t limit, size_t *size);

enum status rans_decode(const Loops *loops, const uint8_t *data, size_t size, Run *runs,
                        size_t n_runs, size_t lanes);

#endif
