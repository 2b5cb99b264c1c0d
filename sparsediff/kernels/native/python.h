/* What the Python side of the compiled kernels shares. */
#ifndef SPARSEDIFF_PYTHON_H
#define SPARSEDIFF_PYTHON_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "state.h"

extern const Loops *loops; /* in use */
extern PyType_Spec diff_spec, patch_spec;

/* The payload of a bucket, all of whose words were gone through. */
PyObject *payload_from(Diff *diff);

/* Go through the words of a bucket in files; None if not all could be read and written.
 * take_in: base and target to checksums, counts, and by `diff`, if it is not NULL, payload. Args:
 * (piece_words, ends, base, target), where a side is (extents, memory for its words or None).
 * rebuild: base to target, by `patch` if it is not NULL. Args: (piece_words, ends, extents of the
 * base, of the target). */
PyObject *take_in(int word_bits, int kind, Diff *diff, PyObject *args);
PyObject *rebuild(int word_bits, int kind, Patch *patch, PyObject *args);
PyObject *py_sample(PyObject *module, PyObject *args);
PyObject *py_count_parts(PyObject *module, PyObject *args);

/* choices.c */
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
