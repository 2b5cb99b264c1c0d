/* Words of files: read, hashed, compared or patched, and written, piece by piece. Only a piece is
 * in memory, and in the cache, unless all words are to be kept. */
#ifndef SPARSEDIFF_FILES_H
#define SPARSEDIFF_FILES_H

#include "state.h"

/* Bytes of an open file; of none if the descriptor is negative: there nothing is written. */
typedef struct {
    int64_t descriptor, offset, size;
} Extent;

/* Extents, one after the other, and how far they are read or written. */
typedef struct {
    const Extent *extents;
    size_t extent;  /* the next byte is in this one, */
    int64_t passed; /* so far behind its start */
} Place;

/* XXH3-128 of each part of a bucket, as its canonical form has it. */
typedef struct {
    uint8_t *sums; /* HASH_BYTES each */
    size_t part, n_words; /* where hashing is, in words of the bucket */
    Hash hash;            /* of a part that goes on */
} Sums;

/* What the words of a bucket are, and how they are gone through. */
typedef struct {
    const Loops *loops;
    Layout layout;       /* of one tier */
    const int64_t *ends; /* of its parts, in words, increasing */
    size_t n_parts, n_words, piece_words;
    size_t n_done; /* words */
} Pass;

typedef struct {
    Place place;
    uint8_t *memory; /* for all words, or for those of a piece */
    Sums sums;
} Side;

#define N_CLASSES (N_SYMBOLS / 2) /* of |step| - 1 */

/* Base and target being compared. */
typedef struct {
    Pass pass;
    Side base, target;
    Diff *diff;        /* NULL if steps are only counted */
    int64_t *by_class; /* steps of each part, N_CLASSES */
    uint64_t *largest; /* |step| of each part */
    size_t part;       /* where counting is */
    int keeps_words;   /* there is memory for all */
} Intake;

/* A target being made of its base. */
typedef struct {
    Pass pass;
    Side base;
    Patch *patch; /* NULL if the target is the base; then it is not hashed again */
    Place target;
    Sums target_sums;
} Rebuild;

/* One run of `size` bytes in each `stride` of the n of a place: how many bytes they are; and
 * whether they could be read. */
size_t sample_bytes(uint64_t n, size_t stride, size_t size);
int sample(Place *p, uint64_t n, size_t stride, size_t size, uint8_t *memory);

/* Go through the next piece; there is one while n_done < n_words. */
enum status take_in_piece(Intake *t);
enum status rebuild_piece(Rebuild *r);

#endif
