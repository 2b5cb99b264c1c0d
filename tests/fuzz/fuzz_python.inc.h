/* choices.c, given objects: those that it is for, of which it must make what tables.c makes, and
 * others, which it must refuse. Included by fuzz_choices.inc.h where there is a Python to embed. */
#include "python.h"

PyObject *failed(enum status status) {
    check(status == NO_MEMORY, "no other failure");
    return PyErr_NoMemory();
}

static void begin_python(void) {
    if (!Py_IsInitialized()) Py_InitializeEx(0);
}

static PyObject *bytes_of(const void *data, size_t size) {
    PyObject *made = PyBytes_FromStringAndSize(data, (Py_ssize_t)size);
    check(made != NULL, "memory");
    return made;
}

/* What is no argument of these functions, or one of the wrong size. */
static PyObject *odd_object(void) {
    static const uint8_t zeros[64];
    switch (draw(6)) {
    case 0:
        return PyLong_FromLong(draw(2) ? -1 : (long)draw(1 << 20));
    case 1:
        return PyFloat_FromDouble(draw(2) ? NAN : -1.0);
    case 2:
        return PyTuple_New(0);
    case 3:
        return PyByteArray_FromStringAndSize((const char *)zeros, (Py_ssize_t)draw(65));
    case 4:
        return PyUnicode_FromString("2048");
    default:
        return bytes_of(zeros, draw(65));
    }
}

/* `args`, which is taken, or now and then with another object, one too many or one too few. */
static PyObject *maybe_odd(PyObject *args, int *is_odd) {
    if (draw(6)) return args;
    *is_odd = 1;
    const Py_ssize_t n = PyTuple_Size(args), more = (Py_ssize_t)draw(4);
    const Py_ssize_t size = more == 0 && n ? n - 1 : more == 1 ? n + 1 : n;
    const Py_ssize_t at = (Py_ssize_t)draw((uint64_t)size);
    PyObject *made = PyTuple_New(size);
    for (Py_ssize_t i = 0; i < size; i++) {
        PyObject *item = i < n && (i != at || size != n) ? PyTuple_GetItem(args, i) : odd_object();
        if (i < n && (i != at || size != n)) Py_INCREF(item);
        PyTuple_SetItem(made, i, item);
    }
    Py_DECREF(args);
    return made;
}

static PyObject *call(PyObject *(*function)(PyObject *, PyObject *), PyObject *args) {
    PyObject *found = function(NULL, args);
    Py_DECREF(args);
    check(!found == !!PyErr_Occurred(), "a result or an exception");
    if (found) return found;
    PyErr_Clear();
    return NULL;
}

static void tiers_through_python(const TierChoice *c, int is_sound) {
    const size_t n = (size_t)c->n_classes * sizeof(int64_t);
    int is_odd = 0;
    begin_python();
    PyObject *args = Py_BuildValue("NNd", bytes_of(c->members, n),
                                   bytes_of(c->steps, N_SYMBOLS * n), c->scale);
    PyObject *found = call(py_choose_tiers, maybe_odd(args, &is_odd));
    check(found ? is_sound || is_odd : !is_sound || is_odd, "soundness, to Python");
    if (found && !is_odd) {
        PyObject *bounds = PyTuple_GetItem(found, 0), *marks = PyTuple_GetItem(found, 1);
        check(PyList_Size(bounds) == c->n_tiers && PyList_Size(marks) == c->n_tiers, "tiers");
        for (int k = 0; k < c->n_tiers; k++) {
            check(PyLong_AsLong(PyList_GetItem(bounds, k)) == c->bounds[k], "bounds");
            check((PyList_GetItem(marks, k) == Py_True) == c->marks_unchanged[k], "marks");
        }
        check(PyFloat_AsDouble(PyTuple_GetItem(found, 2)) == (double)c->bits / 8, "estimate");
    }
    Py_XDECREF(found);
}
