// The kernels of src/udq/keypoints/matching.py in C++: the same results as by numpy, to the bit.

#include "python.h"

#include "matching.h"

namespace {

using namespace udq;

PyObject *kernels(PyObject *, PyObject *) { return runnable({"avx512-vnni", "avx2"}); }

// udq/keypoints/matching.py has checked every argument.
PyObject *py_neighbours(PyObject *, PyObject *args) {
    const char *kernel;
    Buffer query, photo, nearest, first, second, best;
    float extent;
    if (!PyArg_ParseTuple(args, "sy*y*fw*w*w*w*", &kernel, &query, &photo, &extent, &nearest, &first, &second, &best))
        return nullptr;
#if X86
    constexpr int64_t bytes = DIMENSIONS * sizeof(float);
    const Neighbours found{nearest.as<int64_t>(), first.as<int32_t>(), second.as<int32_t>(), best.as<int32_t>()};
    if (!unlocked([&] {
            const float *one = query.as<const float>(), *other = photo.as<const float>();
            const int64_t n = query.bytes() / bytes, rows = photo.bytes() / bytes;
            if (std::strcmp(kernel, "avx512-vnni"))
                neighbours<Avx2>(one, n, other, rows, extent, found);
            else
                neighbours<Vnni>(one, n, other, rows, extent, found);
        }))
        return nullptr;
#endif
    Py_RETURN_NONE;
}

PyObject *py_stored_neighbours(PyObject *, PyObject *args) {
    const char *kernel;
    Buffer query, codewords, records, starts, nearest, first, second, best;
    int bytes;
    float extent;
    if (!PyArg_ParseTuple(args, "sy*y*y*iy*fw*w*w*w*", &kernel, &query, &codewords, &records, &bytes,
                          &starts, &extent, &nearest, &first, &second, &best))
        return nullptr;
#if X86
    const Neighbours found{nearest.as<int64_t>(), first.as<int32_t>(), second.as<int32_t>(), best.as<int32_t>()};
    const Stored stored{records.as<const uint8_t>(), bytes, starts.as<const int64_t>(),
                        starts.bytes() / int64_t(sizeof(int64_t)) - 1, codewords.as<const float>()};
    if (!unlocked([&] {
            const int64_t n = query.bytes() / (DIMENSIONS * int64_t(sizeof(float)));
            if (std::strcmp(kernel, "avx512-vnni"))
                neighbours<Avx2>(query.as<const float>(), n, stored, extent, found);
            else
                neighbours<Vnni>(query.as<const float>(), n, stored, extent, found);
        }))
        return nullptr;
#endif
    Py_RETURN_NONE;
}

PyMethodDef METHODS[] = {
    {"kernels", kernels, METH_NOARGS, "Return the kernels this processor can run, fastest first."},
    {"neighbours", py_neighbours, METH_VARARGS, "Find the nearest descriptors of a photo to those of a query."},
    {"stored_neighbours", py_stored_neighbours, METH_VARARGS, "The same for several photos from their codes."},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "udq.keypoints._match", "Matching, compiled.", 0, METHODS,
                      nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__match() { return PyModule_Create(&MODULE); }
