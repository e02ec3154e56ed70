// ap_int and ap_uint of the fast emulator: the smallest native integer that holds the bits. For simulation with g++ or clang++ on a 64-bit machine only.
//
// The values are those of the vendor's types as long as every result that is kept fits its type, which qfx's exact types promise. An unsigned type of 17
// bits or more is a signed integer that holds it, so that differences and comparisons of mixed signs mean what they say. Sums that leave their type on
// the way and come back need wrap-around: compile with -fwrapv.
#ifndef QFX_NATIVE_AP_INT_H
#define QFX_NATIVE_AP_INT_H

#include <stdint.h>

namespace qfx_native {

struct too_wide;  // for types that are named but never used; a number of more than 128 bits has no native form

template <int BYTES>
struct signed_of {
  typedef too_wide type;
};
template <>
struct signed_of<1> {
  typedef int8_t type;
};
template <>
struct signed_of<2> {
  typedef int16_t type;
};
template <>
struct signed_of<4> {
  typedef int32_t type;
};
template <>
struct signed_of<8> {
  typedef int64_t type;
};
template <>
struct signed_of<16> {
  typedef __int128 type;
};

constexpr int bytes_of(const int bits) { return bits <= 8 ? 1 : bits <= 16 ? 2 : bits <= 32 ? 4 : bits <= 64 ? 8 : bits <= 128 ? 16 : 0; }

// A signed integer of at least BITS bits, sign included.
template <int BITS>
struct signed_bits {
  typedef typename signed_of<bytes_of(BITS)>::type type;
};

template <int BITS>
struct unsigned_bits {
  typedef typename signed_of<bytes_of(BITS + 1)>::type type;
};
template <>
struct unsigned_bits<8> {
  typedef uint8_t type;
};
template <>
struct unsigned_bits<16> {
  typedef uint16_t type;
};

}  // namespace qfx_native

template <int W>
using ap_int = typename qfx_native::signed_bits<W>::type;
template <int W>
using ap_uint = typename qfx_native::unsigned_bits<W>::type;

#endif
