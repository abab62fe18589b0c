// Filters: find the rows of a chunk that may be near enough, by vectors of 8-bit bounds or by exact distances.

#pragma once

#include <utility>

#include "tables.h"
#include "x86.h"

namespace udq {

// Rows row..row + rows - 1; those with their bit set may be near enough. No bit is set at the end of the chunk.
struct Hit {
    int64_t row;
    int64_t rows;
    uint64_t mask;
};

INLINE int lowest_bit(uint64_t mask) {  // of a mask that is not 0
#if defined(__GNUC__)
    return __builtin_ctzll(mask);
#else
    int bit = 0;
    for (; !(mask & 1); mask >>= 1) ++bit;
    return bit;
#endif
}

INLINE uint64_t lowest_bits(int64_t count) { return count < 64 ? (uint64_t(1) << count) - 1 : ~uint64_t(0); }

// --- without vectors ---

// The first block of rows from row..end - 1 in which some row is below the threshold.
template <class Code> using Filter = Hit (*)(const Bound &, const Code *, int64_t, int64_t);

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

// Distances of rows; M is a compile-time constant unless it is 0, so that the sums unroll.
template <class Code, std::size_t M>
void distances(const Tables &tables, const Code *codes, int64_t rows, float *found) {
    const int subspaces = M ? int(M) : tables.subspaces;
    for (int64_t i = 0; i < rows; ++i) found[i] = distance<Code, M>(tables, codes + i * subspaces);
}

// M is compiled in for values up to 16; 0 is the version for any other M.
using Compiled = std::make_index_sequence<17>;

template <class Code> struct Scalar {
    Filter<Code> filter;
    void (*distances)(const Tables &, const Code *, int64_t, float *);
};

template <class Code, std::size_t... M> Scalar<Code> scalar_for(int subspaces, std::index_sequence<M...>) {
    constexpr Scalar<Code> compiled[] = {{portable<Code, M>, distances<Code, M>}...};
    return compiled[subspaces < int(sizeof...(M)) ? subspaces : 0];
}

// --- with vectors: codes are transposed, so that a register contains one subspace of as many rows as it has lanes. A
// single query transposes them on the fly; a batch does it once, as it takes half of the time.

struct Vector {
    int64_t lanes;  // rows per block, at most BLOCK
    // The first block of rows from row..end - 1 in which some bound is within the limit; `row` is the first of a block.
    // All rows of the last block are read, and for each group of up to eight subspaces, eight bytes of a row.
    Hit (*filter)(const Bound &bound, const uint8_t *codes, int64_t row, int64_t end);
    Hit (*filter_transposed)(const Bound &bound, const uint8_t *transposed, int64_t row, int64_t end);
    // Transposes a block of rows.
    void (*transpose)(const uint8_t *codes, int64_t subspaces, uint8_t *to);
};

// Bytes of a transposed block.
INLINE int64_t block_bytes(int64_t subspaces, int64_t lanes) { return (subspaces + 7) / 8 * 8 * lanes; }

#if X86

// Four rounds of interleaving bytes turn eight registers of L lanes, each lane with 8 codes of 2 rows, into eight
// registers of one subspace each. This permutes the rows: bit b of a mask of 16 L bits belongs to row `row_of(b)`.
constexpr int row_of(int bit, int lanes) {
    const int source = (bit >> 3 & 1) | (bit >> 1 & 2) | (bit << 1 & 4);
    return source * 2 * lanes + (bit >> 4) * 2 + (bit & 1);
}

INLINE uint64_t in_order_of_rows(uint64_t mask, int lanes) {
    uint64_t ordered = 0;
    for (; mask; mask &= mask - 1) ordered |= uint64_t(1) << row_of(lowest_bit(mask), lanes);
    return ordered;
}

// The rounds permute the bits of (register, byte): subspace c2 c1 c0 ends in register c1 c2 c0.
constexpr int register_of(int subspace) { return (subspace & 1) | (subspace & 2) << 1 | (subspace & 4) >> 1; }

VBMI INLINE void interleave(__m512i (&r)[8], int apart) {
    for (int i = 0; i < 8; ++i) {
        if (i & apart) continue;
        const __m512i low = _mm512_unpacklo_epi8(r[i], r[i | apart]), high = _mm512_unpackhi_epi8(r[i], r[i | apart]);
        r[i] = low;
        r[i | apart] = high;
    }
}

// Eight subspaces of 64 rows, one register each.
VBMI INLINE void load_transposed(__m512i (&r)[8], const uint8_t *codes, int64_t subspaces) {
    __m512i s[8];
    for (int i = 0; i < 8; ++i) {
        const uint8_t *eight = codes + 8 * i * subspaces;
        if (subspaces == 8) {
            s[i] = _mm512_loadu_si512(eight);
        } else {
            int64_t row[8];
            for (int j = 0; j < 8; ++j) std::memcpy(&row[j], eight + j * subspaces, 8);
            s[i] = _mm512_setr_epi64(row[0], row[1], row[2], row[3], row[4], row[5], row[6], row[7]);
        }
    }
    interleave(s, 1), interleave(s, 2), interleave(s, 4), interleave(s, 1);
    for (int j = 0; j < 8; ++j) r[j] = s[register_of(j)];
}

VBMI inline void transpose_vbmi(const uint8_t *codes, int64_t subspaces, uint8_t *to) {
    for (int64_t first = 0; first < subspaces; first += 8) {
        __m512i r[8];
        load_transposed(r, codes + first, subspaces);
        for (int j = 0; j < 8; ++j) _mm512_storeu_si512(to + 64 * (first + j), r[j]);
    }
}

// Entries of a table of 128 bytes, by the low seven bits of codes.
VBMI INLINE __m512i entries(const uint8_t *table, __m512i code) {
    return _mm512_permutex2var_epi8(_mm512_loadu_si512(table), code, _mm512_loadu_si512(table + 64));
}

// M is a compile-time constant unless it is 0.
template <int M, bool TRANSPOSED> VBMI Hit filter_vbmi(const Bound &bound, const uint8_t *codes, int64_t row, int64_t end) {
    const int64_t subspaces = M ? M : bound.tables.subspaces;
    const int64_t bytes = TRANSPOSED ? block_bytes(subspaces, 64) : 64 * subspaces;
    const __m512i limit = _mm512_set1_epi8(char(bound.limit));
    const uint8_t *block = codes + row / 64 * bytes;
    for (; row < end; row += 64, block += bytes) {
        __m512i sum = _mm512_setzero_si512();
        for (int64_t first = 0; first < subspaces; first += 8) {
            __m512i r[8];
            if constexpr (!TRANSPOSED) load_transposed(r, block + first, subspaces);
            for (int j = 0; j < 8 && first + j < subspaces; ++j) {
                const __m512i code = TRANSPOSED ? _mm512_loadu_si512(block + (first + j) * 64) : r[j];
                const uint8_t *table = bound.quantised.data() + (first + j) * 256;
                const __m512i low = entries(table, code), high = entries(table + 128, code);
                sum = _mm512_adds_epu8(sum, _mm512_mask_mov_epi8(low, _mm512_movepi8_mask(code), high));
            }
        }
        uint64_t mask = _mm512_cmple_epu8_mask(sum, limit);
        if (mask) mask = in_order_of_rows(mask, 4) & lowest_bits(end - row);
        if (mask) return {row, std::min<int64_t>(64, end - row), mask};
    }
    return {end, 0, 0};
}

AVX2 INLINE void interleave(__m256i (&r)[8], int apart) {
    for (int i = 0; i < 8; ++i) {
        if (i & apart) continue;
        const __m256i low = _mm256_unpacklo_epi8(r[i], r[i | apart]), high = _mm256_unpackhi_epi8(r[i], r[i | apart]);
        r[i] = low;
        r[i | apart] = high;
    }
}

AVX2 INLINE void load_transposed(__m256i (&r)[8], const uint8_t *codes, int64_t subspaces) {
    __m256i s[8];
    for (int i = 0; i < 8; ++i) {
        int64_t four[4];  // rows; compiles to one load if they are adjacent
        for (int j = 0; j < 4; ++j) std::memcpy(&four[j], codes + (4 * i + j) * subspaces, 8);
        s[i] = _mm256_setr_epi64x(four[0], four[1], four[2], four[3]);
    }
    interleave(s, 1), interleave(s, 2), interleave(s, 4), interleave(s, 1);
    for (int j = 0; j < 8; ++j) r[j] = s[register_of(j)];
}

AVX2 INLINE __m256i load(const uint8_t *from) { return _mm256_loadu_si256(reinterpret_cast<const __m256i *>(from)); }

AVX2 inline void transpose_avx2(const uint8_t *codes, int64_t subspaces, uint8_t *to) {
    for (int64_t first = 0; first < subspaces; first += 8) {
        __m256i r[8];
        load_transposed(r, codes + first, subspaces);
        for (int j = 0; j < 8; ++j) _mm256_storeu_si256(reinterpret_cast<__m256i *>(to + 32 * (first + j)), r[j]);
    }
}

// Entries of a table of 16 << BITS bytes: the low four bits of a code select from each 16, the other bits which 16.
template <int BITS> AVX2 INLINE __m256i entries(const uint8_t *table, __m256i code, __m256i low) {
    if constexpr (BITS == 0) {
        const __m128i part = _mm_loadu_si128(reinterpret_cast<const __m128i *>(table));
        return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(part), low);
    } else {
        const __m256i first = entries<BITS - 1>(table, code, low);
        const __m256i second = entries<BITS - 1>(table + (8 << BITS), code, low);
        // The blend selects by the highest bit of each byte.
        return _mm256_blendv_epi8(first, second, _mm256_slli_epi16(code, 4 - BITS));
    }
}

// M is a compile-time constant unless it is 0.
template <int M, bool TRANSPOSED> AVX2 Hit filter_avx2(const Bound &bound, const uint8_t *codes, int64_t row, int64_t end) {
    const int64_t subspaces = M ? M : bound.tables.subspaces;
    const int64_t bytes = TRANSPOSED ? block_bytes(subspaces, 32) : 32 * subspaces;
    const __m256i limit = _mm256_set1_epi8(char(bound.limit));
    const uint8_t *block = codes + row / 32 * bytes;
    for (; row < end; row += 32, block += bytes) {
        __m256i sum = _mm256_setzero_si256();
        uint32_t mask = ~uint32_t(0);
        for (int64_t first = 0; first < subspaces && mask; first += 8) {
            __m256i r[8];
            if constexpr (!TRANSPOSED) load_transposed(r, block + first, subspaces);
            for (int j = 0; j < 8 && first + j < subspaces && mask; ++j) {
                const __m256i code = TRANSPOSED ? load(block + (first + j) * 32) : r[j];
                const __m256i low = _mm256_and_si256(code, _mm256_set1_epi8(15));
                sum = _mm256_adds_epu8(sum, entries<4>(bound.quantised.data() + (first + j) * 256, code, low));
                if (j % 4 == 3 || first + j + 1 == subspaces)  // often all rows are ruled out after four subspaces
                    mask = uint32_t(_mm256_movemask_epi8(_mm256_cmpeq_epi8(_mm256_min_epu8(sum, limit), sum)));
            }
        }
        const uint64_t ordered = mask ? in_order_of_rows(mask, 2) & lowest_bits(end - row) : 0;
        if (ordered) return {row, std::min<int64_t>(32, end - row), ordered};
    }
    return {end, 0, 0};
}

template <int M> constexpr Vector VBMI_OF{64, filter_vbmi<M, false>, filter_vbmi<M, true>, transpose_vbmi};
template <int M> constexpr Vector AVX2_OF{32, filter_avx2<M, false>, filter_avx2<M, true>, transpose_avx2};

#endif

// The vector functions of a kernel; null if it is portable.
inline const Vector *vector_of(const char *kernel, int subspaces) {
#if X86
    const auto choose = [&](const Vector &m0, const Vector &m4, const Vector &m8, const Vector &m16) {
        return subspaces == 4 ? &m4 : subspaces == 8 ? &m8 : subspaces == 16 ? &m16 : &m0;
    };
    if (!std::strcmp(kernel, "avx512-vbmi")) return choose(VBMI_OF<0>, VBMI_OF<4>, VBMI_OF<8>, VBMI_OF<16>);
    if (!std::strcmp(kernel, "avx2")) return choose(AVX2_OF<0>, AVX2_OF<4>, AVX2_OF<8>, AVX2_OF<16>);
#endif
    (void)kernel, (void)subspaces;
    return nullptr;
}

// --- chunks ---

// Rows that are scanned for all queries while they are in the cache.
template <class Code> class Chunk {
public:
    Chunk(int64_t subspaces, const Vector *vector, bool shared)
        : subspaces(subspaces), most(shared ? 1 << 9 : 1 << 14), vector(sizeof(Code) == 1 ? vector : nullptr),
          transposes(shared), transposed(vector && shared ? block_bytes(subspaces, most) : 0),
          ragged(vector ? BLOCK * subspaces + 8 : 0) {}

    // Loads rows first_row..last_row - 1 of codes, at most `most`; rows before `readable` may be read.
    void load(const Code *codes, int64_t first_row, int64_t last_row, int64_t readable) {
        first = first_row, rows = last_row - first_row, start = codes + first_row * subspaces;
        bytes = (readable - first_row) * subspaces;
        if (vector) whole = std::min(rows, (bytes - overread()) / subspaces / vector->lanes * vector->lanes);
        is_transposed = false;
    }

    // The first block of rows from `row` on in which some may be near enough; rows count from the start of the chunk.
    Hit next(const Bound &bound, Scalar<Code> scalar, int64_t row) {
        if constexpr (sizeof(Code) == 1) {
            if (vector && transposes) {
                if (!is_transposed) transpose();
                return vector->filter_transposed(bound, transposed.data(), row, rows);
            }
            if (row < whole) {
                const Hit hit = vector->filter(bound, start, row, whole);
                if (hit.mask) return hit;
                row = whole;
            }
        }
        return scalar.filter(bound, start, row, rows);
    }

    const int64_t subspaces, most;
    int64_t first = 0, rows = 0;
    const Code *start = nullptr;

private:
    // Bytes after a block that are read if M is not a multiple of 8.
    int64_t overread() const { return subspaces % 8 ? 7 : 0; }

    void transpose() {
        is_transposed = true;
        const int64_t lanes = vector->lanes;
        for (int64_t row = 0; row < rows; row += lanes) {
            const uint8_t *block = reinterpret_cast<const uint8_t *>(start) + row * subspaces;
            if ((row + lanes) * subspaces + overread() > bytes) {
                std::copy_n(block, std::min(lanes, rows - row) * subspaces, ragged.data());
                block = ragged.data();
            }
            vector->transpose(block, subspaces, transposed.data() + row / lanes * block_bytes(subspaces, lanes));
        }
    }

    const Vector *vector;
    const bool transposes;
    Lines transposed, ragged;
    int64_t bytes = 0;  // from the first row to the end of the readable rows
    int64_t whole = 0;  // rows that vectors read in place
    bool is_transposed = false;
};

}  // namespace udq
