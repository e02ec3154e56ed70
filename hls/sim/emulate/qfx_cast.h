// Cast as integer arithmetic: rounding, then overflow, in every mode. Equal to qfx/fixed/reference.py, which defines it. Not synthesized.
//
// `Wide` is a signed integer that holds the number and the target's raws with two bits to spare.
#ifndef QFX_CAST_H
#define QFX_CAST_H

#include <ap_fixed.h>

namespace qfx_cast {

template <class Wide>
constexpr int bits() {
  return static_cast<int>(sizeof(Wide)) * 8;
}

// What rounding x * 2**-shift, shift >= 1, adds to its floor: 0 or 1. The round bit is the first bit that is dropped, the sticky bit tells whether any
// other is set.
template <class Wide, ap_q_mode Q>
inline Wide increment(const Wide x, const Wide floor, const int shift) {
  if (Q == AP_TRN) return 0;
  const int below = shift - 1 < bits<Wide>() - 1 ? shift - 1 : bits<Wide>() - 1;  // sign bits are as good as more
  const Wide round_bit = (x >> below) & 1;
  if (Q == AP_RND) return round_bit;
  const Wide sticky = (x & ~(Wide(-1) << below)) != 0 || (shift - 1 > below && x != 0);
  const Wide negative = x < 0;
  switch (Q) {
    case AP_RND_ZERO:
      return round_bit & (sticky | negative);
    case AP_RND_MIN_INF:
      return round_bit & sticky;
    case AP_RND_INF:
      return round_bit & (sticky | (negative ^ 1));
    case AP_RND_CONV:
      return round_bit & (sticky | (floor & 1));
    default:  // AP_TRN_ZERO
      return negative & (round_bit | sticky);
  }
}

// The bounds of a type of W bits.
template <class Wide, int W, bool SIGNED, ap_o_mode O>
struct range {
  static constexpr Wide high() { return (Wide(1) << (SIGNED ? W - 1 : W)) - 1; }
  static constexpr Wide low() { return SIGNED ? (O == AP_SAT_SYM && W > 1 ? -high() : -high() - 1) : 0; }
};

// `word` with its N high bits set to those of the bound that was passed; an unsigned word takes ones whichever it was, as the vendor's headers do.
template <class Wide, int W, bool SIGNED, int N>
inline Wide saturate_bits(const Wide word, const bool under) {
  const Wide high = ((Wide(1) << N) - 1) << (W - (N > 0 ? N : 1));
  const Wide sign = Wide(1) << (W - 1);
  if (!SIGNED) return word | high;
  return (word & ~high) | (under ? sign : high ^ sign);
}

// `word`, right in its low W + 1 bits, brought into the range; `over` and `under` say whether the number lies above or below it. `lost` is bit W of the
// unrounded number.
template <class Wide, int W, bool SIGNED, ap_o_mode O, int N>
inline Wide overflow(const Wide word, const bool over, const bool under, const bool lost) {
  typedef range<Wide, W, SIGNED, O> bounds;
  if (O == AP_SAT || O == AP_SAT_SYM) return over ? bounds::high() : under ? bounds::low() : word;
  if (O == AP_SAT_ZERO) return over || under ? Wide(0) : word;
  Wide kept = word;
  if (O == AP_WRAP && N > 0) {
    kept = over || under ? saturate_bits<Wide, W, SIGNED, N>(word, under) : word;
  } else if (O == AP_WRAP_SM) {
    const bool sign = N == 0 ? lost : under;
    const bool deciding = ((word >> (W - (N > 1 ? N : 1))) & 1) != 0;
    const bool fold = N <= 1 ? deciding != sign : deciding == sign;
    const Wide folded = fold ? ~word : word;
    kept = over || under ? (N == 0 ? folded : saturate_bits<Wide, W, SIGNED, N>(folded, under)) : word;
  }
  const int spare = bits<Wide>() - W;
  return SIGNED ? Wide(kept << spare) >> spare : Wide(kept & bounds::high());
}

// The raw, in the type, of x * 2**-shift; shift may be negative.
template <class Wide, int W, bool SIGNED, ap_q_mode Q, ap_o_mode O, int N>
inline Wide convert(const Wide x, const int shift) {
  typedef range<Wide, W, SIGNED, O> bounds;
  const int most = bits<Wide>() - 1;
  if (shift > 0) {
    const Wide floor = x >> (shift < most ? shift : most);
    const Wide rounded = floor + increment<Wide, Q>(x, floor, shift);
    return overflow<Wide, W, SIGNED, O, N>(rounded, rounded > bounds::high(), rounded < bounds::low(), ((floor >> W) & 1) != 0);
  }
  // High bits may be lost: the number is compared with the shifted bounds instead. By `most` or by more, the target's bits are all 0.
  const int left = -shift < most ? -shift : most;
  const bool lost = -shift <= W && ((x >> (W + shift)) & 1) != 0;
  return overflow<Wide, W, SIGNED, O, N>(Wide(x << left), x > (bounds::high() >> left), x < -(-bounds::low() >> left), lost);
}

#ifdef QFX_NATIVE
constexpr int larger(const int a, const int b) { return a > b ? a : b; }

// The same over native integers; Dst is a qfx::fixed tag.
template <class Dst, class X>
inline typename Dst::raw convert_native(const X x, const int shift) {
  // An unsigned X of 8 or 16 bits needs one more with its sign; all others are signed.
  typedef typename qfx_native::signed_bits<larger(static_cast<int>(sizeof(X)) * 8 + (X(-1) > X(0)), Dst::WIDTH + 2)>::type wide;
  return static_cast<typename Dst::raw>(convert<wide, Dst::WIDTH, Dst::SIGNED, Dst::Q, Dst::O, Dst::N>(wide(x), shift));
}
#endif

}  // namespace qfx_cast

#endif
