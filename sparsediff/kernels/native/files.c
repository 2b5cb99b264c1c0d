/* Words read from files: hashed, compared and coded piece by piece. */
#include "files.h"

#include <errno.h>
#include <unistd.h>

/* Read the next bytes of a side, which its extents have. */
static int read_on(Side *s, uint8_t *buffer, size_t size) {
    while (size) {
        const Extent *e = s->extents + s->extent;
        if (s->passed == e->size) {
            s->extent++;
            s->passed = 0;
            continue;
        }
        const size_t left = (size_t)(e->size - s->passed);
        const ssize_t n = pread((int)e->descriptor, buffer, left < size ? left : size,
                                (off_t)(e->offset + s->passed));
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return 0; /* an error, or the end of a file that had more */
        s->passed += n;
        buffer += n;
        size -= (size_t)n;
    }
    return 1;
}

/* Hash bytes of a part, which may begin or end with them. */
static void hash_on(Side *s, const Loops *loops, const uint8_t *data, size_t size, int is_first,
                    int is_last, size_t part) {
    uint8_t *sum = s->sums + HASH_BYTES * part;
    if (is_first && is_last) {
        loops->hash(data, size, sum);
        return;
    }
    if (is_first) loops->hash_begin(&s->hash);
    loops->hash_add(&s->hash, data, size);
    if (is_last) loops->hash_end(&s->hash, sum);
}

/* Steps of the words of one part, which lie one after the other. */
static enum status count_on(Intake *t, const uint8_t *base, const uint8_t *target, size_t n) {
    const int width = width_index(&t->layout);
    int64_t members = 0, steps[N_SYMBOLS] = {0}, *row = t->by_class + N_CLASSES * t->part;
    uint64_t largest = 0;
    if (t->diff) {
        const enum status status = t->loops->diff[width](t->diff, base, target, n, steps, &largest);
        if (status != OK) return status;
    } else
        t->loops->survey[width](&t->layout, base, target, n, &members, steps, &largest);
    if (!largest) return OK;
    if (largest > t->largest[t->part]) t->largest[t->part] = largest;
    for (unsigned c = 0; c <= number_class(largest - 1); c++)
        row[c] += steps[2 * c] + steps[2 * c + 1];
    return OK;
}

enum status take_in_piece(Intake *t) {
    const size_t word = (size_t)t->layout.word_bits / 8, left = t->n_words - t->n_done;
    const size_t n = left < t->piece_words ? left : t->piece_words;
    const size_t start = t->keeps_words ? word * t->n_done : 0;
    uint8_t *base = t->base.memory + start, *target = t->target.memory + start;
    if (!read_on(&t->base, base, word * n) || !read_on(&t->target, target, word * n))
        return NOT_READ;
    for (const size_t end = t->n_done + n; t->n_done < end;) {
        const size_t part_end = (size_t)t->ends[t->part];
        const int is_last = part_end <= end;
        const size_t here = (is_last ? part_end : end) - t->n_done;
        hash_on(&t->base, t->loops, base, word * here, !t->n_in_part, is_last, t->part);
        hash_on(&t->target, t->loops, target, word * here, !t->n_in_part, is_last, t->part);
        const enum status status = count_on(t, base, target, here);
        if (status != OK) return status;
        base += word * here;
        target += word * here;
        t->n_done += here;
        t->n_in_part = is_last ? 0 : t->n_in_part + here;
        t->part += (size_t)is_last;
    }
    return OK;
}
