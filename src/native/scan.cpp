// The scan of src/udq/scan.py in C++: the same results, bit for bit.
//
// A distance is a sum of M table entries in float32, from m = 0 upwards; nothing here may reorder it (no -ffast-math).
// The search for the k nearest images looks at most codes through a lower bound alone: tables quantised to 8 bits and
// rounded down, of which vector registers add 64 at once. A row whose bound exceeds the k-th distance found so far
// cannot matter. All others, some thousands in a million, get their exact distance.
//
// One binary holds every kernel; which one runs is said by the caller, who asks `kernels()` what this processor can do.

#define PY_SSIZE_T_CLEAN
#ifndef Py_LIMITED_API
#define Py_LIMITED_API 0x030b0000  // one build serves every CPython from 3.11
#endif
#include <Python.h>

#include <algorithm>
#include <array>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <new>
#include <utility>
#include <vector>

#if (defined(__x86_64__) || defined(_M_X64)) && defined(__GNUC__)
#define X86 1
#include <immintrin.h>
#define AVX2 __attribute__((target("avx2")))
#define VBMI __attribute__((target("avx512f,avx512bw,avx512vl,avx512vbmi")))
#endif
#if defined(__GNUC__)
#define INLINE inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL _Pragma("unroll 16")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif
#else
#define INLINE inline
#define UNROLL
#endif

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#define IS_LITTLE_ENDIAN 0
#else
#define IS_LITTLE_ENDIAN 1
#endif

namespace {

constexpr float INF = std::numeric_limits<float>::infinity();
constexpr int64_t BLOCK = 64;         // rows a filter decides on at once, a bit each
constexpr int64_t CHECKED = 1 << 12;  // rows whose codes are checked, and scanned while they are in the cache

// How many numbers a code can be, up to 512: as many columns each table has, so that none reads beyond it.
template <class Code> constexpr int64_t columns = sizeof(Code) == 1 ? 256 : 512;

// An image with its best region; `_MATCH` in udq/scan.py has the same layout.
struct Match {
    float distance;
    int64_t image;
    int64_t region;
    bool operator<(const Match &other) const {
        return distance < other.distance || (distance == other.distance && image < other.image);
    }
};
static_assert(sizeof(Match) == 24);

// Rows row..row + rows - 1, of which those with their bit set may be near enough. No bit is set at the end.
struct Hit {
    int64_t row;
    int64_t rows;
    uint64_t mask;
};

INLINE int lowest_bit(uint64_t mask) {  // of a mask that has one
#if defined(__GNUC__)
    return __builtin_ctzll(mask);
#else
    int bit = 0;
    for (; !(mask & 1); mask >>= 1) ++bit;
    return bit;
#endif
}

// The tables of one query, a row of `columns` for each subspace, and what follows from them.
struct Tables {
    int subspaces;
    int64_t columns;
    std::vector<float> exact;
    std::vector<double> least;  // of each subspace, the smallest entry
    double offset = 0;          // sum of those
    double error = 0;           // more than any float32 sum differs from the real one, with what doubles round
    bool bounded;               // whether no sum can overflow: else nothing is known of it

    Tables(const float *lookup, int subspaces, int64_t codewords, int64_t columns)
        : subspaces(subspaces), columns(columns), exact(subspaces * columns), least(subspaces) {
        double largest = 0;
        for (int m = 0; m < subspaces; ++m) {
            const float *row = lookup + m * codewords;
            std::copy_n(row, codewords, &exact[m * columns]);
            const auto [low, high] = std::minmax_element(row, row + codewords);
            least[m] = *low;
            offset += *low;
            largest += std::max(std::fabs(double(*low)), std::fabs(double(*high)));
        }
        // Adding M terms rounds M - 1 times, each time by up to 2^-24 of what is added up so far.
        error = std::ldexp(subspaces * largest, -22);
        bounded = largest < FLT_MAX / 2;
    }
};

// The exact distance of a row; M is a constant where it is not 0, so that the sum unrolls, and codes are read by words.
template <class Code, std::size_t M> INLINE float distance(const Tables &tables, const Code *code) {
    constexpr int BITS = 8 * sizeof(Code), LANES = M % 8 ? 1 : 64 / BITS;
    const int subspaces = M ? int(M) : tables.subspaces;
    float d = 0;
    uint64_t word = 0;
    UNROLL for (int m = 0; m < subspaces; ++m) {
        int64_t c = code[m];
        if constexpr (IS_LITTLE_ENDIAN && M && LANES > 1) {
            if (m % LANES == 0) std::memcpy(&word, code + m, 8);
            c = Code(word >> BITS * (m % LANES));
        }
        const float term = tables.exact[m * columns<Code> + c];
        d = m ? d + term : term;
    }
    return d;
}

// What rules a row out: a distance above the threshold.
struct Bound {
    const Tables &tables;
    float threshold = INF;
    bool prunes = false;
    // 8-bit tables (M, 256): a saturated sum above `limit` belongs to a distance above the threshold.
    std::vector<uint8_t> quantised;
    double step = 0;
    uint8_t limit = 0;

    Bound(const Tables &tables, bool quantises)
        : tables(tables), quantised(quantises ? tables.subspaces * 256 : 0) {}

    void tighten(float to) {
        threshold = to;
        prunes = tables.bounded && to < INF;
        if (!prunes || quantised.empty()) return;
        // The threshold is a distance, hence at least offset - error: the range is not negative.
        const double range = to + tables.error - tables.offset;
        if (step == 0 || range < 192 * step) quantise(range > 0 ? range / 254 : 1);
        limit = uint8_t(std::clamp(range / step, 0.0, 254.0));
    }

private:
    void quantise(double to) {
        step = to;
        const double scale = 1 / step;
        for (int m = 0; m < tables.subspaces; ++m) {
            const float *exact = &tables.exact[m * tables.columns];
            uint8_t *row = &quantised[m * 256];
            for (int k = 0; k < 256; ++k) {
                // Columns from K on are 0 and may lie below the least; no code reads them.
                const double value = (exact[k] - tables.least[m]) * scale;
                row[k] = uint8_t(int(std::clamp(value, 0.0, 255.0)));
            }
        }
    }
};

// --- filters: the first block of rows from row..end - 1 in which some row may be near enough ---

template <class Code> using Filter = Hit (*)(const Bound &, const Code *, int64_t, int64_t);

// Distances of rows; M a constant where it is not 0, so that the sums unroll.
template <class Code, std::size_t M>
void distances(const Tables &tables, const Code *codes, int64_t rows, float *found) {
    const int subspaces = M ? int(M) : tables.subspaces;
    for (int64_t i = 0; i < rows; ++i) found[i] = distance<Code, M>(tables, codes + i * subspaces);
}

// A filter without vectors or bounds: its bits are those of rows below the threshold.
template <class Code, std::size_t M> Hit portable(const Bound &bound, const Code *codes, int64_t row, int64_t end) {
    const int subspaces = M ? int(M) : bound.tables.subspaces;
    for (; row < end; row += BLOCK) {
        const int64_t rows = std::min(BLOCK, end - row);
        uint64_t mask = 0;
        for (int64_t i = 0; i < rows; ++i)
            mask |= uint64_t(distance<Code, M>(bound.tables, codes + (row + i) * subspaces) < bound.threshold) << i;
        if (mask) return {row, rows, mask};
    }
    return {end, 0, 0};
}

// What is compiled for each M up to 16, and at 0 for any other.
using Compiled = std::make_index_sequence<17>;

template <class Code> struct Scalar {
    Filter<Code> filter;
    void (*distances)(const Tables &, const Code *, int64_t, float *);
};

template <class Code, std::size_t... M> Scalar<Code> scalar_for(int subspaces, std::index_sequence<M...>) {
    constexpr Scalar<Code> compiled[] = {{portable<Code, M>, distances<Code, M>}...};
    return compiled[subspaces < int(sizeof...(M)) ? subspaces : 0];
}

#if X86

// Eight registers of L lanes, each lane with 8 codes of 2 rows, become eight registers of one subspace each, by four
// rounds of interleaving bytes. Where that leaves rows: bit b of a mask of 16 L bits belongs to row `row_of(b)`.
constexpr int row_of(int bit, int lanes) {
    const int source = (bit >> 3 & 1) | (bit >> 1 & 2) | (bit << 1 & 4);
    return source * 2 * lanes + (bit >> 4) * 2 + (bit & 1);
}

INLINE uint64_t in_order_of_rows(uint64_t mask, int lanes) {
    uint64_t ordered = 0;
    for (; mask; mask &= mask - 1) ordered |= uint64_t(1) << row_of(lowest_bit(mask), lanes);
    return ordered;
}

VBMI INLINE void interleave(__m512i (&r)[8], int apart) {
    for (int i = 0; i < 8; ++i) {
        if (i & apart) continue;
        const __m512i low = _mm512_unpacklo_epi8(r[i], r[i | apart]), high = _mm512_unpackhi_epi8(r[i], r[i | apart]);
        r[i] = low;
        r[i | apart] = high;
    }
}

// Entries of a table of 128 bytes by the low seven bits of codes.
VBMI INLINE __m512i entries(const uint8_t *table, __m512i code) {
    return _mm512_permutex2var_epi8(_mm512_loadu_si512(table), code, _mm512_loadu_si512(table + 64));
}

// Eight codes each of eight rows, in the order of rows. M = 8 or up to 16 where those are not 0.
template <int M> VBMI INLINE __m512i eight_rows(const uint8_t *codes, int64_t subspaces, __m512i order) {
    if constexpr (M == 8) return _mm512_loadu_si512(codes);
    if constexpr (M == 16)
        return _mm512_permutex2var_epi8(_mm512_loadu_si512(codes), order, _mm512_loadu_si512(codes + 64));
    int64_t row[8];
    for (int i = 0; i < 8; ++i) std::memcpy(&row[i], codes + i * subspaces, 8);
    return _mm512_setr_epi64(row[0], row[1], row[2], row[3], row[4], row[5], row[6], row[7]);
}

// M is 8, or 16 for up to 16 subspaces, or 0 for any number.
template <int M> VBMI Hit vbmi(const Bound &bound, const uint8_t *codes, int64_t row, int64_t end) {
    const int64_t subspaces = M == 8 ? 8 : bound.tables.subspaces;
    const __m512i limit = _mm512_set1_epi8(char(bound.limit));
    uint8_t order[64];
    for (int b = 0; b < 64; ++b) order[b] = uint8_t(b / 8 * subspaces + b % 8);
    for (; row + BLOCK <= end; row += BLOCK) {
        __m512i sum = _mm512_setzero_si512();
        for (int64_t first = 0; first < subspaces; first += 8) {
            __m512i r[8];
            for (int i = 0; i < 8; ++i)
                r[i] = eight_rows<M>(codes + (row + 8 * i) * subspaces + first, subspaces, _mm512_loadu_si512(order));
            interleave(r, 1), interleave(r, 2), interleave(r, 4), interleave(r, 1);
            // Those rounds move bits of (register, byte): subspace c2 c1 c0 ends in register c1 c2 c0.
            for (int j = 0; j < 8; ++j) {
                if (M != 8 && first + j >= subspaces) break;
                const __m512i code = r[(j & 1) | (j & 2) << 1 | (j & 4) >> 1];
                const uint8_t *table = &bound.quantised[(first + j) * 256];
                const __m512i low = entries(table, code), high = entries(table + 128, code);
                sum = _mm512_adds_epu8(sum, _mm512_mask_mov_epi8(low, _mm512_movepi8_mask(code), high));
            }
        }
        const uint64_t mask = _mm512_cmple_epu8_mask(sum, limit);
        if (mask) return {row, BLOCK, in_order_of_rows(mask, 4)};
    }
    return {row, 0, 0};
}

AVX2 INLINE void interleave(__m256i (&r)[8], int apart) {
    for (int i = 0; i < 8; ++i) {
        if (i & apart) continue;
        const __m256i low = _mm256_unpacklo_epi8(r[i], r[i | apart]), high = _mm256_unpackhi_epi8(r[i], r[i | apart]);
        r[i] = low;
        r[i | apart] = high;
    }
}

// Entries of a table of 16 << BITS bytes by the low four bits of codes from each sixteen, of which the others choose.
template <int BITS> AVX2 INLINE __m256i entries(const uint8_t *table, __m256i code, __m256i low) {
    if constexpr (BITS == 0) {
        const __m128i part = _mm_loadu_si128(reinterpret_cast<const __m128i *>(table));
        return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(part), low);
    } else {
        const __m256i first = entries<BITS - 1>(table, code, low);
        const __m256i second = entries<BITS - 1>(table + (8 << BITS), code, low);
        // A blend looks at the highest bit of each byte.
        return _mm256_blendv_epi8(first, second, _mm256_slli_epi16(code, 4 - BITS));
    }
}

// M is 8, or 0 for any number of subspaces.
template <int M> AVX2 Hit avx2(const Bound &bound, const uint8_t *codes, int64_t row, int64_t end) {
    const int64_t subspaces = M ? M : bound.tables.subspaces;
    const __m256i limit = _mm256_set1_epi8(char(bound.limit));
    for (; row + 32 <= end; row += 32) {
        __m256i sum = _mm256_setzero_si256();
        uint32_t mask = ~uint32_t(0);
        for (int64_t first = 0; first < subspaces && mask; first += 8) {
            __m256i r[8];
            for (int i = 0; i < 8; ++i) {
                int64_t four[4];  // rows; one load where they lie side by side
                for (int j = 0; j < 4; ++j)
                    std::memcpy(&four[j], codes + (row + 4 * i + j) * subspaces + first, 8);
                r[i] = _mm256_setr_epi64x(four[0], four[1], four[2], four[3]);
            }
            interleave(r, 1), interleave(r, 2), interleave(r, 4), interleave(r, 1);
            for (int j = 0; j < 8 && mask; ++j) {
                if (!M && first + j >= subspaces) break;
                const __m256i code = r[(j & 1) | (j & 2) << 1 | (j & 4) >> 1];
                const __m256i low = _mm256_and_si256(code, _mm256_set1_epi8(15));
                sum = _mm256_adds_epu8(sum, entries<4>(&bound.quantised[(first + j) * 256], code, low));
                if (j % 4 == 3 || first + j + 1 == subspaces)  // often all are too far after four subspaces
                    mask = uint32_t(_mm256_movemask_epi8(_mm256_cmpeq_epi8(_mm256_min_epu8(sum, limit), sum)));
            }
        }
        if (mask) return {row, 32, in_order_of_rows(mask, 2)};
    }
    return {row, 0, 0};
}

#endif

// --- scans ---

// Whether all codes are below K. A pass of its own, over rows that the scan then finds in the cache.
template <class Code> bool below(const Code *codes, int64_t count, int64_t codewords) {
    Code bits = 0, largest = 0;
    for (int64_t i = 0; i < count; ++i) bits |= codes[i];
    if (bits < codewords) return true;  // the cheaper test, and the only one where K is a power of two
    for (int64_t i = 0; i < count; ++i) largest = std::max(largest, codes[i]);
    return largest < codewords;
}

template <class Code> struct Codes {
    const Code *values;
    int64_t regions, subspaces, codewords;
    const int64_t *offsets;

    bool unchecked() const { return sizeof(Code) == 1 && codewords == columns<Code>; }
    // Where the rows end that are checked together, before they are scanned.
    int64_t next(int64_t row, int64_t end) const { return unchecked() ? end : std::min(end, row + CHECKED); }
    bool sound(int64_t row, int64_t end) const {
        return unchecked() || below(values + row * subspaces, (end - row) * subspaces, codewords);
    }
};

// The k nearest images so far, as a heap with the farthest on top.
struct Heap {
    Match *found;
    int64_t k, count;

    float threshold() const { return count == k ? found[0].distance : INF; }
    bool offer(const Match &match) {
        if (count < k) {
            found[count++] = match;
        } else if (match < found[0]) {
            std::pop_heap(found, found + k);
            found[k - 1] = match;
        } else {
            return false;
        }
        std::push_heap(found, found + count);
        return count == k;
    }
};

// More than 8 rows: then computing the distances of all rows of a block takes less time than picking.
INLINE bool is_dense(uint64_t mask) {
    for (int i = 0; i < 8 && mask; ++i) mask &= mask - 1;
    return mask != 0;
}

// Offers images first..last - 1, numbered from `number` on, to the heap; returns false where a code is out of range.
// The heap holds images of lower numbers alone: one at the threshold comes behind all of them, and does not matter.
// `vector`, which may be null, looks at whole blocks, and `scalar` at what they leave.
template <class Code>
bool nearest(const Tables &tables, const Codes<Code> &codes, const uint8_t *keep, int64_t first, int64_t last,
             int64_t number, Heap &heap, Scalar<Code> scalar, Filter<Code> vector) {
    if (first == last) return true;
    const int64_t *offsets = codes.offsets;
    const int64_t end = offsets[last];
    // Vectors are filled with up to 128 bytes from a row on, but never with any from beyond the last.
    const int64_t overread = codes.subspaces == 8 ? 0 : (128 + codes.subspaces - 1) / codes.subspaces;
    const int64_t readable = codes.regions - overread;
    Bound bound(tables, vector != nullptr);
    bound.tighten(heap.threshold());

    int64_t image = first;
    Match best;
    float found[BLOCK];
    const auto open = [&] {
        best = {INF, number + image, offsets[image] < offsets[image + 1] ? offsets[image] : -1};
    };
    const auto close = [&] {
        if ((!keep || keep[image]) && heap.offer(best)) bound.tighten(heap.threshold());
    };
    const auto reach = [&](int64_t row) {
        if (row < offsets[image + 1]) return;
        close();
        if (bound.prunes) {  // images without a row that may be near enough are passed over
            image = std::upper_bound(offsets + image + 1, offsets + last, row) - offsets - 1;
        } else {
            while (offsets[++image + 1] <= row) open(), close();
        }
        open();
    };
    open();
    for (int64_t row = offsets[first]; row < end;) {
        const int64_t chunk_end = codes.next(row, end);
        if (!codes.sound(row, chunk_end)) return false;
        while (row < chunk_end) {
            Hit hit{row, std::min(BLOCK, chunk_end - row), ~uint64_t(0)};
            if (bound.prunes) {
                if (vector) hit = vector(bound, codes.values, row, std::min(chunk_end, readable));
                if (!vector || !hit.mask) hit = scalar.filter(bound, codes.values, hit.row, chunk_end);
            } else if (hit.rows < BLOCK) {
                hit.mask >>= BLOCK - hit.rows;
            }
            const Code *block = codes.values + hit.row * codes.subspaces;
            if (is_dense(hit.mask)) {
                scalar.distances(tables, block, hit.rows, found);
                if (bound.prunes && *std::min_element(found, found + hit.rows) >= bound.threshold) hit.mask = 0;
                for (int64_t i = 0; hit.mask && i < hit.rows;) {
                    reach(hit.row + i);
                    const int64_t stop = std::min(hit.rows, offsets[image + 1] - hit.row);
                    const int64_t at = std::min_element(found + i, found + stop) - found;  // the first of several
                    if (found[at] < best.distance) best.distance = found[at], best.region = hit.row + at;
                    i = stop;
                }
            } else {
                for (; hit.mask; hit.mask &= hit.mask - 1) {
                    const int bit = lowest_bit(hit.mask);
                    reach(hit.row + bit);
                    scalar.distances(tables, block + bit * codes.subspaces, 1, found);
                    if (found[0] < best.distance) best.distance = found[0], best.region = hit.row + bit;
                }
            }
            row = hit.row + hit.rows;
        }
    }
    close();
    while (!bound.prunes && ++image < last) open(), close();  // those behind the last region have none
    return true;
}

// The best region of each of the images first..last - 1; returns false where a code is out of range.
template <class Code, std::size_t M>
bool best(const Tables &tables, const Codes<Code> &codes, int64_t first, int64_t last, float *distances,
          int64_t *regions) {
    const int subspaces = M ? int(M) : tables.subspaces;
    int64_t checked = first < last ? codes.offsets[first] : 0;
    for (int64_t image = first; image < last; ++image) {
        const int64_t begin = codes.offsets[image], end = codes.offsets[image + 1];
        while (checked < end) {
            const int64_t next = codes.next(checked, codes.offsets[last]);
            if (!codes.sound(checked, next)) return false;
            checked = next;
        }
        float least = INF;
        int64_t region = begin < end ? begin : -1;
        for (int64_t row = begin; row < end; ++row) {
            const float d = distance<Code, M>(tables, codes.values + row * subspaces);
            if (d < least) {
                least = d;
                region = row;
            }
        }
        distances[image] = least;
        regions[image] = region;
    }
    return true;
}

template <class Code, std::size_t... M> auto best_for(int subspaces, std::index_sequence<M...>) {
    constexpr decltype(&best<Code, 0>) compiled[] = {best<Code, M>...};
    return compiled[subspaces < int(sizeof...(M)) ? subspaces : 0];
}

// Sorts keys whose low halves already rise: a stable radix sort of the high halves, 11 bits a pass.
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
    std::copy_n(source, count, keys);  // three passes: they ended in the spare
}

// --- what Python sees; udq/scan.py has checked every argument ---

bool has(const char *name) {
#if X86
    __builtin_cpu_init();
    if (!std::strcmp(name, "avx512-vbmi"))
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vbmi");
    if (!std::strcmp(name, "avx2")) return __builtin_cpu_supports("avx2");
#endif
    return !std::strcmp(name, "portable");
}

constexpr const char *KERNELS[] = {"avx512-vbmi", "avx2", "portable"};

PyObject *kernels(PyObject *, PyObject *) {
    PyObject *list = PyList_New(0);
    for (const char *name : KERNELS) {
        PyObject *text = list && has(name) ? PyUnicode_FromString(name) : nullptr;
        if (text && PyList_Append(list, text)) Py_CLEAR(list);
        Py_XDECREF(text);
    }
    return list;
}

// A buffer of a Python object, given back at the end.
struct Buffer : Py_buffer {
    Buffer() : Py_buffer{} {}
    ~Buffer() {
        if (obj) PyBuffer_Release(this);
    }
    Buffer(const Buffer &) = delete;
    Buffer &operator=(const Buffer &) = delete;
    template <class T> T *as() const { return static_cast<T *>(buf); }
    int64_t bytes() const { return len; }
};

// Runs without the interpreter's lock; true where memory sufficed, else with the exception set.
template <class Work> bool unlocked(const Work &work) {
    bool enough = true;
    Py_BEGIN_ALLOW_THREADS;
    try {
        work();
    } catch (const std::bad_alloc &) {
        enough = false;
    }
    Py_END_ALLOW_THREADS;
    if (!enough) PyErr_NoMemory();
    return enough;
}

template <class Code>
Codes<Code> view(const Buffer &codes, const Buffer &lookup, const Buffer &offsets, int subspaces) {
    return {codes.as<const Code>(), codes.bytes() / int64_t(sizeof(Code)) / subspaces, subspaces,
            lookup.bytes() / int64_t(sizeof(float)) / subspaces, offsets.as<const int64_t>()};
}

PyObject *py_nearest(PyObject *, PyObject *args) {
    const char *kernel;
    Buffer lookup, codes, offsets, keep, found;
    int subspaces, itemsize;
    long long first, last, number, count;
    if (!PyArg_ParseTuple(args, "sy*iy*iy*z*LLLw*L", &kernel, &lookup, &subspaces, &codes, &itemsize, &offsets, &keep,
                          &first, &last, &number, &found, &count))
        return nullptr;
    Heap heap{found.as<Match>(), found.bytes() / int64_t(sizeof(Match)), count};
    bool sound = false;
    const auto run = [&](auto code, auto vector) {
        using Code = decltype(code);
        const Codes<Code> all = view<Code>(codes, lookup, offsets, subspaces);
        const Tables tables(lookup.as<const float>(), subspaces, all.codewords, columns<Code>);
        sound = nearest<Code>(tables, all, keep.as<const uint8_t>(), first, last, number, heap,
                              scalar_for<Code>(subspaces, Compiled()), vector);
    };
    const bool enough = unlocked([&] {
        if (itemsize == 2) return run(uint16_t(), nullptr);
#if X86
        if (!std::strcmp(kernel, "avx512-vbmi"))
            return run(uint8_t(), subspaces == 8 ? vbmi<8> : subspaces <= 16 ? vbmi<16> : vbmi<0>);
        if (!std::strcmp(kernel, "avx2")) return run(uint8_t(), subspaces == 8 ? avx2<8> : avx2<0>);
#endif
        run(uint8_t(), nullptr);
    });
    return enough ? PyLong_FromLongLong(sound ? heap.count : -1) : nullptr;
}

PyObject *py_best(PyObject *, PyObject *args) {
    Buffer lookup, codes, offsets, distances, regions;
    int subspaces, itemsize;
    long long first, last;
    if (!PyArg_ParseTuple(args, "y*iy*iy*LLw*w*", &lookup, &subspaces, &codes, &itemsize, &offsets, &first, &last,
                          &distances, &regions))
        return nullptr;
    bool sound = false;
    const auto run = [&](auto code, auto scan) {
        using Code = decltype(code);
        const Codes<Code> all = view<Code>(codes, lookup, offsets, subspaces);
        const Tables tables(lookup.as<const float>(), subspaces, all.codewords, columns<Code>);
        sound = scan(tables, all, first, last, distances.as<float>(), regions.as<int64_t>());
    };
    const bool enough = unlocked([&] {
        if (itemsize == 2) return run(uint16_t(), best_for<uint16_t>(subspaces, Compiled()));
        run(uint8_t(), best_for<uint8_t>(subspaces, Compiled()));
    });
    return enough ? PyBool_FromLong(sound) : nullptr;
}

PyObject *py_sort(PyObject *, PyObject *args) {
    Buffer keys;
    if (!PyArg_ParseTuple(args, "w*", &keys)) return nullptr;
    if (!unlocked([&] { sort_by_high_half(keys.as<uint64_t>(), keys.bytes() / 8); })) return nullptr;
    Py_RETURN_NONE;
}

PyMethodDef METHODS[] = {
    {"kernels", kernels, METH_NOARGS, "Return the kernels this processor can run, fastest first."},
    {"nearest", py_nearest, METH_VARARGS, "Offer images to a heap of the nearest; return its length, or -1."},
    {"best", py_best, METH_VARARGS, "Find the best region of images; return whether all codes are in range."},
    {"sort_by_high_half", py_sort, METH_VARARGS, "Sort uint64 keys whose low halves already rise, in place."},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "udq._scan", "The scan, compiled.", 0, METHODS,
                      nullptr, nullptr, nullptr, nullptr};

}  // namespace

PyMODINIT_FUNC PyInit__scan() { return PyModule_Create(&MODULE); }
