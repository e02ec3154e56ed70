// How a matrix-vector unit multiplies. All of these compute the same numbers.
//
// A multiplier M has
//   M::dot<PE, SIMD, Lanes>(row, x, sum)   sum[pe] = the sum over s of weight[s * PE + pe] * x[s], modulo 2**width of the sum's type
// and, unless it makes two products at once, the product of one lane
//   M::times<R>(lane, x)
// Product is the raw type that holds every product of a weight and an input.
#ifndef QFX_MULTIPLY_H
#define QFX_MULTIPLY_H

#include "qfx/types.h"

// Where the multiplication behind the variable `exact` is built (BIND_OP: UG1399; RESOURCE: UG902, UG1253).
#if defined(__SYNTHESIS__) && defined(__VITIS_HLS__)
#define QFX_MUL_DSP _Pragma("HLS BIND_OP variable=exact op=mul impl=dsp")
#define QFX_MUL_LUT _Pragma("HLS BIND_OP variable=exact op=mul impl=fabric")
#elif defined(__SYNTHESIS__)
#define QFX_MUL_DSP _Pragma("HLS RESOURCE variable=exact core=DSP48")
#define QFX_MUL_LUT _Pragma("HLS RESOURCE variable=exact core=Mul_LUT")
#else
#define QFX_MUL_DSP
#define QFX_MUL_LUT
#endif

namespace qfx {

// A sum goes on by one term, or begins with it.
template <class Acc>
inline void go_on(Acc& acc, const Acc& term, const bool begins) {
#pragma HLS INLINE
#ifdef QFX_IN_PLACE
  if (begins) {
    acc = term;
  } else {
    acc += term;
  }
#else
  acc = begins ? term : Acc(acc + term);
#endif
}

// The dot products of multipliers that treat each lane alone. The outputs are the inner loop, whose lanes lie side by side.
template <class M>
struct one_by_one {
  // A sum goes on by the product of a lane, or begins with it.
  template <bool BEGINS, class Acc, class W, class X>
  static inline void add(Acc& sum, const W& weight, const X& x) {
#pragma HLS INLINE
    if (BEGINS) {
      sum = M::template times<Acc>(weight, x);
    } else {
      sum += M::template times<Acc>(weight, x);
    }
  }

  template <int PE, int SIMD, class Lanes, class Row, class T, class Acc>
  static inline void dot(const Row& row, const vec<T, SIMD>& x, Acc (&sum)[PE]) {
#pragma HLS INLINE
  dot_start:
    for (int pe = 0; pe < PE; pe++) {
#pragma HLS UNROLL
      M::template add<true>(sum[pe], Lanes::at(row, pe), x[0]);
    }
  dot_simd:
    for (int s = 1; s < SIMD; s++) {
#pragma HLS UNROLL
    dot_pe:
      for (int pe = 0; pe < PE; pe++) {
#pragma HLS UNROLL
        M::template add<false>(sum[pe], Lanes::at(row, s * PE + pe), x[s]);
      }
    }
  }
};

// The tool decides.
struct mul_auto : one_by_one<mul_auto> {
#ifdef QFX_IN_PLACE
  template <bool BEGINS, class Acc, class W, class X>
  static inline void add(Acc& sum, const W& weight, const X& x) {
    if (BEGINS) {
      sum.V = weight.V * x.V;
    } else {
      sum.V += weight.V * x.V;
    }
  }
#endif
  template <class R, class W, class X>
  static inline R times(const W& weight, const X& x) {
#pragma HLS INLINE
    return product<R>(weight, x);
  }
};

template <class Product>
struct mul_dsp : one_by_one<mul_dsp<Product> > {
#ifdef QFX_IN_PLACE
  template <bool BEGINS, class Acc, class W, class X>
  static inline void add(Acc& sum, const W& weight, const X& x) {
    Product exact;
    exact.V = weight.V * x.V;
    if (BEGINS) {
      sum.V = exact.V;
    } else {
      sum.V += exact.V;
    }
  }
#endif
  template <class R, class W, class X>
  static inline R times(const W& weight, const X& x) {
#pragma HLS INLINE
    const Product exact = product<Product>(weight, x);
    QFX_MUL_DSP
    return R(exact);
  }
};

template <class Product>
struct mul_lut : one_by_one<mul_lut<Product> > {
#ifdef QFX_IN_PLACE
  template <bool BEGINS, class Acc, class W, class X>
  static inline void add(Acc& sum, const W& weight, const X& x) {
    Product exact;
    exact.V = weight.V * x.V;
    if (BEGINS) {
      sum.V = exact.V;
    } else {
      sum.V += exact.V;
    }
  }
#endif
  template <class R, class W, class X>
  static inline R times(const W& weight, const X& x) {
#pragma HLS INLINE
    const Product exact = product<Product>(weight, x);
    QFX_MUL_LUT
    return R(exact);
  }
};

// One signed digit of a weight: FIELD bits, the shift less LOW (SPAN if the digit is zero, where ZERO says that it can be), then a bit that is set
// for a negative digit, where NEGATIVE says that there are any.
template <int LOW_, int SPAN_, int FIELD_, bool ZERO_, bool NEGATIVE_>
struct digit {
  static const int LOW = LOW_;
  static const int SPAN = SPAN_;
  static const int FIELD = FIELD_;
  static const bool ZERO = ZERO_;
  static const bool NEGATIVE = NEGATIVE_;
  static const int WIDTH = FIELD_ + (NEGATIVE_ ? 1 : 0);
};

struct no_digit {
  static const int WIDTH = 0;
};

// The product of x with the digit that starts at bit OFFSET of a lane, modulo 2**width of R.
template <class D, int OFFSET>
struct digit_at {
  template <class R, class X>
  static inline R times(const unsigned code, const X& x) {
#pragma HLS INLINE
    const int field = static_cast<int>((code >> OFFSET) & ((1u << D::FIELD) - 1u));
    const R magnitude = D::ZERO && field == D::SPAN ? R(0) : shl<R>(shl<R>(x, field), D::LOW);
    const bool negative = D::NEGATIVE && ((code >> (OFFSET + D::FIELD)) & 1u);
    return negative ? R(-magnitude) : magnitude;
  }
};

template <int OFFSET>
struct digit_at<no_digit, OFFSET> {
  template <class R, class X>
  static inline R times(const unsigned, const X&) {
#pragma HLS INLINE
    return R(0);
  }
};

// Without a multiplier: a lane holds the signed digits of its weight, D0 in the lowest bits, and the product is the sum of the shifted inputs.
template <class Product, class D0, class D1 = no_digit, class D2 = no_digit, class D3 = no_digit>
struct mul_shift : one_by_one<mul_shift<Product, D0, D1, D2, D3> > {
  template <class R, class Code, class X>
  static inline R times(const Code& lane, const X& x) {
#pragma HLS INLINE
    const unsigned code = static_cast<unsigned>(lane);
    const Product a = digit_at<D0, 0>::template times<Product>(code, x);
    const Product b = digit_at<D1, D0::WIDTH>::template times<Product>(code, x);
    const Product c = digit_at<D2, D0::WIDTH + D1::WIDTH>::template times<Product>(code, x);
    const Product d = digit_at<D3, D0::WIDTH + D1::WIDTH + D2::WIDTH>::template times<Product>(code, x);
    return R(Product(Product(a + b) + Product(c + d)));
  }
};

// The lowest BITS bits as a signed number: wires.
template <int BITS, class X>
inline sint<BITS> low_signed(const X& x) {
#pragma HLS INLINE
#ifdef QFX_IN_PLACE
  return sint<BITS>(x);
#else
  return sint<BITS>(sint<64>(uint<64>(x) << (64 - BITS)) >> (64 - BITS));
#endif
}

// Two products of neighbouring outputs, which share their input, in one DSP block (Xilinx WP486, "Deep Learning with INT8 Optimization on Xilinx
// Devices"): (high * 2**SPLIT + low) * x = high * x * 2**SPLIT + low * x. SPLIT bits hold low * x with its sign; if it is negative it has borrowed one
// from high * x, which is given back. Packed holds the weights together, Wide the whole product; the generator has checked both against the block's
// ports. PE is even.
template <class Packed, class Wide, int SPLIT>
struct mul_pair {
  template <int PE, int SIMD, class Lanes, class Row, class T, class Acc>
  static inline void dot(const Row& row, const vec<T, SIMD>& x, Acc (&sum)[PE]) {
#pragma HLS INLINE
  pair_start:
    for (int pe = 0; pe < PE; pe++) {
#pragma HLS UNROLL
      sum[pe] = Acc(0);
    }
  pair_simd:
    for (int s = 0; s < SIMD; s++) {
#pragma HLS UNROLL
    pair_pe:
      for (int pe = 0; pe < PE; pe += 2) {
#pragma HLS UNROLL
        Packed both = shl<Packed>(Lanes::at(row, s * PE + pe + 1), SPLIT);
        both += Lanes::at(row, s * PE + pe);
        const Wide exact = product<Wide>(both, x[s]);
        QFX_MUL_DSP
        const sint<SPLIT> low = low_signed<SPLIT>(exact);
        sum[pe] += Acc(low);
        Acc high(exact >> SPLIT);
        if (low < 0) high += 1;
        sum[pe + 1] += high;
      }
    }
  }
};

}  // namespace qfx

#endif
