// The Cast of one number and its gradient, for the mode and the element types that native.cpp is compiled for (its macros are explained there).
#ifndef QFX_NATIVE_CAST_H
#define QFX_NATIVE_CAST_H

#include "ieee.h"

#include <math.h>
#include <stdint.h>

#define RND 0  // the order of QMode
#define RND_ZERO 1
#define RND_MIN_INF 2
#define RND_INF 3
#define RND_CONV 4
#define TRN 5
#define TRN_ZERO 6
#define SAT 0  // AP_SAT_SYM as well: only its bounds differ
#define SAT_ZERO 1
#define WRAP 2
#define WRAP_SM 3

typedef QFX_X X;
typedef QFX_R R;

template <class A, class B> struct Same { static const bool value = false; };
template <class A> struct Same<A, A> { static const bool value = true; };
template <bool wide> struct Compute { typedef double type; };
template <> struct Compute<false> { typedef float type; };
typedef Compute<Same<X, double>::value || Same<R, double>::value || QFX_AFFINE>::type T;  // float only where float arithmetic is exact

struct Plan {  // native.py mirrors it
    double min_raw, max_raw, negative_slope, upper;
    int32_t width, n, is_signed, is_symmetric, least_frac_bits, greatest_frac_bits;
};


static const double LN2 = 0.693147180559945309417232121458;
// ---- the Cast of one number -----------------------------------------------------------------------------------------

static inline float to_even(float s) { return __builtin_rintf(s); }
static inline double to_even(double s) { return __builtin_rint(s); }
static inline float down(float s) { return __builtin_floorf(s); }
static inline double down(double s) { return __builtin_floor(s); }
static inline float to_zero(float s) { return __builtin_truncf(s); }
static inline double to_zero(double s) { return __builtin_trunc(s); }
static inline float away(float s) { return __builtin_copysignf(1.0f, s); }
static inline double away(double s) { return __builtin_copysign(1.0, s); }
static inline float magnitude(float s) { return __builtin_fabsf(s); }
static inline double magnitude(double s) { return __builtin_fabs(s); }

struct Constants {
    T lo, hi, slope, upper;
    T modulus, inverse, half;      // 2**W, 2**-W, 2**(W-1)
    T kept, kept_inverse;          // 2**(W-N) and its inverse
    T pin, pin_negative;           // what N saturated bits add above the kept ones
    T fold;                        // from here on, a wrapped pattern stands for itself - 2**W
    T huge;                        // every number as large is a multiple of 2**W, so a wrap sees no difference
    T low_side;                    // dq/dI of a number saturated low, in units of that of a number saturated high
    explicit Constants(const Plan& p)
        : lo((T)p.min_raw), hi((T)p.max_raw), slope((T)p.negative_slope), upper((T)p.upper), modulus((T)ldexp(1, p.width)),
          inverse((T)ldexp(1, -p.width)), half((T)ldexp(1, p.width - 1)), kept((T)ldexp(1, p.width - p.n)),
          kept_inverse((T)ldexp(1, p.n - p.width)), pin((p.is_signed ? half : modulus) - kept), pin_negative(p.is_signed ? -half : pin),
          fold(p.is_signed ? half : modulus),
          huge((T)ldexp(1, sizeof(T) == 4 ? 120 : 1000)),
          low_side(p.is_signed ? T(-1) : T(0)) {}
};

static inline T floor_of(T s, T v) {  // v < 0 whose scaling underflowed to -0.0 is still below 0
    T f = down(s);
    T below = f < T(-1) ? f : T(-1);
    return v < T(0) ? below : f;
}

// Differences from rint and trunc are exact; those from floor are not (s = -0.5 + tiny), and s + 0.5 is not.
static inline T rounded(T s, T v) {
#if QFX_Q == RND
    T r = to_even(s);
    return r + (s - r == T(0.5) ? T(1) : T(0));
#elif QFX_Q == RND_ZERO
    T t = to_zero(s);
    return t + (magnitude(s - t) > T(0.5) ? away(s) : T(0));
#elif QFX_Q == RND_MIN_INF
    T r = to_even(s);
    return r - (s - r == T(-0.5) ? T(1) : T(0));
#elif QFX_Q == RND_INF
    T t = to_zero(s);
    return t + (magnitude(s - t) >= T(0.5) ? away(s) : T(0));
#elif QFX_Q == RND_CONV
    return to_even(s);
#elif QFX_Q == TRN
    return floor_of(s, v);
#else
    return to_zero(s);
#endif
}

static inline T low_bits(T r, T power, T inverse) { return r - down(r * inverse) * power; }

static inline T wrapped(const Constants& k, T r) {
    T low = low_bits(r, k.modulus, k.inverse);
    return low >= k.fold ? low - k.modulus : low;
}

static inline T wrapped_into(T lo, T hi, T r) {
    T modulus = hi - lo + T(1), low = low_bits(r, modulus, T(1) / modulus);
    return low > hi ? low - modulus : low;
}

static inline T pinned(const Constants& k, T r, T low) { return low + (r < T(0) ? k.pin_negative : k.pin); }

struct Cast {
    T raw;
    T slope;  // dq/dv: 1, 0 or -1
    T side;   // 1 saturated high, -1 saturated low (signed), else 0: the derivative by the integer bits
};

static inline Cast cast(const Constants& k, T lo, T hi, T s, T v) {
    T r = rounded(s, v);
    Cast c;
    c.slope = T(1);
    c.side = T(0);
    bool low = r < lo, high = r > hi;
#if QFX_O == SAT
    T at_least = low ? lo : r;
    c.raw = at_least > hi ? hi : at_least;
    c.slope = c.raw == r ? T(1) : T(0);
    T low_side = low ? k.low_side : T(0);
    c.side = high ? T(1) : low_side;
#if QFX_WORDS
    bool none = lo == hi;  // nothing but 0
    c.slope = none ? T(1) : c.slope;
    c.side = none ? T(0) : c.side;
#endif
#elif QFX_O == SAT_ZERO
    c.raw = low | high ? T(0) : r;
    c.slope = low | high ? T(0) : T(1);
#else
    r = r > k.huge ? k.huge : r;
    r = r < -k.huge ? -k.huge : r;
#if QFX_O == WRAP && QFX_N == 0
    c.raw = QFX_WORDS ? wrapped_into(lo, hi, r) : wrapped(k, r);
#elif QFX_O == WRAP
    c.raw = low | high ? pinned(k, r, low_bits(r, k.kept, k.kept_inverse)) : r;
#elif QFX_N < 2
    T w = wrapped(k, r);
#if QFX_N == 0
    T f = floor_of(s, v);  // the lost bit is that of the unrounded source
    f = f > k.huge ? k.huge : f;
    f = f < -k.huge ? -k.huge : f;
    bool sign = low_bits(down(f * k.inverse), T(2), T(0.5)) == T(1);
#else
    bool sign = low;
#endif
    bool flipped = (low | high) & ((w < T(0)) != sign);
    c.raw = flipped ? T(-1) - w : w;
    c.slope = flipped ? T(-1) : T(1);
#else
    T kept = low_bits(r, k.kept, k.kept_inverse);
    bool bit = low_bits(r, T(2) * k.kept, T(0.5) * k.kept_inverse) >= k.kept;
    bool flipped = (low | high) & (bit == low);
    kept = flipped ? k.kept - T(1) - kept : kept;
    c.raw = low | high ? pinned(k, r, kept) : r;
    c.slope = flipped ? T(-1) : T(1);
#endif
#endif
    return c;
}

// ---- one element: value, gradient -----------------------------------------------------------------------------------

static inline T before(X x, X addend, double scale, double shift) {
#if QFX_AFFINE
    T u = (T)x * scale + shift;
#if QFX_ADDEND
    u += (T)addend;
#endif
    return u;
#else
    return (T)x;
#endif
}

static inline T activated(const Constants& k, T u) {
#if QFX_ACTIVATION
    T leaky = u < T(0) ? u * k.slope : u;
    return leaky > k.upper ? k.upper : leaky;
#else
    return u;
#endif
}

static inline R value(const Constants& k, T lo, T hi, X x, X addend, T up, T down, double scale, double shift) {
    T v = activated(k, before(x, addend, scale, shift));
    return (R)(cast(k, lo, hi, v * up, v).raw * down + T(0));  // + 0 turns -0.0 into +0.0
}

struct Gradient {
    T input;  // by x * scale + shift + addend
    T frac;   // by F, divided by -ln2 * FRAC_UNIT
    T range;  // by I, divided by ln2
};

// Where an overflow saturates the scaled number cannot be infinite in range (but at zero bits), so the lsb can wait until the sum is complete.
#if QFX_O <= SAT_ZERO && !QFX_WORDS
#define FRAC_UNIT(lsb) (lsb)
#else
#define FRAC_UNIT(lsb) 1.0
#endif

static inline Gradient gradient(const Constants& k, T lo, T hi, R g, X x, X addend, T up, T down, double scale, double shift) {
    T u = before(x, addend, scale, shift);
    T v = activated(k, u);
    Cast c = cast(k, lo, hi, v * up, v);
    T grad = (T)g;
    Gradient d;
#if QFX_O == SAT && QFX_WORDS
    T bound = c.side * (hi + T(1));
    d.input = c.slope != T(0) ? grad : T(0);
    d.frac = grad * (c.slope != T(0) ? c.raw * down - v : (c.raw - bound) * down);
    d.range = grad * (bound * down);
#elif QFX_O <= SAT_ZERO
    d.input = c.slope != T(0) ? grad : T(0);
    d.frac = grad * (c.slope != T(0) ? c.raw - v * up : c.raw);
#elif QFX_O == WRAP
    d.input = grad;
    d.frac = grad * (c.raw * down - v);
#else
    d.input = grad * c.slope;
    d.frac = grad * (c.raw * down - v * c.slope);
#endif
#if QFX_O != SAT || !QFX_WORDS
    d.range = T(0);
#endif
#if QFX_ACTIVATION
    T leaky = u < T(0) ? u * k.slope : u;
    d.input = leaky < k.upper ? d.input : T(0);
    T sloped = d.input * k.slope;
    d.input = u > T(0) ? d.input : sloped;
#endif
    return d;
}

#endif
