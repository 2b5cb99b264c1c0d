/* Integers from text. */
#ifndef SPARSEDIFF_INTEGERS_H
#define SPARSEDIFF_INTEGERS_H

#include <stddef.h>
#include <stdint.h>

/* Read canonical JSON of integers, "[1,-2]", or of lists of them, "[[1],[],[2,3]]", all of them
 * from `low`, which is not above 0, to `high`; 0 if it is anything else.
 *
 * `values` has room for integers_room(text, size), and gets those above INT64_MAX modulo 2^64;
 * `ends` has room for as many, and gets for each list how many values there are up to its end,
 * if there are lists. */
int integers_read(const char *text, size_t size, int64_t low, uint64_t high, int64_t *values,
                  size_t *n_values, int64_t *ends, size_t *n_ends);

/* How many values and lists a text has at most. */
size_t integers_room(const char *text, size_t size);

#endif
