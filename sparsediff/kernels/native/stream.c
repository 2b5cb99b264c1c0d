/* Diff and Patch, the types that take a bucket's words piece by piece. */
#include "python.h"

/* One bucket being written. */

typedef struct {
    PyObject_HEAD
    int busy; /* in use by a thread, or finished */
    Diff diff;
} DiffObject;

static PyObject *diff_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    int word_bits, kind, shift;
    PyObject *bounds;
    Py_buffer marks;
    if (kwargs && PyDict_Size(kwargs)) return PyErr_Format(PyExc_TypeError, "no keywords");
    if (!PyArg_ParseTuple(args, "iiiOy*", &word_bits, &kind, &shift, &bounds, &marks)) return NULL;
    DiffObject *self = (DiffObject *)PyType_GenericAlloc(type, 0); /* zeroed */
    if (self && layout_from(&self->diff.layout, word_bits, kind, shift, bounds)) {
        if (marks.len == self->diff.layout.n_tiers) {
            for (int k = 0; k < self->diff.layout.n_tiers; k++)
                if (((const uint8_t *)marks.buf)[k])
                    diff_mark_unchanged(&self->diff, k);
            PyBuffer_Release(&marks);
            return (PyObject *)self;
        }
        PyErr_SetString(PyExc_AssertionError, "one mark for each tier");
    }
    PyBuffer_Release(&marks);
    Py_XDECREF((PyObject *)self);
    return NULL;
}

static void diff_dealloc(PyObject *o) {
    diff_free(&((DiffObject *)o)->diff);
    PyTypeObject *type = Py_TYPE(o);
    PyObject_Free(o);
    Py_DECREF(type);
}

static int enter(int *busy) {
    if (*busy) {
        PyErr_SetString(PyExc_AssertionError, "in use or finished");
        return 0;
    }
    *busy = 1;
    return 1;
}

static PyObject *diff_feed(PyObject *o, PyObject *args) {
    DiffObject *self = (DiffObject *)o;
    PyObject *base, *target, *counts;
    Py_buffer vb, vt, vc;
    size_t n_words;
    if (!PyArg_ParseTuple(args, "OOO", &base, &target, &counts)) return NULL;
    if (!word_buffers(base, target, &self->diff.layout, &vb, &vt, &n_words)) return NULL;
    PyObject *result = NULL;
    if (counts_buffer(counts, &vc, N_SYMBOLS)) {
        if (enter(&self->busy)) {
            enum status status;
            uint64_t largest = 0;
            Py_BEGIN_ALLOW_THREADS
            status = loops->diff[width_index(&self->diff.layout)](&self->diff, vb.buf, vt.buf,
                                                                  n_words, vc.buf, &largest);
            Py_END_ALLOW_THREADS
            self->busy = status != OK;
            result = status == OK ? PyLong_FromUnsignedLongLong(largest) : failed(status);
        }
        PyBuffer_Release(&vc);
    }
    PyBuffer_Release(&vb);
    PyBuffer_Release(&vt);
    return result;
}

static PyObject *diff_take_in(PyObject *o, PyObject *args) {
    DiffObject *self = (DiffObject *)o;
    if (!enter(&self->busy)) return NULL;
    PyObject *result =
        take_in(self->diff.layout.word_bits, (int)self->diff.layout.kind, &self->diff, args);
    self->busy = !result || result == Py_None; /* then some words are missing */
    return result;
}

static PyObject *bytes_of(const Bytes *b, size_t size) {
    return PyBytes_FromStringAndSize(size ? (const char *)b->data : "", (Py_ssize_t)size);
}

static PyObject *bytes_of_bits(Bits *b) {
    if (!reserve(&b->bytes, 8)) return PyErr_NoMemory();
    memcpy(b->bytes.data + b->bytes.size, &b->partial, 8);
    return bytes_of(&b->bytes, b->bytes.size + (b->fill + 7) / 8);
}

static PyObject *diff_finish(PyObject *o, PyObject *unused) {
    DiffObject *self = (DiffObject *)o;
    Diff *d = &self->diff;
    (void)unused;
    if (!enter(&self->busy)) return NULL;
    enum status status;
    Py_BEGIN_ALLOW_THREADS
    status = diff_end(d);
    Py_END_ALLOW_THREADS
    if (status != OK) return failed(status);
    PyObject *list = PyList_New(0);
    for (int k = 0; list && k < d->layout.n_tiers; k++) {
        OutTier *t = &d->tiers[k];
        PyObject *item = Py_BuildValue(
            "(KKNNNN)", (unsigned long long)(d->reached[k] - d->reached[k + 1]),
            (unsigned long long)t->n_changed, bytes_of(&t->gap_symbols, t->gap_symbols.size),
            bytes_of_bits(&t->gap_bits), bytes_of(&t->step_symbols, t->step_symbols.size),
            bytes_of_bits(&t->step_bits));
        if (!item || PyList_Append(list, item)) Py_CLEAR(list);
        Py_XDECREF(item);
    }
    return list;
}

static PyMethodDef diff_methods[] = {
    {"feed", diff_feed, METH_VARARGS, "feed(base, target, step_counts) -> largest |step|"},
    {"take_in", diff_take_in, METH_VARARGS, "take_in(*args); see python.h"},
    {"finish", diff_finish, METH_NOARGS, "finish() -> list of tiers"},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot diff_slots[] = {
    {Py_tp_new, diff_new},
    {Py_tp_dealloc, diff_dealloc},
    {Py_tp_methods, diff_methods},
    {0, NULL},
};

PyType_Spec diff_spec = {"sparsediff.kernels._native.Diff", sizeof(DiffObject), 0,
                                Py_TPFLAGS_DEFAULT, diff_slots};

/* One bucket being read. */

typedef struct {
    PyObject_HEAD
    int busy;
    int n_views;
    Py_buffer views[4 * MAX_TIERS];
    Patch patch;
} PatchObject;

static void patch_dealloc(PyObject *o) {
    PatchObject *self = (PatchObject *)o;
    for (int i = 0; i < self->n_views; i++) PyBuffer_Release(&self->views[i]);
    patch_free(&self->patch);
    PyTypeObject *type = Py_TYPE(o);
    PyObject_Free(o);
    Py_DECREF(type);
}

/* (n_members, n_changed, gap_symbols, gap_extra, step_symbols, step_extra) */
static int tier_from(PatchObject *self, int k, PyObject *item) {
    unsigned long long n_members, n_changed;
    Py_buffer *v = &self->views[self->n_views];
    if (!PyTuple_Check(item)) {
        PyErr_SetString(PyExc_TypeError, "a tier is a tuple");
        return 0;
    }
    if (!PyArg_ParseTuple(item, "KKy*y*y*y*", &n_members, &n_changed, v, v + 1, v + 2, v + 3))
        return 0;
    self->n_views += 4;
    const InTier tier = {
        .n_members = n_members,
        .n_changed = n_changed,
        .gap_symbols = v[0].buf,
        .gap_extra = v[1].buf,
        .gap_extra_size = (size_t)v[1].len,
        .step_symbols = v[2].buf,
        .step_extra = v[3].buf,
        .step_extra_size = (size_t)v[3].len,
    };
    if (patch_set_tier(&self->patch, k, tier, (size_t)v[0].len, (size_t)v[2].len)) return 1;
    PyErr_SetString(PyExc_AssertionError, "tier with the wrong number of symbols");
    return 0;
}

static PyObject *patch_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    int word_bits, kind, shift;
    PyObject *bounds, *tiers;
    if (kwargs && PyDict_Size(kwargs)) return PyErr_Format(PyExc_TypeError, "no keywords");
    if (!PyArg_ParseTuple(args, "iiiOO", &word_bits, &kind, &shift, &bounds, &tiers)) return NULL;
    PatchObject *self = (PatchObject *)PyType_GenericAlloc(type, 0);
    if (!self) return NULL;
    int ok = layout_from(&self->patch.layout, word_bits, kind, shift, bounds);
    if (ok && PySequence_Size(tiers) != self->patch.layout.n_tiers) {
        if (!PyErr_Occurred()) PyErr_SetString(PyExc_AssertionError, "one tier for each bound");
        ok = 0;
    }
    for (int k = 0; ok && k < self->patch.layout.n_tiers; k++) {
        PyObject *item = PySequence_GetItem(tiers, k);
        ok = item && tier_from(self, k, item);
        Py_XDECREF(item);
    }
    if (ok) {
        enum status status;
        Py_BEGIN_ALLOW_THREADS
        status = patch_begin(&self->patch);
        Py_END_ALLOW_THREADS
        if (status == OK) return (PyObject *)self;
        failed(status);
    }
    Py_DECREF((PyObject *)self);
    return NULL;
}

static PyObject *patch_feed(PyObject *o, PyObject *words) {
    PatchObject *self = (PatchObject *)o;
    const size_t word = (size_t)self->patch.layout.word_bits / 8;
    Py_buffer v;
    if (PyObject_GetBuffer(words, &v, PyBUF_WRITABLE)) return NULL;
    enum status status = OK;
    int ready = (size_t)v.len % word == 0 && (uintptr_t)v.buf % word == 0;
    if (!ready) PyErr_SetString(PyExc_AssertionError, "no whole words, or not aligned");
    ready = ready && enter(&self->busy);
    if (ready) {
        Py_BEGIN_ALLOW_THREADS
        status = loops->patch[width_index(&self->patch.layout)](&self->patch, v.buf,
                                                                (size_t)v.len / word);
        Py_END_ALLOW_THREADS
        self->busy = status != OK;
    }
    PyBuffer_Release(&v);
    if (!ready) return NULL;
    if (status != OK) return failed(status);
    Py_RETURN_NONE;
}

static PyObject *patch_rebuild(PyObject *o, PyObject *args) {
    PatchObject *self = (PatchObject *)o;
    const Layout *l = &self->patch.layout;
    if (!enter(&self->busy)) return NULL;
    PyObject *result = rebuild(l->word_bits, (int)l->kind, &self->patch, args);
    self->busy = !result || result == Py_None;
    return result;
}

static PyObject *patch_finish(PyObject *o, PyObject *unused) {
    PatchObject *self = (PatchObject *)o;
    (void)unused;
    if (!enter(&self->busy)) return NULL;
    const enum status status = patch_end(&self->patch);
    if (status != OK) return failed(status);
    Py_RETURN_NONE;
}

static PyMethodDef patch_methods[] = {
    {"feed", patch_feed, METH_O, "feed(words), in place"},
    {"rebuild", patch_rebuild, METH_VARARGS, "rebuild(*args); see python.h"},
    {"finish", patch_finish, METH_NOARGS, "finish(): check that everything was used"},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot patch_slots[] = {
    {Py_tp_new, patch_new},
    {Py_tp_dealloc, patch_dealloc},
    {Py_tp_methods, patch_methods},
    {0, NULL},
};

PyType_Spec patch_spec = {"sparsediff.kernels._native.Patch", sizeof(PatchObject), 0,
                                 Py_TPFLAGS_DEFAULT, patch_slots};

