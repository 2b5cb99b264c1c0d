/* take_in: a bucket's words, read from files, hashed, compared and coded in one call. */
#include <time.h>

#include "files.h"
#include "python.h"

/* Buffers of both sides, and of what is found out about the parts. */
enum { EXTENTS, MEMORY, SUMS, N_OF_SIDE };
enum { ENDS = 2 * N_OF_SIDE, BY_CLASS, LARGEST, N_VIEWS };

static int view(Py_buffer *v, PyObject *o, int flags) {
    if (PyObject_GetBuffer(o, v, flags)) {
        v->obj = NULL;
        return 0;
    }
    return 1;
}

static int views_of(Py_buffer *v, PyObject *side) {
    PyObject *extents, *memory, *sums;
    return PyArg_ParseTuple(side, "OOO", &extents, &memory, &sums) &&
           view(v + EXTENTS, extents, PyBUF_SIMPLE) && view(v + MEMORY, memory, PyBUF_WRITABLE) &&
           view(v + SUMS, sums, PyBUF_WRITABLE);
}

/* Whether a side's buffers have room for the words, and its extents as many. */
static int fits(Side *s, const Py_buffer *v, size_t n_bytes, size_t held, size_t n_parts) {
    const Extent *e = v[EXTENTS].buf;
    int64_t left = (int64_t)n_bytes;
    if ((size_t)v[EXTENTS].len % sizeof *e || (uintptr_t)e % sizeof(int64_t) ||
        (size_t)v[MEMORY].len < held || (uintptr_t)v[MEMORY].buf % sizeof(uint64_t) ||
        (size_t)v[SUMS].len != HASH_BYTES * n_parts)
        return 0;
    for (size_t i = 0; i < (size_t)v[EXTENTS].len / sizeof *e; i++) {
        if (e[i].size < 0 || e[i].size > left) return 0;
        left -= e[i].size;
    }
    s->extents = e;
    s->memory = v[MEMORY].buf;
    s->sums = v[SUMS].buf;
    return !left;
}

static int is_increasing(const Py_buffer *ends) {
    const int64_t *end = ends->buf;
    const size_t n = (size_t)ends->len / sizeof *end;
    if ((size_t)ends->len % sizeof *end || (uintptr_t)end % sizeof *end || !n) return 0;
    for (size_t i = 0; i < n; i++)
        if (end[i] <= (i ? end[i - 1] : 0) || end[i] > MAX_WORDS) return 0;
    return 1;
}

static int prepare(Intake *t, const Py_buffer *v, Py_ssize_t piece_words) {
    const size_t word = (size_t)t->layout.word_bits / 8;
    if (!is_increasing(&v[ENDS]) || piece_words < 1) return 0;
    t->ends = v[ENDS].buf;
    t->n_parts = (size_t)v[ENDS].len / sizeof *t->ends;
    t->n_words = (size_t)t->ends[t->n_parts - 1];
    t->piece_words = (size_t)piece_words;
    t->keeps_words = (size_t)v[MEMORY].len >= word * t->n_words;
    t->by_class = v[BY_CLASS].buf;
    t->largest = v[LARGEST].buf;
    const size_t held = word * (t->keeps_words || t->n_words < t->piece_words ? t->n_words
                                                                              : t->piece_words);
    return (size_t)v[BY_CLASS].len == t->n_parts * N_CLASSES * sizeof *t->by_class &&
           (size_t)v[LARGEST].len == t->n_parts * sizeof *t->largest &&
           (uintptr_t)t->by_class % sizeof *t->by_class == 0 &&
           (uintptr_t)t->largest % sizeof *t->largest == 0 &&
           fits(&t->base, v, word * t->n_words, held, t->n_parts) &&
           fits(&t->target, v + N_OF_SIDE, word * t->n_words, held, t->n_parts);
}

/* Take in piece after piece; on a disk that is slow, signals are looked for now and then. */
static enum status take_in_all(Intake *t, int *is_interrupted) {
    enum status status = OK;
    while (status == OK && t->n_done < t->n_words && !*is_interrupted) {
        const time_t start = time(NULL);
        Py_BEGIN_ALLOW_THREADS
        do
            status = take_in_piece(t);
        while (status == OK && t->n_done < t->n_words && time(NULL) == start);
        Py_END_ALLOW_THREADS
        *is_interrupted = PyErr_CheckSignals();
    }
    return status;
}

PyObject *take_in(int word_bits, int kind, Diff *diff, PyObject *args) {
    PyObject *ends, *by_class, *largest, *base, *target, *result = NULL;
    Py_ssize_t piece_words;
    Py_buffer v[N_VIEWS];
    Intake t;
    memset(v, 0, sizeof v);
    memset(&t, 0, sizeof t);
    t.loops = loops;
    t.diff = diff;
    if (!PyArg_ParseTuple(args, "nOOOOO", &piece_words, &ends, &by_class, &largest, &base,
                          &target) ||
        !layout_of_one_tier(&t.layout, word_bits, kind, word_bits - 1))
        return NULL;
    if (views_of(v, base) && views_of(v + N_OF_SIDE, target) &&
        view(v + ENDS, ends, PyBUF_SIMPLE) && view(v + BY_CLASS, by_class, PyBUF_WRITABLE) &&
        view(v + LARGEST, largest, PyBUF_WRITABLE)) {
        int is_interrupted = 0;
        if (!prepare(&t, v, piece_words))
            PyErr_SetString(PyExc_AssertionError, "buffers do not fit the words");
        else {
            const enum status status = take_in_all(&t, &is_interrupted);
            if (status != OK && status != NOT_READ)
                failed(status);
            else if (!is_interrupted)
                result = PyBool_FromLong(status == OK);
        }
    }
    for (int i = 0; i < N_VIEWS; i++)
        if (v[i].obj) PyBuffer_Release(&v[i]);
    return result;
}
