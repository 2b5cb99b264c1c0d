/* Diff and Patch, the types that take a bucket's words piece by piece. */
#include "payload.h"
#include "python.h"

/* One bucket being written. */

typedef struct {
    PyObject_HEAD
    int busy; /* in use by a thread, or finished */
    Diff diff;
} DiffObject;

int diff_from(Diff *d, int word_bits, int kind, int shift, PyObject *bounds, PyObject *marks) {
    if (!layout_from(&d->layout, word_bits, kind, shift, bounds)) return 0;
    int good = PySequence_Size(marks) == d->layout.n_tiers;
    for (int k = 0; good && k < d->layout.n_tiers; k++) {
        PyObject *item = PySequence_GetItem(marks, k);
        const int marks_unchanged = item ? PyObject_IsTrue(item) : -1;
        Py_XDECREF(item);
        good = marks_unchanged >= 0;
        if (marks_unchanged > 0) diff_mark_unchanged(d, k);
    }
    if (!good && !PyErr_Occurred())
        PyErr_SetString(PyExc_AssertionError, "one mark for each tier");
    return good;
}

static PyObject *diff_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    int word_bits, kind, shift;
    PyObject *bounds, *marks;
    if (kwargs && PyDict_Size(kwargs)) return PyErr_Format(PyExc_TypeError, "no keywords");
    if (!PyArg_ParseTuple(args, "iiiOO", &word_bits, &kind, &shift, &bounds, &marks)) return NULL;
    DiffObject *self = (DiffObject *)PyType_GenericAlloc(type, 0); /* zeroed */
    if (self && diff_from(&self->diff, word_bits, kind, shift, bounds, marks))
        return (PyObject *)self;
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

PyObject *payload_from(Diff *d) {
    uint8_t *memory;
    size_t start, size;
    enum status status;
    prepare_logarithms();
    Py_BEGIN_ALLOW_THREADS
    status = payload_of(loops, d, &memory, &start, &size);
    Py_END_ALLOW_THREADS
    if (status != OK) return failed(status);
    PyObject *payload = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    if (payload) {
        char *out = PyBytes_AsString(payload);
        Py_BEGIN_ALLOW_THREADS
        memcpy(out, memory + start, size);
        diff_free(d); /* here, without the lock: it is of no use any more */
        free(memory);
        Py_END_ALLOW_THREADS
    } else
        free(memory);
    return payload;
}

static PyObject *diff_payload(PyObject *o, PyObject *unused) {
    DiffObject *self = (DiffObject *)o;
    (void)unused;
    return enter(&self->busy) ? payload_from(&self->diff) : NULL;
}

static PyMethodDef diff_methods[] = {
    {"feed", diff_feed, METH_VARARGS, "feed(base, target, step_counts) -> largest |step|"},
    {"payload", diff_payload, METH_NOARGS, "payload() -> bytes"},
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
    Py_buffer payload;
    uint8_t *symbols;
    Patch patch;
} PatchObject;

static void patch_dealloc(PyObject *o) {
    PatchObject *self = (PatchObject *)o;
    patch_free(&self->patch);
    free(self->symbols);
    if (self->payload.obj) PyBuffer_Release(&self->payload);
    PyTypeObject *type = Py_TYPE(o);
    PyObject_Free(o);
    Py_DECREF(type);
}

/* (word_bits, kind, shift, payload, n_words) */
static PyObject *patch_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    int word_bits, kind, shift;
    unsigned long long n_words;
    PyObject *payload;
    if (kwargs && PyDict_Size(kwargs)) return PyErr_Format(PyExc_TypeError, "no keywords");
    if (!PyArg_ParseTuple(args, "iiiOK", &word_bits, &kind, &shift, &payload, &n_words)) return NULL;
    PatchObject *self = (PatchObject *)PyType_GenericAlloc(type, 0);
    if (!self) return NULL;
    if (layout_of_one_tier(&self->patch.layout, word_bits, kind, shift) &&
        !PyObject_GetBuffer(payload, &self->payload, PyBUF_SIMPLE)) {
        enum status status;
        Py_BEGIN_ALLOW_THREADS
        status = patch_from(loops, &self->patch, self->payload.buf, (size_t)self->payload.len,
                            n_words, &self->symbols);
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
    enum status status;
    Py_BEGIN_ALLOW_THREADS
    status = patch_end(&self->patch);
    patch_free(&self->patch); /* here, without the lock: it is of no use any more */
    Py_END_ALLOW_THREADS
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

