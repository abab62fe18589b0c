// The kernels of src/udq/search/scan/exhaustive.py and inverted.py in C++: the same results as by numba, bit for bit.
//
// A distance is a sum of M table entries in float32, from m = 0 upwards; nothing here may reorder it (no -ffast-math).
// For most codes, the search for the k nearest images computes only a lower bound: from tables quantised to 8 bits and
// rounded down, of which vector registers add 64 entries at once. A row whose bound exceeds the k-th distance found so
// far is skipped. For all other rows, some thousands in a million, the exact distance is computed.
//
//     tables.h     the tables of a query, exact distances, bounds
//     filters.h    chunks of codes, and which of their rows may be near enough
//     nearest.h    the k nearest images, or the best region of every image, in the order of codes
//     inverted.h   the k nearest images by cells of codes, most of which are never scanned
//     votes.h      votes of local features for photos
//     x86.h        instructions that a kernel may use
//     python.h     what the Python modules have in common
//     scan.cpp     the Python module
//
// One binary contains every kernel; the caller chooses one of those that `kernels()` returns for this processor.

#include "python.h"

#include <array>

#include "inverted.h"
#include "votes.h"

namespace {

using namespace udq;

// Sorts keys whose low halves are already in order: a stable radix sort of the high halves, 11 bits per pass.
void sort_by_high_half(uint64_t *keys, int64_t count) {
    std::vector<uint64_t> spare(count);
    uint64_t *source = keys, *target = spare.data();
    std::vector<std::array<int64_t, 2048>> starts(3);
    const auto digit = [](uint64_t key, int pass) { return key >> (32 + 11 * pass) & 2047; };
    for (int64_t i = 0; i < count; ++i)
        for (int pass = 0; pass < 3; ++pass) ++starts[pass][digit(keys[i], pass)];
    for (int pass = 0; pass < 3; ++pass) {
        int64_t total = 0;
        for (int64_t &start : starts[pass]) total += std::exchange(start, total);
        for (int64_t i = 0; i < count; ++i) target[starts[pass][digit(source[i], pass)]++] = source[i];
        std::swap(source, target);
    }
    std::copy_n(source, count, keys);  // after three passes, the keys are in `spare`
}

// udq/search/scan has checked every argument.

PyObject *kernels(PyObject *, PyObject *) { return runnable({"avx512-vbmi", "avx2", "portable"}); }

// The parts of a batch, from tuples (codes, offsets, keep or None, first, last, number), and the buffers behind them.
template <class Code> struct Parts {
    std::vector<Part<Code>> all;
    std::deque<Buffer> held;

    bool read(PyObject *list, int64_t subspaces, int64_t codewords) {
        for (Py_ssize_t i = 0; i < PyList_Size(list); ++i) {
            Buffer &codes = held.emplace_back(), &offsets = held.emplace_back(), &keep = held.emplace_back();
            long long first, last, number;
            if (!PyArg_ParseTuple(PyList_GetItem(list, i), "y*y*z*LLL", &codes, &offsets, &keep, &first, &last, &number))
                return false;
            const int64_t regions = codes.bytes() / int64_t(sizeof(Code)) / subspaces;
            all.push_back({codes.as<const Code>(), subspaces, codewords, regions, offsets.as<const int64_t>(),
                           keep.as<const uint8_t>(), first, last, number});
        }
        return true;
    }
};

// Calls `run` with a value of the type of codes of `itemsize` bytes.
template <class Run> auto with_code(int itemsize, const Run &run) {
    return itemsize == 1 ? run(uint8_t()) : run(uint16_t());
}

PyObject *py_nearest(PyObject *, PyObject *args) {
    const char *kernel;
    Buffer lookups, found, counts;
    int queries, subspaces, itemsize;
    PyObject *list;
    if (!PyArg_ParseTuple(args, "sy*iiiO!w*w*", &kernel, &lookups, &queries, &subspaces, &itemsize, &PyList_Type, &list,
                          &found, &counts))
        return nullptr;
    return with_code(itemsize, [&](auto code) -> PyObject * {
        using Code = decltype(code);
        const int64_t codewords = lookups.bytes() / int64_t(sizeof(float)) / queries / subspaces;
        const int64_t k = found.bytes() / int64_t(sizeof(Match)) / queries;
        Parts<Code> parts;
        if (!parts.read(list, subspaces, codewords)) return nullptr;
        int64_t unsound = -1;
        const bool enough = unlocked([&] {
            const Vector *vector = itemsize == 1 ? vector_of(kernel, subspaces) : nullptr;
            std::deque<Nearest<Code>> batch;
            for (int64_t q = 0; q < queries; ++q)
                batch.emplace_back(lookups.as<const float>() + q * subspaces * codewords, subspaces, codewords,
                                   found.as<Match>() + q * k, k, vector != nullptr);
            unsound = nearest<Code>(batch, parts.all, subspaces, vector);
            for (int64_t q = 0; q < queries; ++q) counts.as<int64_t>()[q] = batch[q].count();
        });
        return enough ? PyLong_FromLongLong(unsound) : nullptr;
    });
}

PyObject *py_best(PyObject *, PyObject *args) {
    Buffer lookup, codes, offsets, distances, regions;
    int subspaces, itemsize;
    long long first, last;
    if (!PyArg_ParseTuple(args, "y*iy*iy*LLw*w*", &lookup, &subspaces, &codes, &itemsize, &offsets, &first, &last,
                          &distances, &regions))
        return nullptr;
    bool sound = false;
    const bool enough = unlocked([&] {
        with_code(itemsize, [&](auto code) {
            using Code = decltype(code);
            const int64_t codewords = lookup.bytes() / int64_t(sizeof(float)) / subspaces;
            const Tables tables(lookup.as<const float>(), subspaces, codewords, columns<Code>);
            const int64_t rows = codes.bytes() / itemsize / subspaces;
            const Part<Code> part{codes.as<const Code>(), subspaces, codewords, rows, offsets.as<const int64_t>(),
                                  nullptr, first, last, 0};
            sound = best_for<Code>(subspaces, Compiled())(tables, part, distances.as<float>(), regions.as<int64_t>());
        });
    });
    return enough ? PyBool_FromLong(sound) : nullptr;
}

PyObject *py_sort_by_cell(PyObject *, PyObject *args) {
    Buffer codes, next, sorted, regions;
    int itemsize;
    long long subspaces, codewords, first;
    if (!PyArg_ParseTuple(args, "y*iLLLw*w*w*", &codes, &itemsize, &subspaces, &codewords, &first, &next, &sorted,
                          &regions))
        return nullptr;
    bool sound = false;
    const bool enough = unlocked([&] {
        with_code(itemsize, [&](auto code) {
            using Code = decltype(code);
            const int64_t rows = codes.bytes() / itemsize / subspaces;
            sound = sort_by_cell(codes.as<const Code>(), rows, subspaces, codewords, first, next.as<int64_t>(),
                                 sorted.as<Code>(), regions.as<uint32_t>());
        });
    });
    return enough ? PyBool_FromLong(sound) : nullptr;
}

PyObject *py_nearest_by_cell(PyObject *, PyObject *args) {
    const char *kernel;
    Buffer lookup, codes, starts, regions, offsets, keep, found;
    int subspaces, itemsize;
    long long share, shares;
    double looked_at;
    if (!PyArg_ParseTuple(args, "sy*iy*iy*y*y*y*LLdw*", &kernel, &lookup, &subspaces, &codes, &itemsize, &starts,
                          &regions, &offsets, &keep, &share, &shares, &looked_at, &found))
        return nullptr;
    int64_t count = -1;
    const bool enough = unlocked([&] {
        with_code(itemsize, [&](auto code) {
            using Code = decltype(code);
            const auto length = [](const Buffer &of) { return of.bytes() / int64_t(sizeof(int64_t)) - 1; };
            const Inverted<Code> index{codes.as<const Code>(), subspaces,
                                       lookup.bytes() / int64_t(sizeof(float)) / subspaces,
                                       starts.as<const int64_t>(), length(starts), regions.as<const uint32_t>(),
                                       offsets.as<const int64_t>(), length(offsets), keep.as<const uint8_t>()};
            const Vector *vector = itemsize == 1 ? vector_of(kernel, subspaces) : nullptr;
            ByCell<Code> query(index, lookup.as<const float>(), found.bytes() / int64_t(sizeof(Match)), vector);
            if (!query.bounded()) return;
            const std::vector<Match> nearest = query.search(share, shares, looked_at);
            count = std::min<int64_t>(nearest.size(), found.bytes() / int64_t(sizeof(Match)));
            std::copy_n(nearest.begin(), count, found.as<Match>());
        });
    });
    return enough ? PyLong_FromLongLong(count) : nullptr;
}

PyObject *py_vote(PyObject *, PyObject *args) {
    Buffer cells, visited, limits, tables, rows, keys, starts, photo_of, stored, total;
    float farthest;
    int subspaces;
    if (!PyArg_ParseTuple(args, "y*y*y*y*iy*y*y*y*y*fw*", &cells, &visited, &limits, &tables, &subspaces, &rows, &keys,
                          &starts, &photo_of, &stored, &farthest, &total))
        return nullptr;
    const int64_t n = visited.bytes() / int64_t(sizeof(int64_t)), features = rows.bytes() / int64_t(sizeof(uint32_t));
    const Points points{stored.as<const uint8_t>(), stored.bytes() / std::max<int64_t>(features, 1),
                        rows.as<const uint32_t>(), keys.as<const uint8_t>(), starts.as<const uint32_t>(),
                        photo_of.as<const uint32_t>()};
    const int64_t most = cells.bytes() / int64_t(sizeof(uint16_t)) / std::max<int64_t>(n, 1);
    if (!unlocked([&] {
            vote(points, cells.as<const uint16_t>(), n, most, visited.as<const int64_t>(), limits.as<const float>(),
                 tables.as<const float>(), subspaces, farthest, total.as<float>(),
                 total.bytes() / int64_t(sizeof(float)));
        }))
        return nullptr;
    Py_RETURN_NONE;
}

PyObject *py_sort(PyObject *, PyObject *args) {
    Buffer keys;
    if (!PyArg_ParseTuple(args, "w*", &keys)) return nullptr;
    if (!unlocked([&] { sort_by_high_half(keys.as<uint64_t>(), keys.bytes() / 8); })) return nullptr;
    Py_RETURN_NONE;
}

PyMethodDef METHODS[] = {
    {"kernels", kernels, METH_NOARGS, "Return the kernels this processor can run, fastest first."},
    {"nearest", py_nearest, METH_VARARGS, "Find the nearest images of each query; return the part with a code out of range, or -1."},
    {"best", py_best, METH_VARARGS, "Find the best region of images; return whether all codes are in range."},
    {"sort_by_cell", py_sort_by_cell, METH_VARARGS, "Move codes to their cells; return whether all are in range."},
    {"nearest_by_cell", py_nearest_by_cell, METH_VARARGS, "Find the nearest images of a share of all cells."},
    {"vote", py_vote, METH_VARARGS, "Add the votes of a query's local features to photos."},
    {"sort_by_high_half", py_sort, METH_VARARGS, "Sort uint64 keys whose low halves already rise, in place."},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "udq.search.scan._scan", "The scan, compiled.", 0, METHODS,
                      nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__scan() { return PyModule_Create(&MODULE); }
