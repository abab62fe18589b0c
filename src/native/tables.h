// The tables of a query, the exact distance of a row, and bounds that rule rows out.

#pragma once

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

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

namespace udq {

constexpr float INF = std::numeric_limits<float>::infinity();
constexpr int64_t BLOCK = 64;         // rows that a filter decides on at once, one bit each
constexpr int64_t CHECKED = 1 << 12;  // rows whose codes are checked, then scanned while they are in the cache

// Number of values of a code, up to 512; each table has as many columns, so that no code reads out of bounds.
template <class Code> constexpr int64_t columns = sizeof(Code) == 1 ? 256 : 512;

// An image with its best region; `MATCH` in udq/search/scan/kernels.py has the same layout.
struct Match {
    float distance;
    int64_t image;
    int64_t region;
    bool operator<(const Match &other) const {
        return distance < other.distance || (distance == other.distance && image < other.image);
    }
};
static_assert(sizeof(Match) == 24);

// Bytes aligned to a cache line: loading a vector across two lines takes twice the time.
class Lines {
public:
    explicit Lines(int64_t bytes) : room(bytes ? bytes + 63 : 0) {}
    uint8_t *data() { return aligned(room.data()); }
    const uint8_t *data() const { return aligned(room.data()); }
    bool empty() const { return room.empty(); }

private:
    template <class Byte> static Byte *aligned(Byte *at) { return at + (-reinterpret_cast<uintptr_t>(at) & 63); }
    std::vector<uint8_t> room;
};

// The tables of one query, a row of `columns` entries for each subspace, and values derived from them.
struct Tables {
    int subspaces;
    int64_t columns;
    std::vector<float> exact;
    std::vector<double> least;  // smallest entry of each subspace
    double offset = 0;          // sum of `least`
    double error = 0;           // above the rounding error of any float32 sum, and of the doubles used here
    bool bounded;               // whether no sum can overflow; if one can, no bound is valid

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
        // Adding M terms rounds M - 1 times, each time by up to 2^-24 of the sum so far.
        error = std::ldexp(subspaces * largest, -22);
        bounded = largest < FLT_MAX / 2;
    }
};

// The exact distance of a row. M is a compile-time constant unless it is 0: then the sum unrolls and codes are read by
// words.
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

// Rules out rows of a distance above the threshold.
struct Bound {
    const Tables &tables;
    float threshold = INF;
    bool prunes = false;
    // 8-bit tables (M, 256): a saturated sum above `limit` implies a distance above the threshold.
    Lines quantised;
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
            uint8_t *row = quantised.data() + m * 256;
            for (int k = 0; k < 256; ++k) {
                // Columns from K on are 0 and may be below the least entry; no code reads them.
                const double value = (exact[k] - tables.least[m]) * scale;
                row[k] = uint8_t(int(std::clamp(value, 0.0, 255.0)));
            }
        }
    }
};

}  // namespace udq
