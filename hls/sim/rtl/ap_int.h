// Integers of exactly W bits over clang's _BitInt, with the widths and the wrapping that UG1399 ("Arbitrary Precision Integers") gives the vendor's.
// Trivial to construct and not trivial to copy: memories need no constructor that runs, and words are copied number by number.
#ifndef QFX_RTL_AP_INT_H
#define QFX_RTL_AP_INT_H

#include <stdint.h>

namespace qfx_rtl {

template <int W, bool S>
struct bits_of {
  typedef unsigned _BitInt(W) type;
};
template <int W>
struct bits_of<W, true> {
  typedef signed _BitInt(W < 2 ? 2 : W) type;  // C has no signed integer of one bit
};

// What an integer becomes where a native one is asked for.
template <int BYTES, bool S>
struct native;
#define QFX_RTL_NATIVE(BYTES, SIGNED, UNSIGNED) \
  template <>                                   \
  struct native<BYTES, true> {                  \
    typedef SIGNED type;                        \
  };                                            \
  template <>                                   \
  struct native<BYTES, false> {                 \
    typedef UNSIGNED type;                      \
  };
QFX_RTL_NATIVE(1, signed char, unsigned char)
QFX_RTL_NATIVE(2, short, unsigned short)
QFX_RTL_NATIVE(4, int, unsigned)
QFX_RTL_NATIVE(8, long long, unsigned long long)

constexpr int most(const int a, const int b) { return a > b ? a : b; }

}  // namespace qfx_rtl

template <int W, bool S>
struct ap_bits;

namespace qfx_rtl {

// The integer that a native number is.
template <class T>
struct as_bits;
#define QFX_RTL_AS(T, W, S)     \
  template <>                   \
  struct as_bits<T> {           \
    typedef ap_bits<W, S> type; \
  };
QFX_RTL_AS(bool, 1, false)
QFX_RTL_AS(char, 8, true)
QFX_RTL_AS(signed char, 8, true)
QFX_RTL_AS(unsigned char, 8, false)
QFX_RTL_AS(short, 16, true)
QFX_RTL_AS(unsigned short, 16, false)
QFX_RTL_AS(int, 32, true)
QFX_RTL_AS(unsigned, 32, false)
QFX_RTL_AS(long, 64, true)
QFX_RTL_AS(unsigned long, 64, false)
QFX_RTL_AS(long long, 64, true)
QFX_RTL_AS(unsigned long long, 64, false)

template <int W, bool S>
struct slice;

}  // namespace qfx_rtl

template <int W, bool S>
struct ap_bits {
  static const int width = W;
  typedef typename qfx_rtl::bits_of<W, S>::type number;
  typedef typename qfx_rtl::native<(W <= 8 ? 1 : W <= 16 ? 2 : W <= 32 ? 4 : 8), S>::type plain;
  number value;

// A signed bit lies sign-extended in two. (A macro: numbers that travel through functions by value are cut into pieces.)
#define QFX_RTL_WRAPPED(x) (W == 1 && S ? number(number((x) << 1) >> 1) : number(x))

  ap_bits() = default;
  constexpr ap_bits(const ap_bits& other) : value(other.value) {}
  ap_bits& operator=(const ap_bits& other) {
    value = other.value;
    return *this;
  }
  template <int W2, bool S2>
  constexpr ap_bits(const ap_bits<W2, S2>& other) : value(QFX_RTL_WRAPPED(number(other.value))) {}
  template <class T, class = typename qfx_rtl::as_bits<T>::type>
  constexpr ap_bits(const T x) : value(QFX_RTL_WRAPPED(number(x))) {}

  constexpr operator plain() const { return plain(value); }
  template <class T, class = typename qfx_rtl::as_bits<T>::type>
  explicit constexpr operator T() const {
    return T(value);
  }

  ap_bits operator<<(const int n) const { return made(n < W ? number(value << n) : number(0)); }
  ap_bits operator>>(const int n) const { return made(number(value >> (n < W ? n : W - 1)) & (n < W || (S && value < 0) ? number(~number(0)) : number(0))); }
  ap_bits operator~() const { return made(number(~value)); }
  ap_bits<W + 1, true> operator-() const { return ap_bits<W + 1, true>::made(-typename ap_bits<W + 1, true>::number(value)); }
  template <class T>
  ap_bits& operator+=(const T& x) {
    return *this = ap_bits(*this + x);
  }
  template <class T>
  ap_bits& operator-=(const T& x) {
    return *this = ap_bits(*this - x);
  }
  template <class T>
  ap_bits& operator*=(const T& x) {
    return *this = ap_bits(*this * x);
  }
  template <class T>
  ap_bits& operator|=(const T& x) {
    return *this = ap_bits(*this | x);
  }
  template <class T>
  ap_bits& operator&=(const T& x) {
    return *this = ap_bits(*this & x);
  }
  ap_bits& operator<<=(const int n) { return *this = *this << n; }
  ap_bits& operator>>=(const int n) { return *this = *this >> n; }
  ap_bits& operator++() { return *this += 1; }
  ap_bits& operator--() { return *this -= 1; }

  qfx_rtl::slice<W, S> range(const int high, const int low) { return qfx_rtl::slice<W, S>{*this, high, low}; }
  qfx_rtl::slice<W, S> range() { return range(W - 1, 0); }
  ap_bits<W, false> range(const int high, const int low) const {
    typedef typename ap_bits<W, false>::number plain_number;
    return ap_bits<W, false>::made(plain_number(plain_number(value) << (W - 1 - high)) >> (W - 1 - high + low));
  }
  ap_bits<W, false> range() const { return range(W - 1, 0); }

  static ap_bits made(const number& x) {
    ap_bits result;
    result.value = QFX_RTL_WRAPPED(x);
    return result;
  }
};

namespace qfx_rtl {

// Bits high .. low of a variable.
template <int W, bool S>
struct slice {
  ap_bits<W, S>& of;
  int high, low;
  typedef typename ap_bits<W, false>::number word;

  ap_bits<W, false> get() const { return static_cast<const ap_bits<W, S>&>(of).range(high, low); }
  template <int W2, bool S2>
  operator ap_bits<W2, S2>() const {
    return get();
  }
  template <int W2, bool S2>
  void operator=(const ap_bits<W2, S2>& x) {
    const word mask = word(word(word(~word(0)) >> (W - 1 - high + low)) << low);
    const word put = word(word(typename ap_bits<W2, false>::number(x.value)) << low) & mask;
    of.value = typename ap_bits<W, S>::number((word(of.value) & word(~mask)) | put);
  }
  template <int W2, bool S2>
  void operator=(const slice<W2, S2>& x) {
    *this = x.get();
  }
};

// The bits that hold both.
template <int W1, bool S1, int W2, bool S2>
struct both {
  static const int width = most(W1 + (S2 && !S1), W2 + (S1 && !S2));
};

}  // namespace qfx_rtl

#define QFX_RTL_MIXED(RESULT, OP)                                                          \
  template <int W, bool S, class T, class B = typename qfx_rtl::as_bits<T>::type>          \
  inline RESULT operator OP(const ap_bits<W, S>& a, const T b) {                           \
    return a OP B(b);                                                                      \
  }                                                                                        \
  template <int W, bool S, class T, class B = typename qfx_rtl::as_bits<T>::type>          \
  inline RESULT operator OP(const T a, const ap_bits<W, S>& b) {                           \
    return B(a) OP b;                                                                      \
  }
#define QFX_RTL_ARITHMETIC(OP, WIDTH, SIGNED)                                              \
  template <int W1, bool S1, int W2, bool S2>                                              \
  inline ap_bits<WIDTH, SIGNED> operator OP(const ap_bits<W1, S1>& a, const ap_bits<W2, S2>& b) { \
    typedef typename ap_bits<WIDTH, SIGNED>::number number;                                \
    return ap_bits<WIDTH, SIGNED>::made(number(number(a.value) OP number(b.value)));       \
  }                                                                                        \
  QFX_RTL_MIXED(auto, OP)
#define QFX_RTL_COMPARE(OP)                                                                \
  template <int W1, bool S1, int W2, bool S2>                                              \
  inline bool operator OP(const ap_bits<W1, S1>& a, const ap_bits<W2, S2>& b) {            \
    typedef typename ap_bits<qfx_rtl::both<W1, S1, W2, S2>::width, (S1 || S2)>::number number; \
    return number(a.value) OP number(b.value);                                             \
  }                                                                                        \
  QFX_RTL_MIXED(bool, OP)
#define QFX_RTL_WIDTH qfx_rtl::both<W1, S1, W2, S2>::width
QFX_RTL_ARITHMETIC(+, QFX_RTL_WIDTH + 1, (S1 || S2))
QFX_RTL_ARITHMETIC(-, QFX_RTL_WIDTH + 1, true)
QFX_RTL_ARITHMETIC(*, W1 + W2, (S1 || S2))
QFX_RTL_ARITHMETIC(&, QFX_RTL_WIDTH, (S1 || S2))
QFX_RTL_ARITHMETIC(|, QFX_RTL_WIDTH, (S1 || S2))
QFX_RTL_ARITHMETIC(^, QFX_RTL_WIDTH, (S1 || S2))
QFX_RTL_COMPARE(<)
QFX_RTL_COMPARE(>)
QFX_RTL_COMPARE(<=)
QFX_RTL_COMPARE(>=)
QFX_RTL_COMPARE(==)
QFX_RTL_COMPARE(!=)

template <int W>
using ap_int = ap_bits<W, true>;
template <int W>
using ap_uint = ap_bits<W, false>;

#endif
