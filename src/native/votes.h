// Votes of a query's local features for photos, by an inverted multi-index; src/udq/search/scan/votes.py has the method.

#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#if defined(__GNUC__)
#define PREFETCH(address) __builtin_prefetch(address)
#else
#define PREFETCH(address) (void)(address)
#endif

namespace udq {

// The local features of some photos, and their rows sorted by cell.
struct Points {
    const uint8_t *stored;     // (P, bytes), the code of M bytes at the end of each
    int64_t bytes;
    const uint32_t *rows;      // (P,), sorted by cell
    const uint32_t *starts;    // (cells + 1,), the first of each cell
    const uint32_t *photo_of;  // (P,)
};

// How many rows ahead codes are read.
constexpr uint32_t AHEAD = 12;

inline const uint8_t *code_of(const Points &points, uint32_t row, int64_t subspaces) {
    return points.stored + (int64_t(row) + 1) * points.bytes - subspaces;
}

// Adds the votes of n features of a query to `total`, (photos,). Feature i visits cells[i * most + j], j < visited[i].
inline void vote(const Points &points, const uint16_t *cells, int64_t n, int64_t most, const int64_t *visited,
                 const float *tables, int64_t subspaces, float farthest, float *total, int64_t photos) {
    constexpr int64_t codewords = 256;
    std::vector<float> best(photos);
    std::vector<uint32_t> touched;
    for (int64_t i = 0; i < n; ++i) {
        const float *table = tables + i * subspaces * codewords;
        for (int64_t j = 0; j < visited[i]; ++j) {
            const int64_t cell = cells[i * most + j];
            const uint32_t last = points.starts[cell + 1] - 1;  // not read if the cell is empty
            for (uint32_t place = points.starts[cell]; place < points.starts[cell + 1]; ++place) {
                const uint32_t row = points.rows[place];
                // Rows of a cell are anywhere in memory: without this, waiting for them takes most of the time.
                PREFETCH(code_of(points, points.rows[std::min(place + AHEAD, last)], subspaces));
                const uint8_t *code = code_of(points, row, subspaces);
                float distance = 0;
                for (int64_t m = 0; m < subspaces / 2; ++m) distance += table[m * codewords + code[m]];
                if (distance >= farthest) continue;  // entries are not negative: half of them suffices
                for (int64_t m = subspaces / 2; m < subspaces; ++m) distance += table[m * codewords + code[m]];
                if (distance >= farthest) continue;
                const float near = 1 - distance / farthest;
                const uint32_t photo = points.photo_of[row];
                if (best[photo] == 0) touched.push_back(photo);
                best[photo] = std::max(best[photo], near * near);
            }
        }
        for (uint32_t photo : touched) total[photo] += best[photo], best[photo] = 0;
        touched.clear();
    }
}

}  // namespace udq
