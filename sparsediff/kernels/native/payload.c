#include "payload.h"

#include "rans.h"
#include "tables.h"

#define MAX_VARINT 10
#define MAX_RUNS (2 * MAX_TIERS)

/* A lane costs 4 bytes, so below 0.1 % of what it codes; many make decoding fast. */
static unsigned lanes_log2(uint64_t n_symbols) {
    unsigned bits = 0;
    while (bits < 64 && n_symbols >> bits) bits++;
    return bits < 13 ? 0 : bits - 13 > 11 ? 11 : bits - 13;
}

static uint8_t *put_varint(uint8_t *out, uint64_t value) {
    for (; value > 127; value >>= 7) *out++ = (uint8_t)(value | 128);
    *out++ = (uint8_t)value;
    return out;
}

static uint8_t *put(uint8_t *out, const void *data, size_t size) {
    if (size) memcpy(out, data, size);
    return out + size;
}

static size_t bits_size(const Bits *b) { return b->bytes.size + (b->fill + 7) / 8; }

static uint8_t *put_all_bits(uint8_t *out, const Bits *b) {
    out = put(out, b->bytes.data, b->bytes.size);
    return put(out, &b->partial, (b->fill + 7) / 8);
}

/* Runs and their tables, in the order in which they are coded; how many symbols there are. */
static uint64_t runs_of(const Diff *d, const uint32_t (*tables)[N_SYMBOLS], Run *runs, size_t *n) {
    uint64_t n_symbols = 0;
    *n = 0;
    for (int k = 0; k < d->layout.n_tiers; k++) {
        const Bytes each[2] = {d->tiers[k].gap_symbols, d->tiers[k].step_symbols};
        for (int i = 0; i < 2; i++)
            if (d->tiers[k].n_changed && each[i].size) {
                runs[*n] = (Run){each[i].data, each[i].size, tables[*n]};
                n_symbols += each[i].size;
                ++*n;
            }
    }
    return n_symbols;
}

static uint8_t *put_head(uint8_t *out, const Diff *d, const TierSymbols *tiers) {
    const Layout *l = &d->layout;
    *out++ = MODE_TIERS;
    out = put_varint(out, (uint64_t)l->n_tiers);
    for (int c = 1, first = 0; c < l->n_classes; c++)
        if (l->tier_of_class[c] != l->tier_of_class[c - 1]) {
            out = put_varint(out, (uint64_t)(c - first));
            first = c;
        }
    for (int k = 0; k < l->n_tiers; k++) {
        out = put_varint(out, d->reached[k] - d->reached[k + 1]);
        out = put_varint(out, d->tiers[k].n_changed);
        if (d->tiers[k].n_changed) {
            out = put(out, tiers->head, tiers->head_size);
            tiers++;
        }
    }
    return out;
}

enum status payload_of(const Loops *loops, Diff *d, uint8_t **memory, size_t *start, size_t *size) {
    enum status status = diff_end(d);
    TierSymbols *tiers = calloc(MAX_TIERS, sizeof *tiers);
    uint32_t(*tables)[N_SYMBOLS] = malloc(MAX_RUNS * sizeof *tables);
    size_t n = 0, n_runs, n_extra = 0, n_head = 4 * MAX_VARINT, n_coded = 0;
    uint8_t *all = NULL, *head = NULL;
    Run runs[MAX_RUNS];
    if (status == OK && !(tiers && tables)) status = NO_MEMORY;
    for (int k = 0; status == OK && k < d->layout.n_tiers; k++) {
        const OutTier *t = &d->tiers[k];
        n_extra += bits_size(&t->gap_bits) + bits_size(&t->step_bits);
        n_head += 3 * MAX_VARINT + MAX_HEAD;
        if (!t->n_changed) continue;
        tiers[n++] = (TierSymbols){.n_members = d->reached[k] - d->reached[k + 1],
                                   .n_marked = t->gap_symbols.size,
                                   .gap_symbols = t->gap_symbols.data,
                                   .step_symbols = t->step_symbols.data,
                                   .n_gap_symbols = t->gap_symbols.size,
                                   .n_step_symbols = t->step_symbols.size};
    }
    if (status == OK) {
        tier_tables(tiers, n, tables);
        const uint64_t n_symbols = runs_of(d, (const uint32_t(*)[N_SYMBOLS])tables, runs, &n_runs);
        const unsigned log2 = lanes_log2(n_symbols);
        const size_t limit = rans_limit(n_symbols, (size_t)1 << log2);
        all = malloc(2 * n_head + limit + n_extra); /* the head at the start, and where it belongs */
        head = malloc(n_head);
        status = all && head ? rans_encode(loops, runs, n_runs, (size_t)1 << log2, all + n_head, limit,
                                           &n_coded)
                             : NO_MEMORY;
        if (status == OK) {
            uint8_t *end = put_head(head, d, tiers);
            *end++ = (uint8_t)log2;
            end = put_varint(end, n_coded);
            *start = n_head + limit - n_coded - (size_t)(end - head);
            memcpy(all + *start, head, (size_t)(end - head));
            end = all + n_head + limit;
            for (int k = 0; k < d->layout.n_tiers; k++)
                end = put_all_bits(put_all_bits(end, &d->tiers[k].gap_bits), &d->tiers[k].step_bits);
            *size = (size_t)(end - all) - *start;
        }
    }
    free(tiers);
    free(tables);
    free(head);
    if (status != OK) {
        free(all);
        all = NULL;
    }
    *memory = all;
    return status;
}

/* Bytes being read; `status` as soon as something is wrong. */
typedef struct {
    const uint8_t *data;
    size_t size, at;
    enum status status;
} Reader;

static void refuse(Reader *r, enum status status) {
    if (r->status == OK) r->status = status;
}

static unsigned take_byte(Reader *r) {
    if (r->status == OK && r->at < r->size) return r->data[r->at++];
    refuse(r, TABLE_SHORT);
    return 0;
}

static uint64_t take_varint(Reader *r) {
    uint64_t value = 0;
    for (unsigned shift = 0; shift <= 56; shift += 7) {
        const unsigned byte = take_byte(r);
        value |= (uint64_t)(byte & 127) << shift;
        if (byte < 128) return value;
    }
    refuse(r, TABLE_NUMBER);
    return 0;
}

static const uint8_t *take_bytes(Reader *r, uint64_t n) {
    if (r->status != OK || n > r->size - r->at) {
        refuse(r, TABLE_SHORT);
        return NULL;
    }
    r->at += (size_t)n;
    return r->data + r->at - n;
}

static void take_table(Reader *r, int is_symmetric, uint32_t *table) {
    if (r->status == OK) r->status = load_table(r->data, r->size, &r->at, is_symmetric, table);
}

static void take_layout(Reader *r, Layout *l) {
    long bounds[MAX_TIERS] = {0};
    const uint64_t n = take_varint(r);
    if (r->status == OK && (n < 1 || n > MAX_TIERS || n > (uint64_t)l->n_classes))
        refuse(r, BAD_TIER_COUNT);
    for (uint64_t k = 1; r->status == OK && k < n; k++) {
        const uint64_t more = take_varint(r);
        if (r->status == OK && (!more || more >= (uint64_t)(l->n_classes - bounds[k - 1])))
            refuse(r, BAD_BOUNDS);
        else
            bounds[k] = bounds[k - 1] + (long)more;
    }
    if (r->status == OK && !layout_init(l, l->word_bits, (int)l->kind, l->shift, bounds, (size_t)n))
        refuse(r, BAD_BOUNDS);
}

/* Counts of a tier and the tables of its runs, the last of which is `previous` from then on. */
static void take_tier(Reader *r, InTier *t, uint64_t n_left, Run *runs, size_t *n_runs,
                      uint32_t (*tables)[N_SYMBOLS], uint32_t *previous) {
    t->n_members = take_varint(r);
    t->n_changed = take_varint(r);
    if (r->status == OK && (t->n_changed > t->n_members || t->n_members > n_left))
        refuse(r, BAD_COUNTS);
    if (r->status != OK || !t->n_changed) return;
    const unsigned kinds = take_byte(r);
    const uint64_t rest = t->n_members - t->n_changed;
    t->n_marked = rest < t->n_changed ? rest : t->n_changed;
    if (t->n_marked) {
        if (kinds & 1) take_table(r, 0, tables[*n_runs]);
        else geometric_table(t->n_marked, t->n_members, tables[*n_runs]);
        runs[*n_runs] = (Run){NULL, t->n_marked, tables[*n_runs]};
        ++*n_runs;
    } else if (kinds & 1)
        refuse(r, BAD_GAP_TABLE);
    if (kinds >> 1 == STEPS_TABLE || kinds >> 1 == STEPS_SYMMETRIC)
        take_table(r, kinds >> 1 == STEPS_SYMMETRIC, previous);
    else if (kinds >> 1 != STEPS_AS_BEFORE || !rans_table_is_valid(previous))
        refuse(r, BAD_STEP_TABLE);
    if (r->status != OK) return;
    memcpy(tables[*n_runs], previous, sizeof tables[0]);
    runs[*n_runs] = (Run){NULL, t->n_changed, tables[*n_runs]};
    ++*n_runs;
}

/* All symbols, run after run; the caller has seen that there are no more than words. */
static void take_symbols(Reader *r, const Loops *loops, Run *runs, size_t n_runs,
                         uint8_t **symbols) {
    uint64_t n_symbols = 0;
    for (size_t i = 0; i < n_runs; i++) n_symbols += runs[i].n;
    const unsigned log2 = take_byte(r);
    if (r->status == OK && !n_runs) refuse(r, BAD_EMPTY);
    if (r->status == OK && log2 != lanes_log2(n_symbols)) refuse(r, BAD_LANES);
    const uint64_t n_coded = take_varint(r);
    const uint8_t *coded = take_bytes(r, n_coded);
    if (r->status != OK) return;
    if (!(*symbols = malloc((size_t)n_symbols))) {
        refuse(r, NO_MEMORY);
        return;
    }
    for (size_t i = 0, at = 0; i < n_runs; at += runs[i++].n) runs[i].symbols = *symbols + at;
    r->status = rans_decode(loops, coded, (size_t)n_coded, runs, n_runs, (size_t)1 << log2);
}

static const uint8_t *take_extra(Reader *r, const Run *run, int is_steps, size_t *size) {
    *size = (size_t)((extra_bits(run->symbols, run->n, is_steps) + 7) / 8);
    return take_bytes(r, *size);
}

enum status patch_from(const Loops *loops, Patch *p, const uint8_t *data, size_t size,
                       uint64_t n_words, uint8_t **symbols) {
    Reader r = {data, size, 0, OK};
    InTier tiers[MAX_TIERS] = {{0}};
    Run runs[MAX_RUNS];
    uint32_t previous[N_SYMBOLS] = {0}; /* codes nothing */
    uint32_t(*tables)[N_SYMBOLS] = malloc(MAX_RUNS * sizeof *tables);
    size_t n_runs = 0, run = 0;
    uint64_t n_left = n_words;
    *symbols = NULL;
    if (!tables) return NO_MEMORY;
    if (n_words > MAX_WORDS) refuse(&r, BAD_COUNTS);
    if (take_byte(&r) != MODE_TIERS) refuse(&r, BAD_MODE);
    take_layout(&r, &p->layout);
    for (int k = 0; r.status == OK && k < p->layout.n_tiers; k++) {
        take_tier(&r, &tiers[k], n_left, runs, &n_runs, tables, previous);
        n_left -= tiers[k].n_members;
    }
    take_symbols(&r, loops, runs, n_runs, symbols);
    for (int k = 0; r.status == OK && k < p->layout.n_tiers; k++) {
        InTier *t = &tiers[k];
        if (t->n_changed && t->n_marked) {
            t->gap_symbols = runs[run].symbols;
            t->gap_extra = take_extra(&r, &runs[run++], 0, &t->gap_extra_size);
        }
        if (t->n_changed) {
            t->step_symbols = runs[run].symbols;
            t->step_extra = take_extra(&r, &runs[run++], 1, &t->step_extra_size);
        }
        if (r.status == OK && !patch_set_tier(p, k, *t, t->n_marked, t->n_changed))
            refuse(&r, BAD_COUNTS);
    }
    if (r.status == OK && r.at != r.size) refuse(&r, BAD_END);
    free(tables);
    return r.status == OK ? patch_begin(p) : r.status;
}
