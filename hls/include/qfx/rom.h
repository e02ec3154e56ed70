// Weight ROMs: rows of packed words, an element of a word holding several weights ("lanes").
#ifndef QFX_ROM_H
#define QFX_ROM_H

#include <stdint.h>

#ifdef QFX_UNPACKED  // simulation only
#include <string.h>
#endif

#include "qfx/types.h"

namespace qfx {

template <bool CONDITION, class A, class B>
struct either {
  typedef A type;
};
template <class A, class B>
struct either<false, A, B> {
  typedef B type;
};

// The element type of a ROM of BITS bits, at most 64: exactly so many bits in hardware; in simulation a native integer, of which compilers take
// hundreds of thousands without complaint. QFX_EXACT_ROM gives simulation the type of the hardware.
#if defined(__SYNTHESIS__) || defined(QFX_EXACT_ROM)
template <int BITS>
struct rom {
  typedef uint<BITS> type;
};
#else
template <int BITS>
struct rom {
  typedef typename either<(BITS <= 16), typename either<(BITS <= 8), uint8_t, uint16_t>::type, typename either<(BITS <= 32), uint32_t, uint64_t>::type>::type
      type;
};
#endif

// A number of a table that is read one number at a time: exactly so many bits in hardware, in simulation the smallest native integer.
#if defined(__SYNTHESIS__) || defined(QFX_EXACT_ROM)
template <bool SIGNED, int WIDTH>
struct rom_number {
  typedef typename either<SIGNED, sint<WIDTH>, uint<WIDTH> >::type type;
};
#else
template <bool SIGNED, int WIDTH>
struct rom_number {
  typedef typename rom<WIDTH>::type type;
};
template <int WIDTH>
struct rom_number<true, WIDTH> {
  typedef typename either<(WIDTH <= 16), typename either<(WIDTH <= 8), int8_t, int16_t>::type, typename either<(WIDTH <= 32), int32_t, int64_t>::type>::type
      type;
};
#endif

// x / DIVISOR for any x of BITS bits, at most 31, without a divider: a product with 2**SHIFT / DIVISOR, rounded up. That is above the true factor by less
// than 2**-BITS / DIVISOR, in all by less than the 1 / DIVISOR that is between a quotient and the next whole number.
template <int BITS, int DIVISOR>
struct quotient {
  static const int SHIFT = BITS + bits_for<DIVISOR - 1>::value;
  static const uint64_t FACTOR = ((uint64_t(1) << SHIFT) + DIVISOR - 1) / DIVISOR;
  static inline uint<BITS> of(const uint<BITS>& x) {
#pragma HLS INLINE
    return uint<BITS>(product<uint<2 * BITS + 2> >(x, uint<BITS + 2>(uint64_t(FACTOR))) >> SHIFT);
  }
};
template <int BITS>
struct quotient<BITS, 1> {
  static inline uint<BITS> of(const uint<BITS>& x) {
#pragma HLS INLINE
    return x;
  }
};

// The entry of a table that INNER pixels in a row read, for a pixel of BITS bits.
template <int BITS, int INNER>
inline int line_of(const int pixel) {
#pragma HLS INLINE
  return int(quotient<BITS, INNER>::of(uint<BITS>(pixel)));
}

// The same where the SIZE entries come again and again.
template <int BITS, int INNER, int SIZE>
inline int line_again(const int pixel) {
#pragma HLS INLINE
  const uint<BITS> line = quotient<BITS, INNER>::of(uint<BITS>(pixel));
  const uint<BITS> before = product<uint<BITS> >(quotient<BITS, SIZE>::of(line), uint<BITS>(SIZE));
  return int(line) - int(before);
}

// How the lanes of a row lie in its elements: PER_ELEMENT raws of WIDTH bits in each, the first in the lowest bits; none straddles two elements.
template <bool SIGNED_, int WIDTH_, int PER_ELEMENT_>
struct packed {
  static const bool SIGNED = SIGNED_;
  static const int WIDTH = WIDTH_;
  static const int PER_ELEMENT = PER_ELEMENT_;
  typedef typename either<SIGNED_, sint<WIDTH_>, uint<WIDTH_> >::type type;

  template <class Element, int ELEMENTS>
  static inline type at(const Element (&row)[ELEMENTS], const int index) {
#pragma HLS INLINE
    return lane<type, WIDTH_, PER_ELEMENT_>(row, index);
  }
};

// Rows of plain numbers, one per lane.
template <class T>
struct plain {
  typedef T type;

  template <int LANES>
  static inline T at(const T (&row)[LANES], const int index) {
#pragma HLS INLINE
    return row[index];
  }
};

// How a matrix-vector unit reads row `row`, and multiplies what it holds (M is one of multiply.h's): of one memory, or of two, where `rest` holds what is
// behind the last row of `weights`.
template <bool TWO>
struct rows_of {
  template <class M, int PE, int SIMD, class Lanes, class T, class Acc, class Element, int ROWS, int REST, int ELEMENTS>
  static inline void dot(const Element (&weights)[ROWS][ELEMENTS], const Element (&)[REST][ELEMENTS], const int row, const vec<T, SIMD>& x, Acc (&sum)[PE]) {
#pragma HLS INLINE
    M::template dot<PE, SIMD, Lanes>(weights[row], x, sum);
  }
  // Raw number `index` of the row alone.
  template <class R, class Lanes, class Element, int ROWS, int REST, int ELEMENTS>
  static inline R at(const Element (&weights)[ROWS][ELEMENTS], const Element (&)[REST][ELEMENTS], const int row, const int index) {
#pragma HLS INLINE
    return R(Lanes::at(weights[row], index));
  }
};
template <>
struct rows_of<true> {
  template <class R, class Lanes, class Element, int ROWS, int REST, int ELEMENTS>
  static inline R at(const Element (&weights)[ROWS][ELEMENTS], const Element (&rest)[REST][ELEMENTS], const int row, const int index) {
#pragma HLS INLINE
    return row < ROWS ? R(Lanes::at(weights[row], index)) : R(Lanes::at(rest[row - ROWS], index));
  }
  template <class M, int PE, int SIMD, class Lanes, class T, class Acc, class Element, int ROWS, int REST, int ELEMENTS>
  static inline void dot(const Element (&weights)[ROWS][ELEMENTS], const Element (&rest)[REST][ELEMENTS], const int row, const vec<T, SIMD>& x, Acc (&sum)[PE]) {
#pragma HLS INLINE
    Element word[ELEMENTS];
#pragma HLS ARRAY_PARTITION variable=word complete dim=1
  row_element:
    for (int i = 0; i < ELEMENTS; i++) {
#pragma HLS UNROLL
      word[i] = row < ROWS ? weights[row][i] : rest[row - ROWS][i];
    }
    M::template dot<PE, SIMD, Lanes>(word, x, sum);
  }
};

#ifdef QFX_UNPACKED
// Simulations that would rather spend memory than time define QFX_UNPACKED: a ROM is unpacked when it is first used, once per thread, and again if
// something else has been loaded into it. A loop over lanes is then one over an array. Layers do not share their tables as long as their epilogues (Owner)
// differ; those that do unpack by turns.
struct unpacked_lanes {
  template <class T, int LANES>
  static inline const T& at(const T (&row)[LANES], const int index) {
    return row[index];
  }
};

template <class Element, int ROWS, int ELEMENTS, int LANES, class T>
struct unpacked {
  const void* of;
  Element from[ROWS][ELEMENTS];
  T rows[ROWS][LANES];
  unpacked() : of(0) {}
};

// Raw number `index` of a row: what `at` reads.
template <class Packed, class Element, int ELEMENTS>
inline typename working<typename Packed::type>::type unpacked_lane(const Element (&row)[ELEMENTS], const int index) {
#ifdef QFX_NATIVE
  const uint64_t element = static_cast<uint64_t>(row[index / Packed::PER_ELEMENT]);
  const uint64_t top = element << (64 - (index % Packed::PER_ELEMENT + 1) * Packed::WIDTH);
  if (Packed::SIGNED) return typename Packed::type(static_cast<int64_t>(top) >> (64 - Packed::WIDTH));
  return typename Packed::type(top >> (64 - Packed::WIDTH));
#else
  return typename working<typename Packed::type>::type(Packed::at(row, index));
#endif
}

// The rows of `weights`, and behind them those of `rest` where there are TWO memories.
template <class Owner, int LANES, class Packed, bool TWO, class Element, int ROWS, int REST, int ELEMENTS>
inline const typename working<typename Packed::type>::type (&unpack(const Element (&weights)[ROWS][ELEMENTS],
                                                                    const Element (&rest)[REST][ELEMENTS]))[ROWS + (TWO ? REST : 0)][LANES] {
  static const int ALL = ROWS + (TWO ? REST : 0);
  static thread_local unpacked<Element, ALL, ELEMENTS, LANES, typename working<typename Packed::type>::type> table;
  const bool same = table.of == static_cast<const void*>(&weights) && memcmp(&table.from[0], &weights, sizeof weights) == 0;
  if (same && (!TWO || memcmp(&table.from[ALL - REST], &rest, sizeof rest) == 0)) return table.rows;
  table.of = static_cast<const void*>(&weights);
  memcpy(&table.from[0], &weights, sizeof weights);
  if (TWO) memcpy(&table.from[ALL - REST], &rest, sizeof rest);
unpack_row:
  for (int row = 0; row < ALL; row++) {
    const Element(&word)[ELEMENTS] = row < ROWS ? weights[row] : rest[row - ROWS];
  unpack_lane:
    for (int i = 0; i < LANES; i++) table.rows[row][i] = unpacked_lane<Packed>(word, i);
  }
  return table.rows;
}

template <class Owner, int LANES, class Packed, class Element, int ROWS, int ELEMENTS>
inline const typename working<typename Packed::type>::type (&unpack(const Element (&weights)[ROWS][ELEMENTS]))[ROWS][LANES] {
  return unpack<Owner, LANES, Packed, false>(weights, weights);
}
#endif

}  // namespace qfx

#endif
