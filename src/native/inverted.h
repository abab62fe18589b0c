// The inverted multi-index: codes in the order of cells, which share the codewords of the first two subspaces.
//
// A cell's two table entries and the least entries of all other subspaces bound the distances of all its rows. Cells
// that are nearest by that are looked at first; the threshold that they leave rules out most others unseen.

#pragma once

#include "nearest.h"

namespace udq {

constexpr int BUCKETS = 1 << 12;  // that cells are sorted into by their bounds, to find the nearest without sorting all

template <class Code> struct Inverted {
    const Code *codes;  // (rows, M), those of a cell side by side
    int64_t subspaces, codewords;
    const int64_t *starts;  // (cells + 1,), the first row of each cell
    int64_t cells;
    const uint32_t *regions;  // (rows,), of which region each row is
    const int64_t *offsets;   // (images + 1,), of regions
    int64_t images;
    const uint8_t *keep;  // (images,)
};

// Moves the rows of some regions, numbered from `first` on, to their cells; `next` says where each cell goes on. A code
// out of range is refused: returns false.
template <class Code>
bool sort_by_cell(const Code *codes, int64_t rows, int64_t subspaces, int64_t codewords, int64_t first, int64_t *next,
                  Code *sorted, uint32_t *regions) {
    if (!below(codes, rows * subspaces, codewords)) return false;
    for (int64_t row = 0; row < rows; ++row) {
        const Code *code = codes + row * subspaces;
        const int64_t to = next[subspaces > 1 ? code[0] * codewords + code[1] : code[0]]++;
        std::copy_n(code, subspaces, sorted + to * subspaces);
        regions[to] = uint32_t(first + row);
    }
    return true;
}

// Regions near enough to matter, of which an image may have several.
class Candidates {
public:
    explicit Candidates(int64_t k) : k(k), most(std::max<int64_t>(4 * k, 1024)) { found.reserve(most); }

    // Returns whether the threshold may have fallen.
    bool add(const Match &match) {
        found.push_back(match);
        if (int64_t(found.size()) < most) return false;
        settle();
        return true;
    }

    // Keeps the best region of each image, the first of several, and the k nearest images.
    void settle() {
        std::sort(found.begin(), found.end(), [](const Match &one, const Match &other) {
            if (one.image != other.image) return one.image < other.image;
            return one.distance < other.distance || (one.distance == other.distance && one.region < other.region);
        });
        const auto same = [](const Match &one, const Match &other) { return one.image == other.image; };
        found.erase(std::unique(found.begin(), found.end(), same), found.end());
        if (int64_t(found.size()) < k) return;
        std::nth_element(found.begin(), found.begin() + k - 1, found.end());
        threshold = found[k - 1].distance;
        found.resize(k);
    }

    float threshold = INF;
    std::vector<Match> found;

private:
    const int64_t k, most;
};

// One query on its way through some of the cells: `share` of `shares`, a thread's.
template <class Code> class ByCell {
public:
    ByCell(const Inverted<Code> &index, const float *lookup, int64_t k, const Vector *vector)
        : index(index), tables(lookup, int(index.subspaces), index.codewords, columns<Code>),
          bound(tables, vector != nullptr), scalar(scalar_for<Code>(int(index.subspaces), Compiled())),
          chunk(index.subspaces, vector, false), candidates(k), least(index.cells) {
        double rest = -tables.error;
        for (int64_t m = 2; m < index.subspaces; ++m) rest += tables.least[m];
        for (int64_t cell = 0; cell < index.cells; ++cell) {
            const bool pair = index.subspaces > 1;
            least[cell] = rest + tables.exact[pair ? cell / index.codewords : cell];
            if (pair) least[cell] += tables.exact[tables.columns + cell % index.codewords];
        }
    }

    // Whether bounds hold: else nothing can be left out, and the index is of no use.
    bool bounded() const { return tables.bounded; }

    // Cells beyond those that hold a part `looked_at` of the codes are left out, whatever they hold.
    std::vector<Match> search(int64_t share, int64_t shares, double looked_at) {
        const auto mine = [&](int64_t cell) { return cell / SIDE_BY_SIDE % shares == share; };
        const double nearest = nearest_cells(mine, std::min(looked_at, 1.0 / 512));
        const double farthest = looked_at < 1 ? nearest_cells(mine, looked_at) : 1.0 / 0.0;
        for (int64_t cell = 0; cell < index.cells; ++cell)
            if (mine(cell) && least[cell] <= nearest) visit(cell);
        finish();
        candidates.settle();
        tighten();
        for (int64_t cell = 0; cell < index.cells; ++cell)
            if (mine(cell) && least[cell] > nearest && least[cell] <= std::min<double>(candidates.threshold, farthest))
                visit(cell);
        finish();
        candidates.settle();
        return std::move(candidates.found);
    }

private:
    static constexpr int64_t SIDE_BY_SIDE = 16;  // cells a thread takes together, so that it reads on

    // A bound within which are the nearest cells, of a part of the codes and a few more.
    template <class Mine> double nearest_cells(const Mine &mine, double part) const {
        const auto [low, high] = std::minmax_element(least.begin(), least.end());
        const double width = std::max((*high - *low) / BUCKETS, 1e-300);
        std::vector<int64_t> rows(BUCKETS + 1);
        int64_t all = 0;
        for (int64_t cell = 0; cell < index.cells; ++cell) {
            if (!mine(cell)) continue;
            const int64_t own = index.starts[cell + 1] - index.starts[cell];
            rows[int64_t((least[cell] - *low) / width)] += own;
            all += own;
        }
        int bucket = 0;
        for (int64_t seen = 0; bucket < BUCKETS; ++bucket)
            if ((seen += rows[bucket]) > part * all + CHECKED) break;
        return *low + (bucket + 1) * width;
    }

    // Cells that lie side by side are looked at together.
    void visit(int64_t cell) {
        const int64_t first = index.starts[cell], last = index.starts[cell + 1];
        if (first == last) return;
        if (first != run_last) finish(), run_first = first;
        run_last = last;
    }

    void finish() {
        for (int64_t row = run_first; row < run_last; row += chunk.most) {
            chunk.load(index.codes, row, std::min(run_last, row + chunk.most), index.starts[index.cells]);
            scan();
        }
        run_first = run_last = 0;
    }

    void scan() {
        float found[BLOCK];
        for (int64_t row = 0; row < chunk.rows;) {
            Hit hit{row, std::min(BLOCK, chunk.rows - row), 0};
            if (bound.prunes) {
                hit = chunk.next(bound, scalar, row);
            } else {
                hit.mask = lowest_bits(hit.rows);
            }
            const Code *block = chunk.start + hit.row * chunk.subspaces;
            const bool dense = is_dense(hit.mask);
            if (dense) scalar.distances(tables, block, hit.rows, found);
            for (; hit.mask; hit.mask &= hit.mask - 1) {
                const int bit = lowest_bit(hit.mask);
                if (!dense) scalar.distances(tables, block + bit * chunk.subspaces, 1, found + bit);
                if (found[bit] <= candidates.threshold) offer(chunk.first + hit.row + bit, found[bit]);
            }
            row = hit.row + hit.rows;
        }
    }

    void offer(int64_t row, float distance) {
        const int64_t region = index.regions[row];
        const int64_t *end = index.offsets + index.images + 1;
        const int64_t image = std::upper_bound(index.offsets, end, region) - index.offsets - 1;
        if (index.keep[image] && candidates.add({distance, image, region})) tighten();
    }

    void tighten() {
        // A scalar filter wants what is below; here an image at the threshold may come before one that is there.
        if (candidates.threshold < INF) bound.tighten(std::nextafter(candidates.threshold, INF));
    }

    const Inverted<Code> &index;
    const Tables tables;
    Bound bound;
    const Scalar<Code> scalar;
    Chunk<Code> chunk;
    Candidates candidates;
    std::vector<double> least;  // of each cell, what no distance of its rows is below
    int64_t run_first = 0, run_last = 0;
};

}  // namespace udq
