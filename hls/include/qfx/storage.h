// What FIFOs and memories are built of, and what a word of a memory is. The code generator decides (qfx/hardware/design/storage.py); without a binding the
// tool does. Memories belong to the layers' functions, which hand them to the templates: those are inlined, and the tools ignore what a pragma in an
// inlined function says of its parameters (UG1399, "pragma HLS inline").
#ifndef QFX_STORAGE_H
#define QFX_STORAGE_H

#include "qfx/types.h"

// Binds the variable `name` to a KIND of memory (FIFO; ROM_1P, ROM_NP: constants with one or any number of reads a cycle; RAM_S2P: a write and a read
// port) made of IMPL (SRL, LUTRAM, BRAM, URAM): BIND_STORAGE of UG1399; for Vivado HLS RESOURCE, whose cores are called KIND_IMPL (UG902).
#if defined(__SYNTHESIS__) && defined(__VITIS_HLS__)
#define QFX_BIND(name, KIND, IMPL) QFX_PRAGMA(HLS BIND_STORAGE variable = name type = KIND impl = IMPL)
#elif defined(__SYNTHESIS__)
#define QFX_BIND(name, KIND, IMPL) QFX_PRAGMA(HLS RESOURCE variable = name core = KIND##_##IMPL)
#else
#define QFX_BIND(name, KIND, IMPL)
#endif

namespace qfx {

// A word of a memory: P numbers that come and go together. In hardware it is one number of all their bits, which a store writes whole: nothing has to be
// merged (finn-hlslib's line buffers are such words). Simulation keeps the numbers apart, which takes less time; QFX_EXACT_ROM gives it the hardware's.
#if defined(__SYNTHESIS__) || defined(QFX_EXACT_ROM)
template <class T>
struct bits_of;
template <int W>
struct bits_of<ap_int<W> > {
  static const int value = W;
};
template <int W>
struct bits_of<ap_uint<W> > {
  static const int value = W;
};

template <class T, int P>
struct memory_word {
  static const int WIDTH = bits_of<T>::value;
  typedef uint<P * WIDTH> type;

  static inline T at(const type& word, const int p) {
#pragma HLS INLINE
    return T(uint<WIDTH>(word >> (p * WIDTH)));
  }

  template <class R>
  static inline type of(const vec<R, P>& numbers) {
#pragma HLS INLINE
    type word = 0;
  memory_word_lane:
    for (int p = 0; p < P; p++) {
#pragma HLS UNROLL
      word.range(p * WIDTH + WIDTH - 1, p * WIDTH) = uint<WIDTH>(T(numbers[p]));
    }
    return word;
  }

  static inline vec<T, P> numbers(const type& word) {
#pragma HLS INLINE
    vec<T, P> result;
    QFX_PACK(result)
  memory_word_number:
    for (int p = 0; p < P; p++) {
#pragma HLS UNROLL
      result[p] = at(word, p);
    }
    return result;
  }
};
#else
template <class T, int P>
struct memory_word {
  typedef vec<T, P> type;
  static inline const T& at(const type& word, const int p) { return word[p]; }
  static inline const type& numbers(const type& word) { return word; }
  static inline const type& of(const type& numbers) { return numbers; }
  template <class R>
  static inline type of(const vec<R, P>& numbers) {
    type word;
  memory_word_lane:
    for (int p = 0; p < P; p++) word[p] = T(numbers[p]);
    return word;
  }
};
#endif

}  // namespace qfx

#endif
