/* Words read from files: hashed, compared and coded piece by piece, in one call. */
#ifndef SPARSEDIFF_FILES_H
#define SPARSEDIFF_FILES_H

#include "state.h"

/* Bytes of an open file. */
typedef struct {
    int64_t descriptor, offset, size;
} Extent;

/* One side of a bucket: its words lie in the extents one after the other. */
typedef struct {
    const Extent *extents;
    uint8_t *memory; /* for all words, or for those of a piece */
    uint8_t *sums;   /* XXH3-128 of each part, HASH_BYTES, as its canonical form has it */
    size_t extent;   /* the next byte is in this one, */
    int64_t passed;  /* so far behind its start */
    Hash hash;       /* of a part that goes on */
} Side;

#define N_CLASSES (N_SYMBOLS / 2) /* of |step| - 1 */

/* A bucket being taken in. */
typedef struct {
    const Loops *loops;
    Layout layout; /* of one tier */
    Diff *diff;    /* NULL if steps are only counted */
    Side base, target;
    const int64_t *ends; /* of its parts, in words, increasing */
    int64_t *by_class;   /* steps of each part, N_CLASSES */
    uint64_t *largest;   /* |step| of each part */
    size_t n_parts, n_words, piece_words;
    int keeps_words; /* there is memory for all */
    size_t part, n_done, n_in_part;
} Intake;

/* Take in the next piece; there is one while n_done < n_words. */
enum status take_in_piece(Intake *t);

#endif
