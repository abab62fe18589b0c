// The inverted multi-index: codes sorted by cell; the rows of a cell share the codewords of the first two subspaces.
//
// The two table entries of a cell plus the least entries of all other subspaces are a lower bound of the distances of
// its rows. The cells of the smallest bounds are scanned first; the threshold after them rules out most other cells.

#pragma once

#include "nearest.h"

namespace udq {

constexpr int BUCKETS = 1 << 12;  // histogram of the bounds of cells: finds the nearest cells without a sort

template <class Code> struct Inverted {
    const Code *codes;  // (rows, M), the rows of a cell next to each other
    int64_t subspaces, codewords;
    const int64_t *starts;  // (cells + 1,), the first row of each cell
    int64_t cells;
    const uint32_t *regions;  // (rows,), the region of each row
    const int64_t *offsets;   // (images + 1,), of regions
    int64_t images;
    const uint8_t *keep;  // (images,)
};

// Copies rows, of regions numbered from `first` on, to their cells; `next` is the next free row of each cell. Returns
// false if a code is out of range.
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

// Regions within the threshold; an image may have several.
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

    // Keeps the best region of each image, the first of equals, and the k nearest images.
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

// The scan of some of the cells for one query: those of thread `share` of `shares`.
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

    // Whether the bounds are valid; if not, no cell can be skipped and the index is of no use.
    bool bounded() const { return tables.bounded; }

    // Scans the nearest cells up to a share `looked_at` of the codes; all others are skipped, whatever their bounds.
    std::vector<Match> search(int64_t share, int64_t shares, double looked_at) {
        const auto mine = [&](int64_t cell) { return cell / SIDE_BY_SIDE % shares == share; };
        const auto any = [](int64_t) { return true; };
        // Of the cells of all threads, so that what a search finds does not depend on their number.
        const double farthest = looked_at < 1 ? nearest_cells(any, looked_at) : 1.0 / 0.0;
        const double nearest = std::min(farthest, nearest_cells(mine, 1.0 / 512));
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
    static constexpr int64_t SIDE_BY_SIDE = 16;  // adjacent cells per thread, for sequential reads

    // A bound below which are the nearest of some cells, with at least a share `part` of their codes.
    template <class Among> double nearest_cells(const Among &among, double part) const {
        const auto [low, high] = std::minmax_element(least.begin(), least.end());
        const double width = std::max((*high - *low) / BUCKETS, 1e-300);
        std::vector<int64_t> rows(BUCKETS + 1);
        int64_t all = 0;
        for (int64_t cell = 0; cell < index.cells; ++cell) {
            if (!among(cell)) continue;
            const int64_t own = index.starts[cell + 1] - index.starts[cell];
            rows[int64_t((least[cell] - *low) / width)] += own;
            all += own;
        }
        int bucket = 0;
        for (int64_t seen = 0; bucket < BUCKETS; ++bucket)
            if ((seen += rows[bucket]) > part * all + CHECKED) break;
        return *low + (bucket + 1) * width;
    }

    // Adjacent cells are scanned as one run of rows.
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
        // A scalar filter keeps distances below the threshold; here an image at the threshold may win a tie.
        if (candidates.threshold < INF) bound.tighten(std::nextafter(candidates.threshold, INF));
    }

    const Inverted<Code> &index;
    const Tables tables;
    Bound bound;
    const Scalar<Code> scalar;
    Chunk<Code> chunk;
    Candidates candidates;
    std::vector<double> least;  // lower bound of the distances of each cell
    int64_t run_first = 0, run_last = 0;
};

}  // namespace udq
