/* Words of files: read, hashed, compared or patched, and written, piece by piece. */
#define _FILE_OFFSET_BITS 64 /* where long has 32 */
#define _GNU_SOURCE /* sync_file_range */
#include "files.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

/* The next bytes of a place, as far as they are in one extent, of which there are `size` more. */
static Extent next_of(Place *p, size_t size) {
    while (p->passed == p->extents[p->extent].size) {
        p->extent++;
        p->passed = 0;
    }
    Extent e = p->extents[p->extent];
    e.offset += p->passed;
    e.size -= p->passed;
    if ((size_t)e.size > size) e.size = (int64_t)size;
    return e;
}

static int read_on(Place *p, uint8_t *data, size_t size) {
    while (size) {
        const Extent e = next_of(p, size);
        const ssize_t n = pread((int)e.descriptor, data, (size_t)e.size, (off_t)e.offset);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return 0; /* an error, or the end of a file that had more */
        p->passed += n;
        data += n;
        size -= (size_t)n;
    }
    return 1;
}

static void pass_over(Place *p, uint64_t size) {
    while (size) {
        const Extent e = next_of(p, size < SIZE_MAX ? (size_t)size : SIZE_MAX);
        p->passed += e.size;
        size -= (uint64_t)e.size;
    }
}

size_t sample_bytes(uint64_t n, size_t stride, size_t size) {
    const uint64_t left = n % stride;
    return (size_t)(n / stride) * size + (left < size ? (size_t)left : size);
}

int sample(Place *p, uint64_t n, size_t stride, size_t size, uint8_t *memory) {
    for (uint64_t at = 0; at < n; at += stride) {
        const uint64_t left = n - at;
        const size_t here = left < size ? (size_t)left : size;
        if (!read_on(p, memory, here)) return 0;
        memory += here;
        if (left > stride) pass_over(p, stride - size);
    }
    return 1;
}

static int write_on(Place *p, const uint8_t *data, size_t size) {
    while (size) {
        const Extent e = next_of(p, size);
        ssize_t n = (ssize_t)e.size;
        if (e.descriptor >= 0) {
            n = pwrite((int)e.descriptor, data, (size_t)e.size, (off_t)e.offset);
            if (n < 0 && errno == EINTR) continue;
            if (n <= 0) return 0;
#if defined(__linux__)
            /* The disk begins now; what goes wrong is told by the sync at the end. */
            (void)sync_file_range((int)e.descriptor, (off_t)e.offset, (off_t)n,
                                  SYNC_FILE_RANGE_WRITE);
#endif
        }
        p->passed += n;
        data += n;
        size -= (size_t)n;
    }
    return 1;
}

static size_t word_bytes(const Pass *p) { return (size_t)p->layout.word_bits / 8; }

static size_t words_of_piece(const Pass *p) {
    const size_t left = p->n_words - p->n_done;
    return left < p->piece_words ? left : p->piece_words;
}

/* Hash the next n words of a bucket, part by part. */
static void hash_on(Sums *s, const Pass *p, const uint8_t *data, size_t n) {
    for (const size_t end = s->n_words + n; s->n_words < end;) {
        const size_t part_end = (size_t)p->ends[s->part];
        const int is_first = s->n_words == (s->part ? (size_t)p->ends[s->part - 1] : 0);
        const int is_last = part_end <= end;
        const size_t here = (is_last ? part_end : end) - s->n_words;
        uint8_t *sum = s->sums + HASH_BYTES * s->part;
        if (is_first && is_last)
            p->loops->hash(data, here * word_bytes(p), sum);
        else {
            if (is_first) p->loops->hash_begin(&s->hash);
            p->loops->hash_add(&s->hash, data, here * word_bytes(p));
            if (is_last) p->loops->hash_end(&s->hash, sum);
        }
        data += here * word_bytes(p);
        s->n_words += here;
        s->part += (size_t)is_last;
    }
}

/* Steps of the next n words, of the part where counting is. */
static enum status count_on(Intake *t, const uint8_t *base, const uint8_t *target, size_t n) {
    const Loops *loops = t->pass.loops;
    const int width = width_index(&t->pass.layout);
    int64_t members = 0, steps[N_SYMBOLS] = {0}, *row = t->by_class + N_CLASSES * t->part;
    uint64_t largest = 0;
    if (t->diff) {
        const enum status status = loops->diff[width](t->diff, base, target, n, steps, &largest);
        if (status != OK) return status;
    } else
        loops->survey[width](&t->pass.layout, base, target, n, &members, steps, &largest);
    if (!largest) return OK;
    if (largest > t->largest[t->part]) t->largest[t->part] = largest;
    for (unsigned c = 0; c <= number_class(largest - 1); c++)
        row[c] += steps[2 * c] + steps[2 * c + 1];
    return OK;
}

enum status take_in_piece(Intake *t) {
    Pass *p = &t->pass;
    const size_t n = words_of_piece(p), word = word_bytes(p);
    const size_t start = t->keeps_words ? word * p->n_done : 0;
    const uint8_t *base = t->base.memory + start, *target = t->target.memory + start;
    if (!read_on(&t->base.place, t->base.memory + start, word * n) ||
        !read_on(&t->target.place, t->target.memory + start, word * n))
        return NOT_DONE;
    hash_on(&t->base.sums, p, base, n);
    hash_on(&t->target.sums, p, target, n);
    for (const size_t end = p->n_done + n; p->n_done < end;) {
        const size_t part_end = (size_t)p->ends[t->part];
        const size_t here = (part_end < end ? part_end : end) - p->n_done;
        const enum status status = count_on(t, base, target, here);
        if (status != OK) return status;
        base += word * here;
        target += word * here;
        p->n_done += here;
        t->part += p->n_done == part_end;
    }
    return OK;
}

enum status rebuild_piece(Rebuild *r) {
    Pass *p = &r->pass;
    const size_t n = words_of_piece(p), size = word_bytes(p) * n;
    uint8_t *words = r->base.memory;
    if (!read_on(&r->base.place, words, size)) return NOT_DONE;
    hash_on(&r->base.sums, p, words, n);
    if (r->patch) {
        const enum status status = p->loops->patch[width_index(&p->layout)](r->patch, words, n);
        if (status != OK) return status;
        hash_on(&r->target_sums, p, words, n);
    }
    p->n_done += n;
    return write_on(&r->target, words, size) ? OK : NOT_DONE;
}
