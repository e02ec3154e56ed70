// Assignment between fixed-point types, as far as qfx::convert uses it: rounding, then overflow, by UG1399 ("Quantization Modes", "Overflow Modes").
#ifndef QFX_RTL_AP_FIXED_H
#define QFX_RTL_AP_FIXED_H

#include "ap_int.h"

enum ap_q_mode { AP_RND, AP_RND_ZERO, AP_RND_MIN_INF, AP_RND_INF, AP_RND_CONV, AP_TRN, AP_TRN_ZERO };
enum ap_o_mode { AP_SAT, AP_SAT_ZERO, AP_SAT_SYM, AP_WRAP, AP_WRAP_SM };

template <int W, int I, bool S, ap_q_mode Q, ap_o_mode O, int N>
struct ap_point {
  ap_bits<W, S> raw;

  ap_point() = default;
  qfx_rtl::slice<W, S> range() { return raw.range(); }
  ap_bits<W, S> range() const { return raw; }

  template <int W2, int I2, bool S2, ap_q_mode Q2, ap_o_mode O2, int N2>
  ap_point(const ap_point<W2, I2, S2, Q2, O2, N2>& from) {
    static const int DROP = (W2 - I2) - (W - I);  // bits that go; below 0: zeros that come
    static const int UP = DROP < 0 ? -DROP : 0, DOWN = DROP > 0 ? DROP : 0;
    static const int SOURCE = W2 + UP + 1;                       // signed, exact
    static const int WIDE = qfx_rtl::most(SOURCE, DOWN + 1) + 1;  // has every bit that goes
    typedef signed _BitInt(WIDE) wide;
    const wide exact = wide(from.raw.value) << UP;
    wide rounded = exact >> DOWN;
    if (DOWN > 0) {
      typedef unsigned _BitInt(WIDE) word;
      const word rest = word(exact) & (word(word(1) << DOWN) - word(1));
      const word half = word(1) << (DOWN > 0 ? DOWN - 1 : 0);
      const bool above = rest > half, tie = rest == half, negative = exact < 0;
      const bool up = Q == AP_RND           ? above || tie
                      : Q == AP_RND_ZERO    ? above || (tie && negative)
                      : Q == AP_RND_MIN_INF ? above
                      : Q == AP_RND_INF     ? above || (tie && !negative)
                      : Q == AP_RND_CONV    ? above || (tie && (rounded & 1) != 0)
                      : Q == AP_TRN_ZERO    ? rest != 0 && negative
                                            : false;
      rounded = wide(rounded + wide(up ? 1 : 0));
    }
    static const int ROOM = qfx_rtl::most(WIDE, W) + 2;
    typedef signed _BitInt(ROOM) room;
    const room number = room(rounded);
    const room high = room((room(1) << (S ? W - 1 : W)) - 1);
    const room low = S ? (O == AP_SAT_SYM && W > 1 ? room(-high) : room(-high - 1)) : room(0);
    const bool over = number > high, under = number < low;
    typedef typename ap_bits<W, false>::number pattern;
    pattern kept = pattern(number);
    if (over || under) {
      const pattern one = 1, top = pattern(one << (W - 1));
      if (O == AP_SAT || O == AP_SAT_SYM) kept = pattern(over ? high : low);
      if (O == AP_SAT_ZERO) kept = 0;
      if (O == AP_WRAP_SM) {
        static const int DECIDES = W - (N > 1 ? N : 1);
        const bool lost = ((wide(exact >> DOWN) >> (W < WIDE ? W : WIDE - 1)) & 1) != 0;
        const bool bit = (kept >> DECIDES & 1) != 0;
        const bool fold = N == 0 ? bit != lost : N == 1 ? bit != under : bit == under;
        kept = fold ? pattern(~kept) : kept;
      }
      if (N > 0 && (O == AP_WRAP || O == AP_WRAP_SM)) {  // N high bits become those of the bound that was passed
        const pattern set = pattern(pattern(pattern(~pattern(0)) >> (W - (N > 0 ? N : 1))) << (W - N));
        kept = pattern((kept & pattern(~set)) | (!S ? set : under ? top : pattern(set ^ top)));
      }
    }
    raw = ap_bits<W, S>::made(typename ap_bits<W, S>::number(kept));
  }
};

template <int W, int I, ap_q_mode Q = AP_TRN, ap_o_mode O = AP_WRAP, int N = 0>
using ap_fixed = ap_point<W, I, true, Q, O, N>;
template <int W, int I, ap_q_mode Q = AP_TRN, ap_o_mode O = AP_WRAP, int N = 0>
using ap_ufixed = ap_point<W, I, false, Q, O, N>;

#endif
