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
    const uint8_t *keys;       // (P, KEYS), the first bytes of their codes
    const uint32_t *starts;    // (cells + 1,), the first of each cell
    const uint32_t *photo_of;  // (P,)
};

constexpr int64_t KEYS = 2;

// Adds the votes of n features of a query to `total`, (photos,). Feature i visits cells[i * most + j], j < visited[i],
// and of these the rows whose distance in the first KEYS subspaces is at most limits[i].
inline void vote(const Points &points, const uint16_t *cells, int64_t n, int64_t most, const int64_t *visited,
                 const float *limits, const float *tables, int64_t subspaces, float farthest, float *total,
                 int64_t photos) {
    constexpr int64_t codewords = 256;
    struct Near {
        uint32_t row;
        float distance;
    };
    std::vector<float> best(photos);
    std::vector<uint32_t> touched;
    std::vector<Near> near;
    const auto code_of = [&](uint32_t row) { return points.stored + (int64_t(row) + 1) * points.bytes - subspaces; };
    for (int64_t i = 0; i < n; ++i) {
        const float *table = tables + i * subspaces * codewords;
        for (int64_t j = 0; j < visited[i]; ++j) {
            const int64_t cell = cells[i * most + j];
            near.clear();
            for (uint32_t place = points.starts[cell]; place < points.starts[cell + 1]; ++place) {
                float distance = 0;
                for (int64_t m = 0; m < KEYS; ++m) distance += table[m * codewords + points.keys[place * KEYS + m]];
                // Entries are not negative: a part of the sum suffices.
                if (distance > limits[i] || distance >= farthest) continue;
                near.push_back({points.rows[place], distance});
                // Codes are anywhere in memory: without this, waiting for them takes most of the time.
                PREFETCH(code_of(points.rows[place]));
            }
            for (auto [row, distance] : near) {
                const uint8_t *code = code_of(row);
                for (int64_t m = KEYS; m < subspaces; ++m) distance += table[m * codewords + code[m]];
                if (distance >= farthest) continue;
                const float closeness = 1 - distance / farthest;
                const uint32_t photo = points.photo_of[row];
                if (best[photo] == 0) touched.push_back(photo);
                best[photo] = std::max(best[photo], closeness * closeness);
            }
        }
        for (uint32_t photo : touched) total[photo] += best[photo], best[photo] = 0;
        touched.clear();
    }
}

}  // namespace udq
