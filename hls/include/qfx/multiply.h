// How a matrix-vector unit multiplies. All of these compute the same numbers.
//
// A multiplier M has
//   M::dot<PE, SIMD, Lanes>(row, x, sum)   sum[pe] = the sum over s of weight[s * PE + pe] * x[s], modulo 2**width of the sum's type
// and, unless it packs several products into one, the product of one lane
//   M::times<R>(lane, x)
// Product is the raw type that holds every product of a weight and an input.
//
// A sum is a tree of chains. Multipliers of LUTs have chains of one: a tree of adders. In DSP blocks a chain of lanes is summed in the column, each
// block adding its product to what comes from the one below (P = A * B + PCIN, UG579); the tree joins the chains. Chains are written as
// acc = acc + a * b, which Vitis HLS matches to a block (UG1399, "DSP Multi-Operation Matching") and Vivado HLS too (core DSP48, UG902, with or without
// an adder before or behind). The layer's function keeps the tools from balancing them into trees (EXPRESSION_BALANCE off).
#ifndef QFX_MULTIPLY_H
#define QFX_MULTIPLY_H

#include "qfx/types.h"

// Where the operation behind the variable `exact` is built (BIND_OP: UG1399; RESOURCE: UG902, UG1253). Vitis HLS is told nothing about a product that
// is added to something: BIND_OP would keep it from making one operation of the two (UG1399, "DSP Multi-Operation Matching").
#if defined(__SYNTHESIS__) && defined(__VITIS_HLS__)
#define QFX_MUL_DSP _Pragma("HLS BIND_OP variable=exact op=mul impl=dsp")
#define QFX_MUL_ADD_DSP
#define QFX_MUL_LUT _Pragma("HLS BIND_OP variable=exact op=mul impl=fabric")
#elif defined(__SYNTHESIS__)
#define QFX_MUL_DSP _Pragma("HLS RESOURCE variable=exact core=DSP48")
#define QFX_MUL_ADD_DSP _Pragma("HLS RESOURCE variable=exact core=DSP48")
#define QFX_MUL_LUT _Pragma("HLS RESOURCE variable=exact core=Mul_LUT")
#else
#define QFX_MUL_DSP
#define QFX_MUL_ADD_DSP
#define QFX_MUL_LUT
#endif

namespace qfx {

#ifdef QFX_IN_PLACE
// A sum goes on by a product that has its exact type, or begins with it; of the vendor's integers (VENDOR) in place.
template <bool VENDOR>
struct sum_in_place {
  template <bool BEGINS, class Exact, class Acc, class W, class X>
  static inline void add(Acc& sum, const W& weight, const X& x) {
    Exact exact;
    exact.V = weight.V * x.V;
    if (BEGINS) {
      sum.V = exact.V;
    } else {
      sum.V += exact.V;
    }
  }
};
template <>
struct sum_in_place<false> {
  template <bool BEGINS, class Exact, class Acc, class W, class X>
  static inline void add(Acc& sum, const W& weight, const X& x) {
    if (BEGINS) {
      sum = product<Acc>(weight, x);
    } else {
      sum += product<Acc>(weight, x);
    }
  }
};

template <bool BEGINS, class Exact, class Acc, class W, class X>
inline void add_product(Acc& sum, const W& weight, const X& x) {
  sum_in_place<!is_working<Acc>::value && !is_working<W>::value && !is_working<X>::value>::template add<BEGINS, Exact>(sum, weight, x);
}
#endif

// What sums of COUNT products of numbers of types W and X by the multiplier M are made in: T, or what `working` has of that many bits.
template <class T, class M, class W, class X, int COUNT>
struct working_sum {
  typedef T type;
};

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

// The sums of LANES lanes from lane `first` on: chains of at most M::CHAIN lanes, joined by a tree of adders. The outputs are always the inner loop,
// whose lanes lie side by side.
template <class M, int LANES, bool ONE_CHAIN = (LANES <= M::CHAIN)>
struct summed {
  template <int PE, class Lanes, class Row, class X, class Acc>
  static inline void over(const Row& row, const X& x, const int first, Acc (&sum)[PE]) {
#pragma HLS INLINE
    M::template chain<LANES, PE, Lanes>(row, x, first, sum);
  }
};

template <class M, int LANES>
struct summed<M, LANES, false> {
  static const int LEFT = ((LANES + M::CHAIN - 1) / M::CHAIN + 1) / 2 * M::CHAIN;
  template <int PE, class Lanes, class Row, class X, class Acc>
  static inline void over(const Row& row, const X& x, const int first, Acc (&sum)[PE]) {
#pragma HLS INLINE
    Acc right[PE];
#pragma HLS ARRAY_PARTITION variable=right complete dim=1
    summed<M, LEFT>::template over<PE, Lanes>(row, x, first, sum);
    summed<M, LANES - LEFT>::template over<PE, Lanes>(row, x, first + LEFT, right);
  summed_pe:
    for (int pe = 0; pe < PE; pe++) {
#pragma HLS UNROLL
      sum[pe] += right[pe];
    }
  }
};

template <class M>
struct dot_product {
  template <int PE, int SIMD, class Lanes, class Row, class T, class Acc>
  static inline void dot(const Row& row, const vec<T, SIMD>& x, Acc (&sum)[PE]) {
#pragma HLS INLINE
    summed<M, SIMD>::template over<PE, Lanes>(row, x, 0, sum);
  }
};

// The dot products of multipliers that treat each lane alone.
template <class M>
struct one_by_one : dot_product<M> {
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

#ifdef QFX_NATIVE
  static const int CHAIN = 1 << 20;  // the sums are the same, and a processor is faster without the tree
#else
  static const int CHAIN = 1;
#endif
  template <int LANES, int PE, class Lanes, class Row, class X, class Acc>
  static inline void chain(const Row& row, const X& x, const int first, Acc (&sum)[PE]) {
#pragma HLS INLINE
  chain_first:
    for (int pe = 0; pe < PE; pe++) {
#pragma HLS UNROLL
      M::template add<true>(sum[pe], Lanes::at(row, first * PE + pe), x[first]);
    }
  chain_next:
    for (int s = 1; s < LANES; s++) {
#pragma HLS UNROLL
    chain_next_pe:
      for (int pe = 0; pe < PE; pe++) {
#pragma HLS UNROLL
        M::template add<false>(sum[pe], Lanes::at(row, (first + s) * PE + pe), x[first + s]);
      }
    }
  }
};

// The tool decides.
struct mul_auto : one_by_one<mul_auto> {
#ifdef QFX_IN_PLACE
  template <bool BEGINS, class Acc, class W, class X>
  static inline void add(Acc& sum, const W& weight, const X& x) {
    add_product<BEGINS, Acc>(sum, weight, x);
  }
#endif
  template <class R, class W, class X>
  static inline R times(const W& weight, const X& x) {
#pragma HLS INLINE
    return product<R>(weight, x);
  }
};

// In DSP blocks. CHAIN_ is more than 1 only where a block holds a product and its P register a sum (48 bits).
template <class Product, int CHAIN_ = 1>
struct mul_dsp : one_by_one<mul_dsp<Product, CHAIN_> > {
  static const int CHAIN = CHAIN_;
  template <class R, class W, class X>
  static inline R times(const W& weight, const X& x) {
#pragma HLS INLINE
    const typename working<Product>::type exact = product<typename working<Product>::type>(weight, x);
    QFX_MUL_DSP
    return R(exact);
  }

  template <bool BEGINS, class Acc, class W, class X>
  static inline void add(Acc& sum, const W& weight, const X& x) {
#pragma HLS INLINE
    if (BEGINS) {
      sum = times<Acc>(weight, x);
    } else {
#ifdef QFX_IN_PLACE
      add_product<false, Product>(sum, weight, x);
#else
      const Acc exact(sum + Acc(product<Product>(weight, x)));
      QFX_MUL_ADD_DSP
      sum = exact;
#endif
    }
  }
};

template <class Product>
struct mul_lut : one_by_one<mul_lut<Product> > {
#ifdef QFX_IN_PLACE
  template <bool BEGINS, class Acc, class W, class X>
  static inline void add(Acc& sum, const W& weight, const X& x) {
    add_product<BEGINS, Product>(sum, weight, x);
  }
#endif
  template <class R, class W, class X>
  static inline R times(const W& weight, const X& x) {
#pragma HLS INLINE
    const typename working<Product>::type exact = product<typename working<Product>::type>(weight, x);
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
  typedef typename working<Product, 2>::type exact;  // sums of some digits may be longer
  template <class R, class Code, class X>
  static inline R times(const Code& lane, const X& x) {
#pragma HLS INLINE
    const unsigned code = static_cast<unsigned>(lane);
    const exact a = digit_at<D0, 0>::template times<exact>(code, x);
    const exact b = digit_at<D1, D0::WIDTH>::template times<exact>(code, x);
    const exact c = digit_at<D2, D0::WIDTH + D1::WIDTH>::template times<exact>(code, x);
    const exact d = digit_at<D3, D0::WIDTH + D1::WIDTH + D2::WIDTH>::template times<exact>(code, x);
    return R(exact(exact(a + b) + exact(c + d)));
  }
};

// The lowest BITS bits as a signed number, and as an unsigned one: wires. x has at most 64 bits.
template <int BITS, class X>
inline typename working<sint<BITS> >::type low_signed(const X& x) {
#pragma HLS INLINE
  return typename working<sint<BITS> >::type(static_cast<int64_t>(static_cast<uint64_t>(static_cast<int64_t>(x)) << (64 - BITS)) >> (64 - BITS));
}

template <int BITS, class X>
inline typename working<uint<BITS> >::type low_bits(const X& x) {
#pragma HLS INLINE
  return typename working<uint<BITS> >::type(static_cast<int64_t>(x) & ((int64_t(1) << BITS) - 1));
}

// How a sum is read from SPLIT bits of a packed one. The sum needs KNOWN bits more, which lie under the lowest bits of the next sum; those are found
// apart, from the lowest bits of the factors, and taken away.
template <int SPLIT, int KNOWN>
struct field {
  typedef typename working<sint<SPLIT + KNOWN> >::type type;
  typedef typename working<uint<KNOWN>, KNOWN>::type low;
  template <class W, class X>
  static inline low add(const low& known, const W& weight, const X& x) {
#pragma HLS INLINE
    return low_bits<KNOWN>(known + low(low_bits<KNOWN>(weight) * low_bits<KNOWN>(x)));
  }
  template <class Wide>
  static inline type read(const Wide& here, const low& known) {
#pragma HLS INLINE
    return type(shl<type>(low_signed<KNOWN>(Wide(here >> SPLIT) - Wide(known)), SPLIT) | type(low_bits<SPLIT>(here)));
  }
};

template <int SPLIT>
struct field<SPLIT, 0> {
  typedef typename working<sint<SPLIT> >::type type;
  typedef typename working<uint<1> >::type low;
  template <class W, class X>
  static inline low add(const low& known, const W&, const X&) {
#pragma HLS INLINE
    return known;
  }
  template <class Wide>
  static inline type read(const Wide& here, const low&) {
#pragma HLS INLINE
    return low_signed<SPLIT>(here);
  }
};

// The numbers of COUNT neighbouring ones as one factor, SPLIT bits apart. It is made of their bits below the sign (MAGNITUDE of them), less their signs: a
// subtraction of two numbers that are wires. Where numbers have no sign there is none.
template <int SPLIT, int MAGNITUDE, class Packed>
struct factor {
  typedef typename working<Packed, 1>::type type;
  type below, signs;
  factor() : below(0), signs(0) {}
  inline void add(const int number, const int k) {
#pragma HLS INLINE
    below |= shl<type>(number & ((1 << MAGNITUDE) - 1), k * SPLIT);
    if (number < 0) signs |= shl<type>(1, k * SPLIT + MAGNITUDE);
  }
  inline type all() const {
#pragma HLS INLINE
    return type(below - signs);
  }
};

// The sums of a chain, read from the packed one, the lowest first: COUNT of them, SPLIT bits apart, with KNOWN bits (see field). A sum below zero, or of
// more than SPLIT bits, has carried into the next one, from which that is taken back.
template <int COUNT, int SPLIT, int KNOWN, class Wide>
struct split_sums {
  typedef field<SPLIT, KNOWN> part;
  typename part::type below;
  split_sums() : below(0) {}
  // The k-th; `known`: of the one above.
  template <class Acc>
  inline Acc read(const Wide& total, const int k, const typename part::low& known) {
#pragma HLS INLINE
    const Acc carried(k == 0 ? 0 : int(below >> SPLIT));
    if (k == COUNT - 1) return Acc(Acc(total >> (k * SPLIT)) - carried);
    below = part::read(Wide(total >> (k * SPLIT)), known);
    return Acc(Acc(below) - carried);
  }
};

// Products of COUNT neighbouring outputs, which share their input, in one DSP block (Xilinx WP486, "Deep Learning with INT8 Optimization on Xilinx
// Devices"): the factor is the sum of weight[k] * 2**(k * SPLIT). Chains of such products are summed as they are, in the DSP column, and their sums
// are split once. The generator has proven that SPLIT and KNOWN (see field) suffice for chains of CHAIN_ lanes, and that Packed, which holds the factor,
// fits the block's port; the subtraction that makes it is one that the block's pre-adder does (UG579). MAGNITUDE counts the bits of a weight below its
// sign; Wide holds the packed sum. The last outputs may be fewer than COUNT.
template <int COUNT, int CHAIN_, int SPLIT, int KNOWN, int MAGNITUDE, class Packed, class Wide>
struct mul_packed : dot_product<mul_packed<COUNT, CHAIN_, SPLIT, KNOWN, MAGNITUDE, Packed, Wide> > {
  static const int CHAIN = CHAIN_;
  typedef field<SPLIT, KNOWN> part;
  typedef typename working<Wide>::type wide_t;

  template <int LANES, int PE, class Lanes, class Row, class X, class Acc>
  static inline void chain(const Row& row, const X& x, const int first, Acc (&sum)[PE]) {
#pragma HLS INLINE
  packed_pe:
    for (int pe = 0; pe < PE; pe += COUNT) {
#pragma HLS UNROLL
      wide_t total(0);
    packed_simd:
      for (int s = 0; s < LANES; s++) {
#pragma HLS UNROLL
        factor<SPLIT, MAGNITUDE, Packed> weights;
      packed_weight:
        for (int k = 0; k < COUNT; k++) {
#pragma HLS UNROLL
          if (pe + k < PE) weights.add(static_cast<int>(Lanes::at(row, (first + s) * PE + pe + k)), k);
        }
        const wide_t exact(total + product<wide_t>(weights.all(), x[first + s]));
        QFX_MUL_ADD_DSP
        total = exact;
      }
      split_sums<COUNT, SPLIT, KNOWN, wide_t> found;
    packed_split:
      for (int k = 0; k < COUNT; k++) {
#pragma HLS UNROLL
        if (pe + k < PE) {
          typename part::low known(0);
          if (KNOWN && k + 1 < COUNT && pe + k + 1 < PE) {
          packed_known:
            for (int s = 0; s < LANES; s++) {
#pragma HLS UNROLL
              known = part::add(known, Lanes::at(row, (first + s) * PE + pe + k + 1), x[first + s]);
            }
          }
          sum[pe + k] = found.template read<Acc>(total, k, known);
        }
      }
    }
  }
};

// Products of OUTPUTS neighbouring outputs and PIXELS neighbouring pixels, each with each, in one DSP block (Xilinx WP521, "Convolutional Neural Network
// with INT4 Optimization on Xilinx Devices"): numbers lie SPLIT bits apart in one factor, weights PIXELS times as far in the other, so that the product of
// output j and pixel i is field j * PIXELS + i. Summed and split as above. The block's pre-adder makes the factor of the weights; that of the numbers is
// wires, or a subtraction outside where they have signs (NUMBER bits below them). PIXELS divides the pixels of a turn.
template <int OUTPUTS, int PIXELS, int CHAIN_, int SPLIT, int KNOWN, int MAGNITUDE, int NUMBER, class Packed, class Numbers, class Wide>
struct mul_grid {
  // For ABREAST pixels of SIMD numbers each, which lie side by side; sum[pixel * PE + pe].
  template <int ABREAST, int PE, int SIMD>
  struct over_pixels {
    static const int CHAIN = CHAIN_;
    typedef field<SPLIT, KNOWN> part;
    typedef typename working<Wide>::type wide_t;

    template <int OUT, int IN, class Lanes, class Row, class T, class Acc>
    static inline void dot(const Row& row, const vec<T, IN>& x, Acc (&sum)[OUT]) {
#pragma HLS INLINE
      summed<over_pixels, SIMD>::template over<OUT, Lanes>(row, x, 0, sum);
    }

    template <int LANES, int OUT, class Lanes, class Row, class X, class Acc>
    static inline void chain(const Row& row, const X& x, const int first, Acc (&sum)[OUT]) {
#pragma HLS INLINE
    grid_pixel:
      for (int pixel = 0; pixel < ABREAST; pixel += PIXELS) {
#pragma HLS UNROLL
      grid_pe:
        for (int pe = 0; pe < PE; pe += OUTPUTS) {
#pragma HLS UNROLL
          wide_t total(0);
        grid_simd:
          for (int s = 0; s < LANES; s++) {
#pragma HLS UNROLL
            factor<PIXELS * SPLIT, MAGNITUDE, Packed> weights;
          grid_weight:
            for (int j = 0; j < OUTPUTS; j++) {
#pragma HLS UNROLL
              if (pe + j < PE) weights.add(static_cast<int>(Lanes::at(row, (first + s) * PE + pe + j)), j);
            }
            factor<SPLIT, NUMBER, Numbers> numbers;
          grid_number:
            for (int i = 0; i < PIXELS; i++) {
#pragma HLS UNROLL
              numbers.add(static_cast<int>(x[(pixel + i) * SIMD + first + s]), i);
            }
            const wide_t exact(total + product<wide_t>(weights.all(), numbers.all()));
            QFX_MUL_ADD_DSP
            total = exact;
          }
          split_sums<OUTPUTS * PIXELS, SPLIT, KNOWN, wide_t> found;
        grid_split:
          for (int k = 0; k < OUTPUTS * PIXELS; k++) {
#pragma HLS UNROLL
            if (pe + k / PIXELS < PE) {
              const int output = pe + (k + 1) / PIXELS;  // of the sum above
              typename part::low known(0);
              if (KNOWN && k + 1 < OUTPUTS * PIXELS && output < PE) {
              grid_known:
                for (int s = 0; s < LANES; s++) {
#pragma HLS UNROLL
                  known = part::add(known, Lanes::at(row, (first + s) * PE + output), x[(pixel + (k + 1) % PIXELS) * SIMD + first + s]);
                }
              }
              sum[(pixel + k % PIXELS) * PE + pe + k / PIXELS] = found.template read<Acc>(total, k, known);
            }
          }
        }
      }
    }
  };
};

#ifdef QFX_IN_PLACE
// The bits of a product.
template <class M, class W, class X>
struct product_bits {
  static const int value = signed_bits<W>::value + signed_bits<X>::value;
};
template <class Product, class D0, class D1, class D2, class D3, class W, class X>
struct product_bits<mul_shift<Product, D0, D1, D2, D3>, W, X> {
  static const int value = signed_bits<Product>::value;
};
template <class T, class M, int W, class X, int COUNT>
struct working_sum<T, M, sint<W>, X, COUNT> : holding<T, product_bits<M, sint<W>, X>::value + bits_for<COUNT>::value> {};
template <class T, class M, int W, class X, int COUNT>
struct working_sum<T, M, uint<W>, X, COUNT> : holding<T, product_bits<M, uint<W>, X>::value + bits_for<COUNT>::value> {};
#endif

}  // namespace qfx

#endif
