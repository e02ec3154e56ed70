// Scalar steps of fully unrolled designs. Numbers are raw integers of exactly the bits that they need.
#ifndef QFX_UNROLLED_H
#define QFX_UNROLLED_H

#include "qfx/axi.h"
#include "qfx/multiply.h"
#include "qfx/pointwise.h"
#include "qfx/storage.h"
#include "qfx/types.h"

// The function of some operations: a part of the one pipeline in hardware. Compilers of simulations keep it apart, since the time that they take for a
// function grows faster than its length.
#ifdef __SYNTHESIS__
#define QFX_PART inline
#else
#define QFX_PART inline __attribute__((noinline))
#endif

namespace qfx {

// Number LANE of a port word, without its DOWN lowest bits, which are zeros.
template <class R, int SLOT, int LANE, int DOWN, int BITS>
inline R from_word(const ap_uint<BITS>& word) {
#pragma HLS INLINE
  const ap_uint<SLOT> slot = word.range(LANE * SLOT + SLOT - 1, LANE * SLOT);
  return R(slot >> DOWN);
}

// x * 2**UP into number LANE of a port word, as a raw of type Raw, sign or zero extended to its slot.
template <class Raw, int SLOT, int LANE, int UP, int BITS, class X>
inline void into_word(ap_uint<BITS>& word, const X& x) {
#pragma HLS INLINE
  word.range(LANE * SLOT + SLOT - 1, LANE * SLOT) = ap_uint<SLOT>(shl<Raw>(x, UP));
}

// 1 if x * 2**SHIFT_X < y * 2**SHIFT_Y, else 0; Wide holds both.
template <class Wide, int SHIFT_X, int SHIFT_Y, class X, class Y>
inline uint<1> less(const X& x, const Y& y) {
#pragma HLS INLINE
  return uint<1>(shl<Wide>(x, SHIFT_X) < shl<Wide>(y, SHIFT_Y) ? 1 : 0);
}

// x * 2**SHIFT_X where the condition is 1, else y * 2**SHIFT_Y.
template <class R, int SHIFT_X, int SHIFT_Y, class X, class Y>
inline R choose(const uint<1>& condition, const X& x, const Y& y) {
#pragma HLS INLINE
  return condition != 0 ? shl<R>(x, SHIFT_X) : shl<R>(y, SHIFT_Y);
}

}  // namespace qfx

#endif
