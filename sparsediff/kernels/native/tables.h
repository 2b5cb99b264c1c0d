/* How a bucket will be coded: which classes make a tier, and with which tables its symbols.
 * What the functions mean is said in ../tiers.py and ../tables.py. */
#ifndef SPARSEDIFF_TABLES_H
#define SPARSEDIFF_TABLES_H

#include "state.h"

#define MAX_CHOSEN 32 /* tiers */
#define MAX_SURVEYED ((int64_t)1 << 26)
#define LOG2_BITS 12 /* entries of a table of logarithms, 2 to this power */

/* What a survey counted, and what is chosen for it. */
typedef struct {
    const int64_t *members, *steps; /* of each class, and N_SYMBOLS of each */
    int n_classes;
    double scale;
    int n_tiers;
    long bounds[MAX_CHOSEN];
    int marks_unchanged[MAX_CHOSEN];
    int64_t bits;
} TierChoice;

/* Before anything is chosen: works out logarithms, once, and not on two threads at once. */
void prepare_logarithms(void);

int survey_is_sound(const TierChoice *c); /* counts that fit each other, of at least one word */
enum status choose_tiers(TierChoice *c);

enum { STEPS_TABLE, STEPS_SYMMETRIC, STEPS_AS_BEFORE };

#define MAX_HEAD (1 + 2 * 2 * (1 + N_SYMBOLS))

/* A tier that changed; its symbols, and what is stored of their tables. */
typedef struct {
    uint64_t n_members, n_marked;
    const uint8_t *gap_symbols, *step_symbols;
    size_t n_gap_symbols, n_step_symbols;
    uint8_t head[MAX_HEAD];
    size_t head_size;
} TierSymbols;

/* Of n_members below 2^32, of which n_marked, at least 1, are marked at random. */
void geometric_table(uint64_t n_marked, uint64_t n_members, uint32_t *table);

/* Fills in the heads, and two tables for each tier at most; returns how many. */
size_t tier_tables(TierSymbols *tiers, size_t n_tiers, uint32_t tables[][N_SYMBOLS]);

/* Reads a stored table from *at on, which is moved past it. */
enum status load_table(const uint8_t *data, size_t size, size_t *at, int is_symmetric,
                       uint32_t *table);

#endif
