/* What the Python side of the compiled kernels shares. */
#ifndef SPARSEDIFF_PYTHON_H
#define SPARSEDIFF_PYTHON_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "state.h"
#include "tables.h"

extern const Loops *loops; /* in use */
extern PyType_Spec diff_spec, patch_spec;

/* A bucket that will be coded in tiers: 0 with an exception set if there are none such. Its payload,
 * when all its words were gone through. */
int diff_from(Diff *d, int word_bits, int kind, int shift, PyObject *bounds, PyObject *marks);
PyObject *payload_from(Diff *d);

/* Go through the words of a bucket in files; None if not all could be read and written.
 * py_take_in: base and target to checksums, counts, and payload. Args: (word_bits, kind, shift,
 * tiers, piece_words, ends, base, target), where the tiers are (bounds, marks_unchanged), or None
 * if there is to be no payload, and a side is (extents, memory for its words or None).
 * rebuild: base to target, by `patch` if it is not NULL. Args: (piece_words, ends, extents of the
 * base, of the target). */
PyObject *py_take_in(PyObject *module, PyObject *args);
PyObject *rebuild(int word_bits, int kind, Patch *patch, PyObject *args);
PyObject *py_choose_by_sample(PyObject *module, PyObject *args);
PyObject *py_count_parts(PyObject *module, PyObject *args);

/* choices.c: (bounds, marks_unchanged, estimate) for what was counted. */
PyObject *choice_of(TierChoice *c);
PyObject *py_choose_tiers(PyObject *module, PyObject *args);

/* Set the exception for a status and return NULL. ValueError says that the input is corrupt;
 * the Python side gives it its proper class. */
PyObject *failed(enum status status);

/* These return 0 with an exception set. `bounds` are the first classes of the tiers. */
int layout_from(Layout *l, int word_bits, int kind, int shift, PyObject *bounds);

int layout_of_one_tier(Layout *l, int word_bits, int kind, int shift);

/* Two buffers of as many words. */
int word_buffers(PyObject *a, PyObject *b, const Layout *l, Py_buffer *va, Py_buffer *vb,
                 size_t *n_words);

/* A writable buffer of n 64-bit counts. */
int counts_buffer(PyObject *o, Py_buffer *v, size_t n);

/* Integers of a sequence, as many as `n` is set to, for the caller to free. */
int64_t *integers_from(PyObject *sequence, size_t *n);

/* (by_class, largest) of parts: lists with as many columns as are needed, at least one. */
PyObject *counts_of_parts(const int64_t *by_class, size_t n_columns, const uint64_t *largest,
                          size_t n_parts);

#endif
