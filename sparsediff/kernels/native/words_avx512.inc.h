/* The loops for one width of words with AVX-512; words.inc.h includes them in place of its own. */

static enum status NAME(diff)(Diff *d, const uint8_t *base, const uint8_t *target, size_t n_words,
                              int64_t *steps, uint64_t *largest) {
    const Layout *l = &d->layout;
    if (n_words > MAX_WORDS - d->reached[0]) return BAD_TIERS;
    const uint64_t inverted = tiers_of((const uint8_t(*)[2])d->inverted, d->n_inverted);
    uint64_t in[MAX_TIERS][GROUPS], before[MAX_TIERS], passed[MAX_TIERS];
    passed_from(d->reached, passed);
    for (size_t at = 0; at < n_words; at += BLOCK) {
        const size_t n = n_words - at < BLOCK ? n_words - at : BLOCK;
        WORD b_memory[BLOCK], t_memory[BLOCK];
        const WORD *b = NAME(block)(base + at * sizeof(WORD), n, b_memory);
        const WORD *t = NAME(block)(target + at * sizeof(WORD), n, t_memory);
        uint8_t level[BLOCK];
        uint64_t changed[GROUPS];
        NAME(levels)(b, l, level);
        NAME(changed)(b, t, changed);
        memcpy(before, passed, sizeof before);
        tier_masks(level, l, n, in, passed);
        const uint64_t here = inverted ? inverted & tiers_below(before, passed) : 0;
        for (int g = 0; g < GROUPS; g++) {
            uint64_t marked = changed[g];
            for (uint64_t k = here; k; k &= k - 1) marked ^= in[__builtin_ctzll(k)][g];
            for (; marked; marked &= marked - 1) {
                const unsigned i = 64 * (unsigned)g + (unsigned)__builtin_ctzll(marked);
                const int k = l->tier_of_level[level[i]];
                const uint64_t number = before[k] + bits_before(in[k], i);
                if (!note_mark(&d->tiers[k], number)) return NO_MEMORY;
            }
            for (uint64_t left = changed[g]; left; left &= left - 1) {
                const int i = 64 * g + __builtin_ctzll(left);
                OutTier *tier = &d->tiers[l->tier_of_level[level[i]]];
                if (!NAME(note_step)(tier, b[i], t[i], l->kind)) return NO_MEMORY;
            }
        }
    }
    reached_from(passed, d->reached);
    *largest = 0;
    for (int k = 0; k < l->n_tiers; k++)
        if (!put_marks(&d->tiers[k]) || !NAME(put_steps)(&d->tiers[k], steps, largest))
            return NO_MEMORY;
    return OK;
}

/* Move word i by the next step of its tier; 0 if there is none left. */
static inline int NAME(move)(InTier *tier, const WORD *b, WORD *o, unsigned i, enum kind kind) {
    if (tier->steps_used == tier->n_changed) return 0;
    const WORD step = ((const WORD *)tier->steps)[tier->steps_used++];
    o[i] = NAME(word_of_key)((WORD)(NAME(key)(b[i], kind) + step), kind);
    return 1;
}

static enum status NAME(patch)(Patch *p, uint8_t *words, size_t n_words) {
    const Layout *l = &p->layout;
    if (n_words > MAX_WORDS - p->reached[0]) return BAD_TIERS;
    const uint64_t inverted = tiers_of((const uint8_t(*)[2])p->inverted, p->n_inverted);
    uint64_t in[MAX_TIERS][GROUPS], before[MAX_TIERS], passed[MAX_TIERS], next[MAX_TIERS];
    passed_from(p->reached, passed);
    for (int k = 0; k < MAX_TIERS; k++) next[k] = k < l->n_tiers ? *p->next[k] : UINT64_MAX;
    for (size_t at = 0; at < n_words; at += BLOCK) {
        const size_t n = n_words - at < BLOCK ? n_words - at : BLOCK;
        WORD memory[BLOCK];
        const WORD *b = NAME(block)(words + at * sizeof(WORD), n, memory);
        WORD *o = (WORD *)(words + at * sizeof(WORD)); /* where b points, too, if n == BLOCK */
        uint8_t level[BLOCK];
        NAME(levels)(b, l, level);
        memcpy(before, passed, sizeof before);
        tier_masks(level, l, n, in, passed);
        /* Tiers with a mark here, and of those that mark the unchanged all with members here. */
        uint64_t due = tiers_below(next, passed);
        if (inverted) due |= inverted & tiers_below(before, passed);
        for (; due; due &= due - 1) {
            const int k = __builtin_ctzll(due);
            InTier *tier = &p->tiers[k];
            const int is_inverted = (int)(inverted >> k & 1);
            uint64_t first = before[k], unmarked[GROUPS];
            if (is_inverted) memcpy(unmarked, in[k], sizeof unmarked);
            const uint32_t *mark = p->next[k];
            for (unsigned g = 0; *mark < passed[k]; g++) {
                const uint64_t end = first + popcount(in[k][g]);
                for (; *mark < end; mark++) {
                    const uint64_t bit = select_bit(in[k][g], (unsigned)(*mark - first));
                    const unsigned i = 64 * g + (unsigned)__builtin_ctzll(bit);
                    if (is_inverted)
                        unmarked[g] ^= bit;
                    else if (!NAME(move)(tier, b, o, i, l->kind))
                        return FEW_STEPS;
                }
                first = end;
            }
            p->next[k] = mark;
            next[k] = *mark;
            if (!is_inverted) continue;
            for (unsigned g = 0; g < GROUPS; g++)
                for (; unmarked[g]; unmarked[g] &= unmarked[g] - 1) {
                    const unsigned i = 64 * g + (unsigned)__builtin_ctzll(unmarked[g]);
                    if (!NAME(move)(tier, b, o, i, l->kind)) return FEW_STEPS;
                }
        }
    }
    reached_from(passed, p->reached);
    return OK;
}
