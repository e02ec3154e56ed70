// Number types of the template library.
//
// Every value travels as its raw integer. All integer types of the library go through the aliases of this header, and every product, shift and
// conversion goes through its functions, so that the same layer code can run over another integer type. The fast emulator does: it brings headers of
// the vendor's names that define native integers, and defines QFX_NATIVE, which changes product here, cast in pointwise.h and the order of sums in
// multiply.h, nothing else.
#ifndef QFX_TYPES_H
#define QFX_TYPES_H

#include <stdint.h>

#ifndef AP_INT_MAX_W
#define AP_INT_MAX_W 4096  // the widest word of a stream, a port or a memory; the vendor's headers stop at 1,024 bits unless told otherwise (UG1399)
#endif

#include <ap_fixed.h>
#include <ap_int.h>
#include <hls_stream.h>

// Simulations that would rather spend memory than time define QFX_UNPACKED (see rom.h). Those with the vendor's simulation headers then also compute in
// integers of the processor's inside of a matrix-vector unit (`working`), and elsewhere in place: an ap_int is a number V, which the vendor's operators
// between ap_ints copy, widen and then compute with, at several times the cost of the computation. QFX_IN_PLACE code applies the same operators to V itself:
// a product has its exact type still, and a sum is brought into its own.
#if defined(QFX_UNPACKED) && !defined(QFX_NATIVE) && !defined(__SYNTHESIS__)
#define QFX_IN_PLACE
#endif

#ifdef __SYNTHESIS__
#define QFX_TEXT(text) #text
#define QFX_PRAGMA(text) _Pragma(QFX_TEXT(text))
#endif

// A word of several numbers is one FIFO, not one per number. Vitis HLS packs it by itself, Vivado HLS has to be told at the word that is written.
#if defined(__SYNTHESIS__) && !defined(__VITIS_HLS__)
#define QFX_PACK(word) QFX_PRAGMA(HLS DATA_PACK variable = word)
#else
#define QFX_PACK(word)
#endif

// The pipeline of every process: a turn of its loop each cycle. Flushing, so that words in the pipeline move on when the input pauses; a branch that
// rejoins another could wait for itself otherwise. QFX_PIPELINE_FRAMES is for a loop nest that is all of its process: it begins with the next frame while
// the one before is still in the pipeline (rewind: UG1399, "Rewinding Pipelined Loops for Performance").
#if defined(__SYNTHESIS__) && defined(__VITIS_HLS__)
#define QFX_PIPELINE _Pragma("HLS PIPELINE II=1 style=flp")
#define QFX_PIPELINE_FRAMES _Pragma("HLS PIPELINE II=1 rewind style=flp")
#elif defined(__SYNTHESIS__)
// Vivado HLS flushes pipelined functions only, never loops (UG902 and UG1253, PIPELINE, enable_flush). So nothing begins again there before it is done:
// a pipeline that waits for the next frame would keep the end of the last one.
#define QFX_PIPELINE _Pragma("HLS PIPELINE II=1")
#define QFX_PIPELINE_FRAMES _Pragma("HLS PIPELINE II=1")
#else
#define QFX_PIPELINE
#define QFX_PIPELINE_FRAMES
#endif

// The first statement of every pipelined loop. Simulations that count turns define it.
#ifndef QFX_TURN
#define QFX_TURN()
#endif

namespace qfx {

// Signed and unsigned integers of exactly W bits.
template <int W>
using sint = ap_int<W>;
template <int W>
using uint = ap_uint<W>;

// What a process computes with between its streams: the type itself. In simulation, where QFX_IN_PLACE says so, the least signed integer of the processor's
// that holds as many bits, and MORE: the same operators give the same numbers as long as none leaves it. Where there is no such integer, it is the type.
template <class T, int MORE = 0>
struct working {
  typedef T type;
};

// Whether T is an integer of the processor's that stands for one of the library.
template <class T>
struct is_working {
  static const bool value = false;
};

#ifdef QFX_IN_PLACE
template <class T, int BITS, int SIZE = (BITS > 32) + (BITS > 64)>
struct holding {
  typedef T type;
};
template <class T, int BITS>
struct holding<T, BITS, 0> {
  typedef int32_t type;
};
template <class T, int BITS>
struct holding<T, BITS, 1> {
  typedef int64_t type;
};
template <int W, int MORE>
struct working<sint<W>, MORE> : holding<sint<W>, W + MORE> {};
template <int W, int MORE>
struct working<uint<W>, MORE> : holding<uint<W>, W + 1 + MORE> {};
template <>
struct is_working<int32_t> {
  static const bool value = true;
};
template <>
struct is_working<int64_t> {
  static const bool value = true;
};

// The bits of a type as a signed number.
template <class T>
struct signed_bits;
template <int W>
struct signed_bits<sint<W> > {
  static const int value = W;
};
template <int W>
struct signed_bits<uint<W> > {
  static const int value = W + 1;
};
#endif

// The bits that hold 0 .. N, at least one.
template <int N>
struct bits_for {
  static const int value = 1 + bits_for<N / 2>::value;
};
template <>
struct bits_for<1> {
  static const int value = 1;
};
template <>
struct bits_for<0> {
  static const int value = 1;
};

// Counters of 0 .. N and of -N .. N.
template <int N>
struct upto {
  typedef uint<bits_for<N>::value> type;
};
template <int N>
struct within {
  typedef sint<bits_for<N>::value + 1> type;
};

// Tag that names a fixed-point type as the vendor does: W bits, I of them left of the binary point (sign included), modes and N.
template <int W_, int I_, bool SIGNED_, ap_q_mode Q_ = AP_TRN, ap_o_mode O_ = AP_WRAP, int N_ = 0>
struct fixed;

template <int W_, int I_, ap_q_mode Q_, ap_o_mode O_, int N_>
struct fixed<W_, I_, true, Q_, O_, N_> {
  static const int WIDTH = W_;
  static const int FRAC_BITS = W_ - I_;
  static const bool SIGNED = true;
  static const ap_q_mode Q = Q_;
  static const ap_o_mode O = O_;
  static const int N = N_;
  typedef ap_fixed<W_, I_, Q_, O_, N_> vendor;
  typedef sint<W_> raw;
};

template <int W_, int I_, ap_q_mode Q_, ap_o_mode O_, int N_>
struct fixed<W_, I_, false, Q_, O_, N_> {
  static const int WIDTH = W_;
  static const int FRAC_BITS = W_ - I_;
  static const bool SIGNED = false;
  static const ap_q_mode Q = Q_;
  static const ap_o_mode O = O_;
  static const int N = N_;
  typedef ap_ufixed<W_, I_, Q_, O_, N_> vendor;
  typedef uint<W_> raw;
};

// One stream word: P neighbouring channels of one frame. Its numbers are assigned one by one, all at once: a compiler makes a loop of the assignment of an
// array that nobody wrote out.
template <class T, int P>
struct vec {
  T data[P];  // of the lanes
#ifndef QFX_NATIVE
  vec() = default;
  vec(const vec& other) = default;
  vec& operator=(const vec& other) {
#pragma HLS INLINE
  vec_lane:
    for (int p = 0; p < P; p++) {
#pragma HLS UNROLL
      data[p] = other.data[p];
    }
    return *this;
  }
#endif
  T& operator[](int i) { return data[i]; }
  const T& operator[](int i) const { return data[i]; }
};

// x * 2**n in R, which must hold the result (modulo 2**width of R otherwise).
template <class R, class X>
inline R shl(const X& x, const int n) {
#pragma HLS INLINE
#ifdef QFX_IN_PLACE
  R result = static_cast<R>(x);
  result <<= n;
  return result;
#else
  return R(x) << n;
#endif
}

#ifdef QFX_IN_PLACE
// The vendor's simulation headers take half the time for a product in place; integers of the processor's have it themselves.
template <class R, bool WORKING = is_working<R>::value>
struct times {
  template <class A, class B>
  static inline R of(const A& a, const B& b) {
    R result(a);
    result *= b;
    return result;
  }
};
template <class R>
struct times<R, true> {
  template <class A, class B>
  static inline R of(const A& a, const B& b) {
    return R(a) * R(b);
  }
};
#endif

// The exact product in R (modulo 2**width of R).
template <class R, class A, class B>
inline R product(const A& a, const B& b) {
#pragma HLS INLINE
#ifdef QFX_NATIVE
  return R(R(a) * R(b));
#elif defined(QFX_IN_PLACE)
  return times<R>::of(a, b);
#elif defined(__SYNTHESIS__)
  return R(a * b);
#else
  // The same; the vendor's simulation headers take half the time for it.
  R result(a);
  result *= b;
  return result;
#endif
}

// Lane number `lane` of a packed word of LANES-bit-wide raws of type T; a lane never straddles two elements of the word.
template <class T, int WIDTH, int LANES_PER_ELEMENT, class Element, int ELEMENTS>
inline T lane(const Element (&word)[ELEMENTS], const int index) {
#pragma HLS INLINE
  return T(word[index / LANES_PER_ELEMENT] >> ((index % LANES_PER_ELEMENT) * WIDTH));
}

}  // namespace qfx

#endif
