// Nearest neighbours between the descriptors of a query and those of a photo; src/udq/keypoints/matching.py has the
// method.
//
// Components are whole steps of -127..127, so that products are whole numbers, and the same in any order. Processors
// multiply unsigned by signed bytes, so each kernel makes those of the query unsigned in its own way.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "x86.h"

namespace udq {

constexpr int64_t DIMENSIONS = 128, QUADS = DIMENSIONS / 4;
constexpr int64_t SUBSPACES = 16, CODEWORDS = 256, PART = DIMENSIONS / SUBSPACES;  // of a code
constexpr int64_t MOST_LANES = 16;
constexpr int LARGEST = 127;  // steps of a component, either way
constexpr int32_t NOTHING = -(1 << 30);  // less than any product

// What is known of n descriptors of a query and P of a photo.
struct Neighbours {
    int64_t *nearest;  // (n,), the row of the photo with the largest product; the first of equals
    int32_t *first;    // (n,), that product
    int32_t *second;   // (n,), the largest one of any other row
    int32_t *best;     // (P,), the largest product of each row of the photo with any of the query
};

#if X86

// The descriptors of a photo as a kernel reads them.
struct Packed {
    int64_t blocks;               // of as many rows as a vector has lanes
    std::vector<int8_t> columns;  // (blocks, QUADS, lanes, 4)
    std::vector<int32_t> start;   // (blocks, lanes), what a sum starts from; NOTHING for a lane without a row
    std::vector<int32_t> best;    // (blocks, lanes), as in `Neighbours`
};

// The largest two products of some descriptors of the query, in each lane.
struct Largest {
    alignas(64) int32_t first[MOST_LANES], second[MOST_LANES], block[MOST_LANES];
};

// Rounds to whole steps, LARGEST per `extent`, half to even as numpy does. `count` is a multiple of 32.
AVX2 inline void round_to_steps(const float *from, int64_t count, float extent, int8_t *to) {
    const __m256 scale = _mm256_set1_ps(float(LARGEST) / extent);
    const __m256i low = _mm256_set1_epi8(-LARGEST);
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    for (int64_t i = 0; i < count; i += 32) {
        __m256i whole[4];
        for (int j = 0; j < 4; ++j)
            whole[j] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(from + i + 8 * j), scale));
        const __m256i packed = _mm256_packs_epi16(_mm256_packs_epi32(whole[0], whole[1]),
                                                  _mm256_packs_epi32(whole[2], whole[3]));
        const __m256i steps = _mm256_permutevar8x32_epi32(packed, order);
        _mm256_storeu_si256(reinterpret_cast<__m256i *>(to + i), _mm256_max_epi8(steps, low));  // packs cuts at 127
    }
}

inline int32_t four(const int8_t *query, int64_t quad) {
    int32_t bytes;
    std::memcpy(&bytes, query + 4 * quad, 4);
    return bytes;
}

// A kernel compares some descriptors of the query, (ROWS, 128), with all of a photo. `start` is what sums start from
// for a descriptor of the photo with this sum of its components.

// Components of the query are moved by 128. What that adds to a product depends on the photo's descriptor alone.
struct Vnni {
    static constexpr int64_t LANES = 16, ROWS = 4;
    static int32_t start(int32_t sum) { return -128 * sum; }

    VNNI static void compare(const int8_t *query, Packed &photo, Largest *largest) {
        const __m512i move = _mm512_set1_epi8(-128);
        __m512i first[ROWS], second[ROWS], block[ROWS];
        for (int64_t i = 0; i < ROWS; ++i)
            first[i] = second[i] = _mm512_set1_epi32(2 * NOTHING), block[i] = _mm512_setzero_si512();
        for (int64_t b = 0; b < photo.blocks; ++b) {
            const int8_t *columns = &photo.columns[b * QUADS * LANES * 4];
            __m512i sum[ROWS], best = _mm512_loadu_si512(&photo.best[b * LANES]);
            for (int64_t i = 0; i < ROWS; ++i) sum[i] = _mm512_loadu_si512(&photo.start[b * LANES]);
            for (int64_t quad = 0; quad < QUADS; ++quad) {
                const __m512i column = _mm512_loadu_si512(columns + quad * LANES * 4);
                for (int64_t i = 0; i < ROWS; ++i) {
                    const __m512i bytes = _mm512_xor_si512(_mm512_set1_epi32(four(query + i * DIMENSIONS, quad)), move);
                    sum[i] = _mm512_dpbusd_epi32(sum[i], bytes, column);
                }
            }
            for (int64_t i = 0; i < ROWS; ++i) {
                best = _mm512_max_epi32(best, sum[i]);
                second[i] = _mm512_max_epi32(second[i], _mm512_min_epi32(first[i], sum[i]));
                block[i] = _mm512_mask_set1_epi32(block[i], _mm512_cmpgt_epi32_mask(sum[i], first[i]), int32_t(b));
                first[i] = _mm512_max_epi32(first[i], sum[i]);
            }
            _mm512_storeu_si512(&photo.best[b * LANES], best);
        }
        for (int64_t i = 0; i < ROWS; ++i) {
            _mm512_store_si512(largest[i].first, first[i]);
            _mm512_store_si512(largest[i].second, second[i]);
            _mm512_store_si512(largest[i].block, block[i]);
        }
    }
};

// Signs of the query's components move to those of the photo; two products of 127 x 127 add up to less than 2^15.
struct Avx2 {
    static constexpr int64_t LANES = 8, ROWS = 3;
    static int32_t start(int32_t) { return 0; }

    AVX2 static void compare(const int8_t *query, Packed &photo, Largest *largest) {
        const __m256i ones = _mm256_set1_epi16(1);
        __m256i first[ROWS], second[ROWS], block[ROWS];
        for (int64_t i = 0; i < ROWS; ++i)
            first[i] = second[i] = _mm256_set1_epi32(2 * NOTHING), block[i] = _mm256_setzero_si256();
        for (int64_t b = 0; b < photo.blocks; ++b) {
            const auto *columns = reinterpret_cast<const __m256i *>(&photo.columns[b * QUADS * LANES * 4]);
            auto *at = reinterpret_cast<__m256i *>(&photo.best[b * LANES]);
            const auto *start = reinterpret_cast<const __m256i *>(&photo.start[b * LANES]);
            __m256i sum[ROWS], best = _mm256_loadu_si256(at);
            for (int64_t i = 0; i < ROWS; ++i) sum[i] = _mm256_loadu_si256(start);
            for (int64_t quad = 0; quad < QUADS; ++quad) {
                const __m256i column = _mm256_loadu_si256(columns + quad);
                for (int64_t i = 0; i < ROWS; ++i) {
                    const __m256i bytes = _mm256_set1_epi32(four(query + i * DIMENSIONS, quad));
                    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(bytes), _mm256_sign_epi8(column, bytes));
                    sum[i] = _mm256_add_epi32(sum[i], _mm256_madd_epi16(pairs, ones));
                }
            }
            for (int64_t i = 0; i < ROWS; ++i) {
                best = _mm256_max_epi32(best, sum[i]);
                second[i] = _mm256_max_epi32(second[i], _mm256_min_epi32(first[i], sum[i]));
                block[i] = _mm256_blendv_epi8(block[i], _mm256_set1_epi32(int32_t(b)),
                                              _mm256_cmpgt_epi32(sum[i], first[i]));
                first[i] = _mm256_max_epi32(first[i], sum[i]);
            }
            _mm256_storeu_si256(at, best);
        }
        for (int64_t i = 0; i < ROWS; ++i) {
            _mm256_store_si256(reinterpret_cast<__m256i *>(largest[i].first), first[i]);
            _mm256_store_si256(reinterpret_cast<__m256i *>(largest[i].second), second[i]);
            _mm256_store_si256(reinterpret_cast<__m256i *>(largest[i].block), block[i]);
        }
    }
};

// Packs descriptors (P, 128) in steps.
template <class Kernel> Packed packed(const std::vector<int8_t> &steps, int64_t rows) {
    const int64_t lanes = Kernel::LANES, blocks = (rows + lanes - 1) / lanes;
    Packed photo{blocks, std::vector<int8_t>(blocks * lanes * DIMENSIONS),
                 std::vector<int32_t>(blocks * lanes, NOTHING), std::vector<int32_t>(blocks * lanes, 2 * NOTHING)};
    for (int64_t row = 0; row < rows; ++row) {
        const int8_t *descriptor = &steps[row * DIMENSIONS];
        int8_t *to = &photo.columns[row / lanes * lanes * DIMENSIONS + row % lanes * 4];
        for (int64_t quad = 0; quad < QUADS; ++quad) std::memcpy(to + quad * lanes * 4, descriptor + 4 * quad, 4);
        int32_t sum = 0;
        for (int64_t d = 0; d < DIMENSIONS; ++d) sum += descriptor[d];
        photo.start[row] = Kernel::start(sum);
    }
    return photo;
}

// n descriptors of a query in steps, and as many more as a kernel needs to take them by ROWS.
struct Query {
    int64_t n;
    std::vector<int8_t> steps;

    Query(const float *descriptors, int64_t n, float extent, int64_t rows)
        : n(n), steps((n + rows - 1) / rows * rows * DIMENSIONS) {
        round_to_steps(descriptors, n * DIMENSIONS, extent, steps.data());
        for (std::size_t at = n * DIMENSIONS; at < steps.size(); at += DIMENSIONS)
            std::copy_n(steps.data(), DIMENSIONS, &steps[at]);
    }
};

// Finds the neighbours of a query among P descriptors of a photo in steps, (P, 128).
template <class Kernel>
void neighbours(const Query &query, const std::vector<int8_t> &photo, int64_t rows, const Neighbours &found) {
    constexpr int64_t LANES = Kernel::LANES, ROWS = Kernel::ROWS;
    Packed all = packed<Kernel>(photo, rows);
    Largest largest[ROWS];
    for (int64_t i = 0; i < query.n; i += ROWS) {
        Kernel::compare(&query.steps[i * DIMENSIONS], all, largest);
        for (int64_t j = 0; j < std::min(ROWS, query.n - i); ++j) {
            int32_t first = 2 * NOTHING, second = first;
            int64_t nearest = 0;
            for (int64_t lane = 0; lane < LANES; ++lane) {
                const int64_t row = largest[j].block[lane] * LANES + lane;
                const int32_t product = largest[j].first[lane];
                second = std::max({second, largest[j].second[lane], std::min(first, product)});
                if (product > first || (product == first && row < nearest)) nearest = row;
                first = std::max(first, product);
            }
            found.nearest[i + j] = nearest, found.first[i + j] = first, found.second[i + j] = second;
        }
    }
    std::copy_n(all.best.data(), rows, found.best);
}

// The same for one photo, from descriptors (P, 128).
template <class Kernel>
void neighbours(const float *query, int64_t n, const float *photo, int64_t rows, float extent,
                const Neighbours &found) {
    std::vector<int8_t> steps(rows * DIMENSIONS);
    round_to_steps(photo, rows * DIMENSIONS, extent, steps.data());
    neighbours<Kernel>(Query(query, n, extent, Kernel::ROWS), steps, rows, found);
}

// The local features of some photos: records that end with a code.
struct Stored {
    const uint8_t *records;
    int64_t bytes;            // of a record
    const int64_t *starts;    // (photos + 1,), the first record of each photo
    int64_t photos;
    const float *codewords;   // (SUBSPACES, CODEWORDS, PART)
};

// The same for some photos from their codes; what is found of a photo follows that of the photo before.
template <class Kernel>
void neighbours(const float *query, int64_t n, const Stored &stored, float extent, const Neighbours &found) {
    std::vector<int8_t> codewords(CODEWORDS * DIMENSIONS), steps;
    round_to_steps(stored.codewords, CODEWORDS * DIMENSIONS, extent, codewords.data());
    const Query all(query, n, extent, Kernel::ROWS);
    for (int64_t photo = 0; photo < stored.photos; ++photo) {
        const int64_t start = stored.starts[photo], rows = stored.starts[photo + 1] - start;
        steps.resize(rows * DIMENSIONS);
        for (int64_t row = 0; row < rows; ++row) {
            const uint8_t *code = stored.records + (start + row + 1) * stored.bytes - SUBSPACES;
            for (int64_t m = 0; m < SUBSPACES; ++m)
                std::memcpy(&steps[row * DIMENSIONS + m * PART], &codewords[(m * CODEWORDS + code[m]) * PART], PART);
        }
        const int64_t at = photo * n;
        neighbours<Kernel>(all, steps, rows, {found.nearest + at, found.first + at, found.second + at, found.best + start});
    }
}

#endif

}  // namespace udq
