/* The loops for one width of words; included with WORD and NAME(x) defined.
 *
 * A block of words becomes bytes, the words' levels, and bit masks that say which words
 * changed. Of each tier a block only adds to a count; which words belong to a tier is worked
 * out, as a mask, where a word of it is marked, and a member's number is then a count of bits. */

#define SIGN ((WORD)((WORD)1 << (8 * sizeof(WORD) - 1)))

/* "Keys": unsigned order of keys is the order of the values. */
static inline WORD NAME(key)(WORD w, enum kind kind) {
    const WORD negative = (WORD)(0 - (w >> (8 * sizeof(WORD) - 1))); /* all ones or zero */
    if (kind == KIND_FLOAT) return (WORD)(w ^ (negative | SIGN));
    return kind == KIND_SIGNED ? (WORD)(w ^ SIGN) : w;
}

static inline WORD NAME(word_of_key)(WORD k, enum kind kind) {
    const WORD positive = (WORD)(0 - (k >> (8 * sizeof(WORD) - 1)));
    if (kind == KIND_FLOAT) return (WORD)(k ^ ((WORD)~positive | SIGN));
    return kind == KIND_SIGNED ? (WORD)(k ^ SIGN) : k;
}

/* |step| - 1 of a step that is not 0, and whether it is negative. */
static inline uint64_t NAME(size)(WORD step, unsigned *negative) {
    const WORD sign = (WORD)(0 - (step >> (8 * sizeof(WORD) - 1)));
    *negative = sign & 1;
    return (uint64_t)(WORD)((WORD)((step ^ sign) - sign) - 1);
}

static inline unsigned NAME(class)(WORD w, const Layout *l) {
    return (unsigned)((w & (WORD)(SIGN - 1)) >> l->shift);
}

/* With the usual shifts as constants the compiler keeps to vectors of words. */
#define LEVELS(shift) \
    for (int i = 0; i < BLOCK; i++) level[i] = (uint8_t)((WORD)(w[i] & (WORD)(SIGN - 1)) >> (shift))

static inline void NAME(levels)(const WORD *w, const Layout *l, uint8_t *level) {
    if (l->n_tiers == 1)
        memset(level, 0, BLOCK);
    else if (l->n_classes > 256)
        for (int i = 0; i < BLOCK; i++) level[i] = l->tier_of_class[NAME(class)(w[i], l)];
    else if (l->shift == 7) /* BF16 */
        LEVELS(7);
    else if (l->shift == 0) /* 8-bit floats */
        LEVELS(0);
    else
        LEVELS(l->shift);
}

#undef LEVELS

/* The n words at `words` as a block: with zeros after them if they are fewer. */
static inline const WORD *NAME(block)(const uint8_t *words, size_t n, WORD *memory) {
    if (n == BLOCK) return (const WORD *)words;
    memset(memory, 0, BLOCK * sizeof(WORD));
    memcpy(memory, words, n * sizeof(WORD));
    return memory;
}

static inline void NAME(changed)(const WORD *base, const WORD *target, uint64_t *changed) {
#if defined(LOOPS_AVX512)
    const unsigned lanes = 64 / sizeof(WORD);
    memset(changed, 0, GROUPS * sizeof *changed);
    for (unsigned i = 0; i < BLOCK; i += lanes) {
        const __m512i b = _mm512_loadu_si512(base + i), t = _mm512_loadu_si512(target + i);
        const uint64_t differ = sizeof(WORD) == 1   ? _mm512_cmpneq_epi8_mask(b, t)
                                : sizeof(WORD) == 2 ? _mm512_cmpneq_epi16_mask(b, t)
                                : sizeof(WORD) == 4 ? _mm512_cmpneq_epi32_mask(b, t)
                                                    : _mm512_cmpneq_epi64_mask(b, t);
        changed[i / 64] |= differ << i % 64;
    }
#else
    uint8_t differs[BLOCK];
    for (int i = 0; i < BLOCK; i++) differs[i] = base[i] != target[i];
    for (int g = 0; g < GROUPS; g++) changed[g] = mask_between(differs + 64 * g, 1, 1);
#endif
}

/* Masks of the words that differ, of whole blocks; how many do. */
static size_t NAME(differing)(const uint8_t *base, const uint8_t *target, size_t n_words,
                              uint64_t *masks) {
    size_t n_differing = 0;
    for (size_t at = 0; at < n_words; at += BLOCK, masks += GROUPS) {
        const size_t n = n_words - at < BLOCK ? n_words - at : BLOCK;
        WORD b_memory[BLOCK], t_memory[BLOCK];
        NAME(changed)(NAME(block)(base + at * sizeof(WORD), n, b_memory),
                      NAME(block)(target + at * sizeof(WORD), n, t_memory), masks);
        for (int g = 0; g < GROUPS; g++) n_differing += popcount(masks[g]);
    }
    return n_differing;
}

/* Which words of group g there are, in a block of n. */
static inline uint64_t NAME(valid)(size_t n, int g) {
    const size_t before = 64 * (size_t)g;
    return n >= before + 64 ? UINT64_MAX : n <= before ? 0 : ((uint64_t)1 << (n - before)) - 1;
}

/* Note how far a changed word moves; 0 without memory. */
static inline int NAME(note_step)(OutTier *t, WORD base, WORD target, enum kind kind) {
    const WORD step = (WORD)(NAME(key)(target, kind) - NAME(key)(base, kind));
    if (!reserve(&t->steps, sizeof step)) return 0;
    memcpy(t->steps.data + t->steps.size, &step, sizeof step);
    t->steps.size += sizeof step;
    return 1;
}

/* Turn the steps noted into symbols and extra bits. */
static int NAME(put_steps)(OutTier *t, int64_t *counts, uint64_t *largest) {
    const size_t n = t->steps.size / sizeof(WORD);
    const WORD *steps = (const WORD *)t->steps.data;
    if (!reserve(&t->step_symbols, n) || !reserve(&t->step_bits.bytes, 8 * n + 16)) return 0;
    uint8_t *symbols = t->step_symbols.data + t->step_symbols.size;
    Bits bits = t->step_bits; /* in registers */
    uint64_t widest = *largest;
    for (size_t i = 0; i < n; i++) {
        unsigned negative;
        const uint64_t v = NAME(size)(steps[i], &negative);
        const unsigned c = number_class(v), width = class_width(c);
        uint64_t extra = v - class_start(c);
        if (v >= widest) widest = v + 1;
        symbols[i] = (uint8_t)(2 * c + negative);
        counts[symbols[i]]++;
        if (width > MAX_PUT) {
            put_bits(&bits, extra & UINT32_MAX, 32);
            extra >>= 32;
        }
        put_bits(&bits, extra, width > MAX_PUT ? width - 32 : width);
    }
    t->step_bits = bits;
    t->step_symbols.size += n;
    t->n_changed += n;
    t->steps.size = 0;
    *largest = widest;
    return 1;
}

#if defined(LOOPS_AVX512)
#include "words_avx512.inc.h"
#else

static enum status NAME(diff)(Diff *d, const uint8_t *base, const uint8_t *target, size_t n_words,
                              int64_t *steps, uint64_t *largest) {
    const Layout *l = &d->layout;
    if (n_words > MAX_WORDS - d->reached[0]) return BAD_TIERS;
    for (size_t at = 0; at < n_words; at += BLOCK) {
        const size_t n = n_words - at < BLOCK ? n_words - at : BLOCK;
        WORD b_memory[BLOCK], t_memory[BLOCK];
        const WORD *b = NAME(block)(base + at * sizeof(WORD), n, b_memory);
        const WORD *t = NAME(block)(target + at * sizeof(WORD), n, t_memory);
        uint8_t level[BLOCK];
        uint64_t changed[GROUPS];
        NAME(levels)(b, l, level);
        NAME(changed)(b, t, changed);
        for (int g = 0; g < GROUPS; g++) {
            uint64_t marked = changed[g];
            for (int i = 0; i < d->n_inverted; i++)
                marked ^= members(level, l, g, d->inverted[i][0], d->inverted[i][1]) &
                          NAME(valid)(n, g);
            for (; marked; marked &= marked - 1) {
                const int i = __builtin_ctzll(marked), k = l->tier_of_level[level[64 * g + i]];
                const uint64_t below = (marked & (0 - marked)) - 1;
                uint64_t number = d->reached[k] - d->reached[k + 1];
                for (int e = 0; e < g; e++) number += popcount(members(level, l, e, k, k));
                number += popcount(members(level, l, g, k, k) & below);
                if (!note_mark(&d->tiers[k], number)) return NO_MEMORY;
            }
            for (uint64_t left = changed[g]; left; left &= left - 1) {
                const int i = 64 * g + __builtin_ctzll(left);
                OutTier *tier = &d->tiers[l->tier_of_level[level[i]]];
                if (!NAME(note_step)(tier, b[i], t[i], l->kind)) return NO_MEMORY;
            }
        }
        d->reached[0] += n;
        count_levels(level, l, d->reached);
    }
    *largest = 0;
    for (int k = 0; k < l->n_tiers; k++)
        if (!put_marks(&d->tiers[k]) || !NAME(put_steps)(&d->tiers[k], steps, largest))
            return NO_MEMORY;
    return OK;
}

static enum status NAME(patch)(Patch *p, uint8_t *words, size_t n_words) {
    const Layout *l = &p->layout;
    if (n_words > MAX_WORDS - p->reached[0]) return BAD_TIERS;
    for (size_t at = 0; at < n_words; at += BLOCK) {
        const size_t n = n_words - at < BLOCK ? n_words - at : BLOCK;
        WORD b_memory[BLOCK];
        const WORD *b = NAME(block)(words + at * sizeof(WORD), n, b_memory);
        WORD *o = (WORD *)(words + at * sizeof(WORD)); /* where b points, too, if n == BLOCK */
        uint8_t level[BLOCK];
        uint64_t changed[GROUPS] = {0};
        NAME(levels)(b, l, level);
        p->reached[0] += n;
        count_levels(level, l, p->reached);
        for (int i = 0; i < p->n_inverted; i++)
            for (int g = 0; g < GROUPS; g++)
                changed[g] |= members(level, l, g, p->inverted[i][0], p->inverted[i][1]) &
                              NAME(valid)(n, g);
        for (int k = 0; k < l->n_tiers; k++) {
            const uint64_t passed = p->reached[k] - p->reached[k + 1];
            if (*p->next[k] >= passed) continue;
            uint64_t mask[GROUPS], before = passed;
            for (int g = 0; g < GROUPS; g++) {
                mask[g] = members(level, l, g, k, k) & NAME(valid)(n, g);
                before -= popcount(mask[g]);
            }
            for (int g = 0; g < GROUPS; g++) {
                const uint64_t end = before + popcount(mask[g]);
                for (; *p->next[k] < end; p->next[k]++)
                    changed[g] ^= select_bit(mask[g], (unsigned)(*p->next[k] - before));
                before = end;
            }
        }
        for (int g = 0; g < GROUPS; g++)
            for (uint64_t left = changed[g]; left; left &= left - 1) {
                const int i = 64 * g + __builtin_ctzll(left);
                InTier *tier = &p->tiers[l->tier_of_level[level[i]]];
                if (tier->steps_used == tier->n_changed) return FEW_STEPS;
                const WORD step = ((const WORD *)tier->steps)[tier->steps_used++];
                o[i] = NAME(word_of_key)((WORD)(NAME(key)(b[i], l->kind) + step), l->kind);
            }
    }
    return OK;
}

#endif

static void NAME(survey)(const Layout *l, const uint8_t *base, const uint8_t *target,
                         size_t n_words, int64_t *members, int64_t *steps, uint64_t *largest) {
    uint64_t widest = 0;
    uint32_t partial[8][256]; /* so that words of one class do not wait for each other */
    const int in_parts = l->n_classes > 1 && l->n_classes <= 256;
    if (in_parts) memset(partial, 0, sizeof partial);
    for (size_t at = 0; at < n_words; at += BLOCK) {
        const size_t n = n_words - at < BLOCK ? n_words - at : BLOCK;
        WORD b_memory[BLOCK], t_memory[BLOCK];
        const WORD *b = NAME(block)(base + at * sizeof(WORD), n, b_memory);
        const WORD *t = NAME(block)(target + at * sizeof(WORD), n, t_memory);
        uint64_t changed[GROUPS];
        if (l->n_classes == 1)
            members[0] += (int64_t)n;
        else if (in_parts && n == BLOCK)
            for (size_t i = 0; i < BLOCK; i += 8)
                for (size_t j = 0; j < 8; j++) partial[j][NAME(class)(b[i + j], l)]++;
        else
            for (size_t i = 0; i < n; i++) members[NAME(class)(b[i], l)]++;
        NAME(changed)(b, t, changed);
        for (int g = 0; g < GROUPS; g++)
            for (uint64_t left = changed[g]; left; left &= left - 1) {
                const int i = 64 * g + __builtin_ctzll(left);
                unsigned negative;
                const WORD step = (WORD)(NAME(key)(t[i], l->kind) - NAME(key)(b[i], l->kind));
                const uint64_t v = NAME(size)(step, &negative);
                const unsigned class = l->n_classes == 1 ? 0 : NAME(class)(b[i], l);
                if (v >= widest) widest = v + 1;
                steps[class * N_SYMBOLS + 2 * number_class(v) + negative]++;
            }
    }
    for (int c = 0; in_parts && c < l->n_classes; c++)
        for (int j = 0; j < 8; j++) members[c] += partial[j][c];
    *largest = widest;
}

#undef SIGN
#undef WORD
#undef NAME
