// Sums of products over vector registers, for the matrix-vector units of the fast emulator. Not synthesized.
//
// A sum is exact modulo 2**32, or 2**64, in whatever order it is taken. So a sum that fits its type, as the proven ranges promise, is that of the
// synthesized source. What differs is how many products an instruction makes:
//   by_bytes    64 (AVX-512 VNNI): numbers and weights of 8 bits
//   by_halves   32, 16 or 8 (AVX-512 BW, AVX2, SSE2): of 16 bits
//   by_words    16 to 4: all others, in 32 bits
//   by_longs    8 to 2: where sums have more than 32 bits
// Which instructions there are is what the compiler says of the processor that it compiles for. Without any of them the last two are what it makes of
// GNU C's vectors.
#ifndef QFX_NATIVE_QFX_DOT_H
#define QFX_NATIVE_QFX_DOT_H

#include <stddef.h>
#include <stdint.h>

#include <cstring>

#if defined(__AVX512F__)
#define QFX_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define QFX_VECTOR_BYTES 32
#else
#define QFX_VECTOR_BYTES 16
#endif
#if defined(__AVX512F__) && defined(__AVX512VNNI__)
#define QFX_HAS_BYTES 1
#else
#define QFX_HAS_BYTES 0
#endif
#if defined(__AVX512BW__) || (defined(__SSE2__) && !defined(__AVX512F__))
#define QFX_HAS_HALVES 1
#else
#define QFX_HAS_HALVES 0
#endif

namespace qfx_native {

typedef int32_t words_vector __attribute__((vector_size(QFX_VECTOR_BYTES)));
typedef int64_t longs_vector __attribute__((vector_size(QFX_VECTOR_BYTES)));
typedef int32_t word_anywhere __attribute__((may_alias, aligned(1)));
typedef int64_t long_anywhere __attribute__((may_alias, aligned(1)));

// A way to add products: PER numbers of type x in a row meet as many weights of type w for each of the LANES sums of a register. Lane n of a register of
// weights holds the PER that belong to sum n. With OFFSET the numbers are greater by it than what they stand for.
template <class X, class W, class Sum, class Vector, int PER_, int OFFSET_>
struct way {
  typedef X x;
  typedef W w;
  typedef Sum sum;
  typedef Vector vector;
  static const int PER = PER_;
  static const int OFFSET = OFFSET_;
  static const int LANES = static_cast<int>(sizeof(Vector) / sizeof(Sum));
};

template <int OFFSET>
struct by_bytes : way<uint8_t, int8_t, int32_t, words_vector, 4, OFFSET> {
  static inline words_vector everywhere(const char* x) { return *reinterpret_cast<const word_anywhere*>(x) + words_vector(); }
#if QFX_HAS_BYTES
  static inline void add(words_vector& sum, const words_vector& x, const words_vector& w) { __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(w)); }
#endif
};

struct by_halves : way<int16_t, int16_t, int32_t, words_vector, 2, 0> {
  static inline words_vector everywhere(const char* x) { return *reinterpret_cast<const word_anywhere*>(x) + words_vector(); }
#if QFX_HAS_BYTES
  static inline void add(words_vector& sum, const words_vector& x, const words_vector& w) { __asm__("vpdpwssd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(w)); }
#elif defined(__AVX2__)
  static inline void add(words_vector& sum, const words_vector& x, const words_vector& w) {
    words_vector products;
    __asm__("vpmaddwd %2, %1, %0" : "=v"(products) : "v"(x), "v"(w));
    sum += products;
  }
#elif QFX_HAS_HALVES
  static inline void add(words_vector& sum, const words_vector& x, const words_vector& w) {
    words_vector products = x;
    __asm__("pmaddwd %1, %0" : "+x"(products) : "x"(w));
    sum += products;
  }
#endif
};

struct by_words : way<int32_t, int32_t, int32_t, words_vector, 1, 0> {
  static inline words_vector everywhere(const char* x) { return *reinterpret_cast<const word_anywhere*>(x) + words_vector(); }
  static inline void add(words_vector& sum, const words_vector& x, const words_vector& w) { sum += x * w; }
};

// SHORT: numbers and weights of at most 32 bits.
template <bool SHORT>
struct by_longs : way<int64_t, int64_t, int64_t, longs_vector, 1, 0> {
  static inline longs_vector everywhere(const char* x) { return *reinterpret_cast<const long_anywhere*>(x) + longs_vector(); }
  static inline void add(longs_vector& sum, const longs_vector& x, const longs_vector& w) { sum += x * w; }
};
#if defined(__AVX2__)
template <>
inline void by_longs<true>::add(longs_vector& sum, const longs_vector& x, const longs_vector& w) {
  longs_vector products;
  __asm__("vpmuldq %2, %1, %0" : "=v"(products) : "v"(x), "v"(w));
  sum += products;
}
#endif

// The way for numbers and weights of so many bits (with a sign or without) and sums of a type: by as few bits as hold them.
template <int X_BITS, bool X_SIGNED, int W_BITS, bool W_SIGNED, class Sum>
struct way_for {
  static const bool BYTES = QFX_HAS_BYTES && sizeof(Sum) <= 4 && X_BITS <= 8 && W_BITS + !W_SIGNED <= 8;
  static const bool HALVES = QFX_HAS_HALVES && sizeof(Sum) <= 4 && X_BITS + !X_SIGNED <= 16 && W_BITS + !W_SIGNED <= 16;
  static const bool SHORT = X_BITS + !X_SIGNED <= 32 && W_BITS + !W_SIGNED <= 32;
  template <bool FIRST, class X, class Y>
  struct choose {
    typedef X type;
  };
  template <class X, class Y>
  struct choose<false, X, Y> {
    typedef Y type;
  };
  typedef typename choose<BYTES, by_bytes<X_SIGNED ? 128 : 0>,
                          typename choose<HALVES, by_halves, typename choose<sizeof(Sum) <= 4, by_words, by_longs<SHORT> >::type>::type>::type type;
};

// ROWS vectors of numbers by BLOCKS registers of sums: sum[row * sums + i] = first[i] + the sum over k of the numbers of a row by the weights for sum i. A
// row has `steps` times PER numbers, and begins `stride` bytes behind the one before. `weights` has a register for each step, block after block.
template <class Way, int ROWS, int BLOCKS>
__attribute__((noinline)) void add_products(const char* x, const size_t stride, const typename Way::w* weights, const int steps, const typename Way::sum* first,
                                            typename Way::sum* sum, const size_t sums) {
  typedef typename Way::vector vector;
  vector kept[ROWS][BLOCKS];
#pragma GCC unroll 8
  for (int block = 0; block < BLOCKS; block++) {
    vector begin;
    std::memcpy(&begin, first + block * Way::LANES, sizeof begin);
#pragma GCC unroll 8
    for (int row = 0; row < ROWS; row++) kept[row][block] = begin;
  }
  const char* w = reinterpret_cast<const char*>(weights);
  for (int step = 0; step < steps; step++) {
    vector these[BLOCKS];
#pragma GCC unroll 8
    for (int block = 0; block < BLOCKS; block++) std::memcpy(&these[block], w + size_t(block) * steps * sizeof(vector), sizeof(vector));
#pragma GCC unroll 8
    for (int row = 0; row < ROWS; row++) {
      const vector number = Way::everywhere(x + row * stride);
#pragma GCC unroll 8
      for (int block = 0; block < BLOCKS; block++) Way::add(kept[row][block], number, these[block]);
    }
    x += Way::PER * sizeof(typename Way::x);
    w += sizeof(vector);
  }
#pragma GCC unroll 8
  for (int row = 0; row < ROWS; row++) {
#pragma GCC unroll 8
    for (int block = 0; block < BLOCKS; block++) std::memcpy(sum + row * sums + block * Way::LANES, &kept[row][block], sizeof(vector));
  }
}

// The same for any number of blocks, ROWS rows at a time.
template <class Way, int ROWS, int BLOCKS>
inline void add_blocks(const char* x, const size_t stride, const typename Way::w* weights, const int steps, const typename Way::sum* first,
                       typename Way::sum* sum, const size_t sums) {
  const int blocks = static_cast<int>(sums) / Way::LANES;
  const size_t block_weights = size_t(steps) * Way::PER * Way::LANES;
  int block = 0;
  for (; block + BLOCKS <= blocks; block += BLOCKS) {
    add_products<Way, ROWS, BLOCKS>(x, stride, weights + block * block_weights, steps, first + block * Way::LANES, sum + block * Way::LANES, sums);
  }
  for (; block < blocks; block++) {
    add_products<Way, ROWS, 1>(x, stride, weights + block * block_weights, steps, first + block * Way::LANES, sum + block * Way::LANES, sums);
  }
}

}  // namespace qfx_native

#endif
