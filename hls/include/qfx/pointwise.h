// Pointwise operators on raw integers. R is always the result's raw type; the shifts that bring operands onto the result's grid are constants that
// the code generator derives from the binary points. Everything here is exact except cast.
#ifndef QFX_POINTWISE_H
#define QFX_POINTWISE_H

#include "qfx/multiply.h"
#include "qfx/rom.h"
#include "qfx/types.h"

#if defined(QFX_NATIVE) || defined(QFX_REPORT)  // simulation only
#include <qfx_cast.h>
#endif
#ifdef QFX_REPORT
#include <qfx_report.h>
#endif

namespace qfx {

template <class R, int SHIFT_X, class X>
inline R align(const X& x) {
#pragma HLS INLINE
  return shl<R>(x, SHIFT_X);
}

// The same by a shift that differs from channel to channel; R holds the result.
template <class R, class X>
inline R shl_by(const X& x, const int shift) {
#pragma HLS INLINE
  return shl<R>(x, shift);
}

// The same where some channels move down, past zeros only.
template <class R, class X>
inline R move_by(const X& x, const int shift) {
#pragma HLS INLINE
  return shift < 0 ? R(x >> -shift) : shl<R>(x, shift);
}

template <class R, int SHIFT_A, int SHIFT_B, class A, class B>
inline R add(const A& a, const B& b) {
#pragma HLS INLINE
  return R(shl<R>(a, SHIFT_A) + shl<R>(b, SHIFT_B));
}

template <class R, int SHIFT_A, int SHIFT_B, class A, class B>
inline R sub(const A& a, const B& b) {
#pragma HLS INLINE
  return R(shl<R>(a, SHIFT_A) - shl<R>(b, SHIFT_B));
}

template <class R, int SHIFT_A, int SHIFT_B, class A, class B>
inline R greater(const A& a, const B& b) {
#pragma HLS INLINE
  const R x = shl<R>(a, SHIFT_A);
  const R y = shl<R>(b, SHIFT_B);
  return x < y ? y : x;
}

template <class R, int SHIFT_A, int SHIFT_B, class A, class B>
inline R lesser(const A& a, const B& b) {
#pragma HLS INLINE
  const R x = shl<R>(a, SHIFT_A);
  const R y = shl<R>(b, SHIFT_B);
  return x < y ? x : y;
}

// Operands whose channels lie on grids of their own, each moved onto that of the result.
template <class R, class A, class B>
inline R add_by(const A& a, const B& b, const int shift_a, const int shift_b) {
#pragma HLS INLINE
  return R(move_by<R>(a, shift_a) + move_by<R>(b, shift_b));
}

template <class R, class A, class B>
inline R sub_by(const A& a, const B& b, const int shift_a, const int shift_b) {
#pragma HLS INLINE
  return R(move_by<R>(a, shift_a) - move_by<R>(b, shift_b));
}

template <class R, class A, class B>
inline R greater_by(const A& a, const B& b, const int shift_a, const int shift_b) {
#pragma HLS INLINE
  const R x = move_by<R>(a, shift_a);
  const R y = move_by<R>(b, shift_b);
  return x < y ? y : x;
}

template <class R, class A, class B>
inline R lesser_by(const A& a, const B& b, const int shift_a, const int shift_b) {
#pragma HLS INLINE
  const R x = move_by<R>(a, shift_a);
  const R y = move_by<R>(b, shift_b);
  return x < y ? x : y;
}

template <class R, int SHIFT, class A, class B>
inline R mul(const A& a, const B& b) {
#pragma HLS INLINE
  return shl<R>(product<R>(a, b), SHIFT);
}

// The product with a constant without a multiplier: `code` holds the constant's signed digits, as mul_shift of multiply.h has them.
template <class R, class D0, class D1 = no_digit, class D2 = no_digit, class X, class Code>
inline R mul_digits(const X& x, const Code& code) {
#pragma HLS INLINE
  return mul_shift<R, D0, D1, D2>::template times<R>(code, x);
}

template <class R, int SHIFT, class X>
inline R relu(const X& x) {
#pragma HLS INLINE
  return x < 0 ? R(0) : shl<R>(x, SHIFT);
}

// SHIFT_POS and SHIFT_NEG differ by -log2(slope).
template <class R, int SHIFT_POS, int SHIFT_NEG, class X>
inline R leaky_relu(const X& x) {
#pragma HLS INLINE
  return x < 0 ? shl<R>(x, SHIFT_NEG) : shl<R>(x, SHIFT_POS);
}

// SHIFT_NEG is that of the product.
template <class R, int SHIFT_POS, int SHIFT_NEG, class X, class S>
inline R prelu(const X& x, const S& slope) {
#pragma HLS INLINE
  return x < 0 ? shl<R>(product<R>(x, slope), SHIFT_NEG) : shl<R>(x, SHIFT_POS);
}

template <class R, class X, class S>
inline R prelu_by(const X& x, const S& slope, const int shift_pos, const int shift_neg) {
#pragma HLS INLINE
  return x < 0 ? shl<R>(product<R>(x, slope), shift_neg) : shl<R>(x, shift_pos);
}

// The same with the digits of the slope.
template <class R, int SHIFT_POS, int SHIFT_NEG, class D0, class D1 = no_digit, class D2 = no_digit, class X, class Code>
inline R prelu_digits(const X& x, const Code& code) {
#pragma HLS INLINE
  return x < 0 ? shl<R>(mul_digits<R, D0, D1, D2>(x, code), SHIFT_NEG) : shl<R>(x, SHIFT_POS);
}

template <class R, class D0, class D1 = no_digit, class D2 = no_digit, class X, class Code>
inline R prelu_digits_by(const X& x, const Code& code, const int shift_pos, const int shift_neg) {
#pragma HLS INLINE
  return x < 0 ? shl<R>(mul_digits<R, D0, D1, D2>(x, code), shift_neg) : shl<R>(x, shift_pos);
}

// Whether a raw is greater than a constant, which its type holds, or is one below.
template <class R, class X, class B>
inline R above(const X& x, const B& bound) {
#pragma HLS INLINE
  return R(x > bound ? 1 : 0);
}

template <class R, class X, class B>
inline R not_above(const X& x, const B& bound) {
#pragma HLS INLINE
  return R(x > bound ? 0 : 1);
}

// low and high lie on the result's grid already; Wide holds them and x on that grid.
template <class R, class Wide, int SHIFT, class X, class Low, class High>
inline R clip(const X& x, const Low& low, const High& high) {
#pragma HLS INLINE
  const Wide wide = shl<Wide>(x, SHIFT);
  const Wide lo = Wide(low);
  const Wide hi = Wide(high);
  return wide < lo ? R(lo) : (hi < wide ? R(hi) : R(wide));
}

// The nearest number of a minifloat: MANTISSA + 1 significant bits, of two the even one, in units of 2**DOWN of x's (2**-DOWN, if that is negative), none
// of fewer than one unit, none above LARGEST. The last place of numbers doubles BINADES times. SIZE bits hold every magnitude, and twice its rounding. SITE
// as in cast.
template <class R, int SIZE, int DOWN, int MANTISSA, int BINADES, long long LARGEST, int SITE = -1, class X>
inline R minifloat(const X& x) {
#pragma HLS INLINE
  static const int UP = DOWN < 0 ? -DOWN : 0;
  static const int LEAST = DOWN < 0 ? 0 : DOWN;
  typedef uint<SIZE> size_type;
  const bool negative = x < 0;
  const size_type size = size_type(negative ? sint<SIZE>(-sint<SIZE>(x)) : sint<SIZE>(x)) << UP;
  typedef typename upto<LEAST + BINADES>::type shift_type;
  shift_type drop = LEAST;
minifloat_binade:
  for (int k = 1; k <= BINADES; k++) {
#pragma HLS UNROLL
    if (size >= size_type(size_type(1) << (MANTISSA + LEAST + k))) {
      drop = shift_type(LEAST + k);
    }
  }
  const size_type low = size >> drop;
  const size_type rest = size - size_type(low << drop);
  const size_type half = drop == 0 ? size_type(0) : size_type(size_type(1) << shift_type(drop == 0 ? shift_type(0) : shift_type(drop - 1)));
  const bool up = drop != 0 && (rest > half || (rest == half && (low & 1) == 1));
  const size_type found = size_type(low + (up ? 1 : 0)) << shift_type(drop - LEAST);
#ifdef QFX_REPORT
  qfx_report::count_format(SITE, negative, qfx_report::to_int64(found), LARGEST, rest != 0);
#endif
  const size_type clipped = found > size_type(LARGEST) ? size_type(LARGEST) : found;
  return negative ? R(-R(clipped)) : R(clipped);
}

// The entry of a table for the number x, one of FIRST .. FIRST + ENTRIES - 1.
template <class R, int FIRST, class X, class Number, int ENTRIES>
inline R lookup(const X& x, const Number (&entries)[ENTRIES]) {
#pragma HLS INLINE
  typedef typename upto<ENTRIES - 1>::type address;
  return R(entries[address(x - FIRST)]);
}

// values[line] * 2**UP + slopes[line] * low, where x lies line * 2**SHIFT + low behind FIRST, with line < LINES. R holds the result.
template <class R, int FIRST, int SHIFT, int UP, class X, class Value, class Slope, int LINES>
inline R lookup_linear(const X& x, const Value (&values)[LINES], const Slope (&slopes)[LINES]) {
#pragma HLS INLINE
  typedef uint<bits_for<LINES - 1>::value + SHIFT> place_type;
  typedef typename upto<LINES - 1>::type line_type;
  typedef typename upto<(1 << SHIFT) - 1>::type low_type;
  const place_type place = place_type(x - FIRST);
  const line_type line = line_type(place >> SHIFT);
  const low_type low = low_type(place & ((1 << SHIFT) - 1));
  return R(shl<R>(values[line], UP) + product<R>(slopes[line], low));
}

// The one operator that loses bits: the vendor's own assignment between two fixed-point types. Src and Dst are qfx::fixed tags; the raw of
// Src goes in, the raw of Dst comes out.
template <class Src, class Dst, class X>
inline typename Dst::raw convert(const X& x) {
#pragma HLS INLINE
#ifdef QFX_NATIVE
  return qfx_cast::convert_native<Dst, X>(x, Src::FRAC_BITS - Dst::FRAC_BITS);
#else
  typename Src::vendor from;
  from.range() = typename Src::raw(x);
  const typename Dst::vendor to = from;
  typename Dst::raw raw;
  raw.range() = to.range();
  return raw;
#endif
}

// The same as an operator of the model. SITE numbers the casts of a design, for simulations that count what each of them loses.
template <class Src, class Dst, int SITE = -1, class X>
inline typename Dst::raw cast(const X& x) {
#pragma HLS INLINE
  const typename Dst::raw raw = convert<Src, Dst>(x);
#ifdef QFX_REPORT
  qfx_report::count<Dst>(SITE, x, Src::FRAC_BITS - Dst::FRAC_BITS, raw);
#endif
  return raw;
}

// A cast with a binary point of its own for every channel: F fractional bits, of which F0 = F - up is the least. It holds exactly that
//   cast_F(x) = 2**-up * cast_F0(x * 2**up),
// so x is moved up, cast at F0, and the result is read on the finest grid of all channels by moving it `fine` bits up. Src holds x moved up.
template <class R, class Src, class Dst, int SITE = -1, class X>
inline R cast_moved(const X& x, const int up, const int fine) {
#pragma HLS INLINE
#ifdef QFX_NATIVE
  const typename Dst::raw raw = qfx_cast::convert_native<Dst, X>(x, Src::FRAC_BITS - Dst::FRAC_BITS - up);
#else
  const typename Dst::raw raw = convert<Src, Dst>(shl<typename Src::raw>(x, up));
#endif
#ifdef QFX_REPORT
  qfx_report::count<Dst>(SITE, x, Src::FRAC_BITS - Dst::FRAC_BITS - up, raw);
#endif
  return shl<R>(raw, fine);
}

}  // namespace qfx

#endif
