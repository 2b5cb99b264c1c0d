/* Payloads of buckets coded as tiers (docs/format.md, "Bucket payload"): a bucket's tiers to bytes,
 * and back from bytes that may be anything. */
#ifndef SPARSEDIFF_PAYLOAD_H
#define SPARSEDIFF_PAYLOAD_H

#include "state.h"

#define MODE_TIERS 1

/* The payload of a bucket, all of whose words were gone through. It lies in memory, which the caller
 * frees, from *start on. */
enum status payload_of(const Loops *loops, Diff *d, uint8_t **memory, size_t *start, size_t *size);

/* What a payload says of n_words words, checked as far as it can be without these. The layout has
 * one tier; it gets those of the payload, which must stay where it is, as *symbols must, which the
 * caller frees, whatever comes of it. */
enum status patch_from(const Loops *loops, Patch *p, const uint8_t *data, size_t size,
                       uint64_t n_words, uint8_t **symbols);

#endif
