// Scans of codes in the order of images: the k nearest images for each query of a batch, or the best region of every
// image.

#pragma once

#include <deque>

#include "filters.h"

namespace udq {

// Whether all codes are below K. A separate pass, over rows that the scan then finds in the cache.
template <class Code> bool below(const Code *codes, int64_t count, int64_t codewords) {
    Code bits = 0, largest = 0;
    for (int64_t i = 0; i < count; ++i) bits |= codes[i];
    if (bits < codewords) return true;  // the cheaper test; conclusive if K is a power of two
    for (int64_t i = 0; i < count; ++i) largest = std::max(largest, codes[i]);
    return largest < codewords;
}

// Codes of images, of which first..last - 1 are scanned; the first image has the number `number`.
template <class Code> struct Part {
    const Code *codes;
    int64_t subspaces, codewords;
    int64_t regions;
    const int64_t *offsets;
    const uint8_t *keep;  // null if all images may be found
    int64_t first, last, number;

    bool sound(int64_t row, int64_t end) const {
        if (sizeof(Code) == 1 && codewords == columns<Code>) return true;
        return below(codes + row * subspaces, (end - row) * subspaces, codewords);
    }
};

// The k nearest images so far, as a heap with the farthest on top.
struct Heap {
    Match *found;
    int64_t k, count = 0;

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

// Whether more than 8 bits are set: then computing all distances of a block is faster than picking rows.
INLINE bool is_dense(uint64_t mask) {
    for (int i = 0; i < 8 && mask; ++i) mask &= mask - 1;
    return mask != 0;
}

// The scan of the codes for one query. Its heap only contains images of lower numbers: an image at the threshold comes
// after all of them and can be skipped.
template <class Code> class Nearest {
public:
    Nearest(const float *lookup, int64_t subspaces, int64_t codewords, Match *found, int64_t k, bool quantises)
        : tables(lookup, int(subspaces), codewords, columns<Code>), bound(tables, quantises), heap{found, k},
          scalar(scalar_for<Code>(int(subspaces), Compiled())) {}
    Nearest(const Nearest &) = delete;  // the bound refers to the tables

    int64_t count() const { return heap.count; }

    void begin(const Part<Code> &of) {
        part = &of;
        image = part->first;
        open();
    }

    void scan(Chunk<Code> &chunk) {
        float found[BLOCK];
        for (int64_t row = 0; row < chunk.rows;) {
            Hit hit{row, std::min(BLOCK, chunk.rows - row), 0};
            if (bound.prunes) {
                hit = chunk.next(bound, scalar, row);
            } else {
                hit.mask = lowest_bits(hit.rows);
            }
            const Code *block = chunk.start + hit.row * chunk.subspaces;
            const int64_t first = chunk.first + hit.row;
            if (is_dense(hit.mask)) {
                scalar.distances(tables, block, hit.rows, found);
                if (bound.prunes && *std::min_element(found, found + hit.rows) >= bound.threshold) hit.mask = 0;
                for (int64_t i = 0; hit.mask && i < hit.rows;) {
                    reach(first + i);
                    const int64_t stop = std::min(hit.rows, part->offsets[image + 1] - first);
                    const int64_t at = std::min_element(found + i, found + stop) - found;  // the first of equals
                    if (found[at] < best.distance) best.distance = found[at], best.region = first + at;
                    i = stop;
                }
            } else {
                for (; hit.mask; hit.mask &= hit.mask - 1) {
                    const int bit = lowest_bit(hit.mask);
                    reach(first + bit);
                    scalar.distances(tables, block + bit * chunk.subspaces, 1, found);
                    if (found[0] < best.distance) best.distance = found[0], best.region = first + bit;
                }
            }
            row = hit.row + hit.rows;
        }
    }

    void end() {
        close();
        while (!bound.prunes && ++image < part->last) open(), close();  // images after the last region have no regions
    }

private:
    void open() {
        const int64_t *offsets = part->offsets + image;
        best = {INF, part->number + image, offsets[0] < offsets[1] ? offsets[0] : -1};
    }

    void close() {
        if ((!part->keep || part->keep[image]) && heap.offer(best)) bound.tighten(heap.threshold());
    }

    void reach(int64_t row) {
        const int64_t *offsets = part->offsets;
        if (row < offsets[image + 1]) return;
        close();
        if (bound.prunes) {  // skip images without a row that may be near enough
            image = std::upper_bound(offsets + image + 1, offsets + part->last, row) - offsets - 1;
        } else {
            while (offsets[++image + 1] <= row) open(), close();
        }
        open();
    }

    const Tables tables;
    Bound bound;
    Heap heap;
    const Scalar<Code> scalar;
    const Part<Code> *part = nullptr;
    int64_t image = 0;
    Match best{};
};

// Scans all parts for all queries; returns the number of the first part with a code out of range, or -1.
template <class Code>
int64_t nearest(std::deque<Nearest<Code>> &queries, const std::vector<Part<Code>> &parts, int64_t subspaces,
                const Vector *vector) {
    Chunk<Code> chunk(subspaces, vector, queries.size() > 1);
    for (const Part<Code> &part : parts) {
        if (part.first == part.last) continue;
        for (Nearest<Code> &query : queries) query.begin(part);
        const int64_t end = part.offsets[part.last];
        for (int64_t row = part.offsets[part.first]; row < end; row += chunk.most) {
            const int64_t next = std::min(end, row + chunk.most);
            if (!part.sound(row, next)) return &part - parts.data();
            chunk.load(part.codes, row, next, part.regions);
            for (Nearest<Code> &query : queries) query.scan(chunk);
        }
        for (Nearest<Code> &query : queries) query.end();
    }
    return -1;
}

// The best region of each image of a part; returns false if a code is out of range.
template <class Code, std::size_t M>
bool best(const Tables &tables, const Part<Code> &part, float *distances, int64_t *regions) {
    const int subspaces = M ? int(M) : tables.subspaces;
    int64_t checked = part.offsets[part.first];
    for (int64_t image = part.first; image < part.last; ++image) {
        const int64_t begin = part.offsets[image], end = part.offsets[image + 1];
        while (checked < end) {
            const int64_t next = std::min(part.offsets[part.last], checked + CHECKED);
            if (!part.sound(checked, next)) return false;
            checked = next;
        }
        float least = INF;
        int64_t region = begin < end ? begin : -1;
        for (int64_t row = begin; row < end; ++row) {
            const float d = distance<Code, M>(tables, part.codes + row * subspaces);
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

}  // namespace udq
