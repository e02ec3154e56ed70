// Convolutions, linear and depthwise layers and products of matrices of the fast emulator, whole frames at once (qfx_layers.h). Not synthesized.
#ifndef QFX_NATIVE_QFX_PRODUCTS_H
#define QFX_NATIVE_QFX_PRODUCTS_H

#include <cstring>

#include "qfx/beside.h"
#include "qfx/matmul.h"
#include "qfx/matvec.h"

#include "qfx_dot.h"

namespace qfx_native {

template <class T, int P>
inline const T* come(const frames<qfx::vec<T, P> >& in, const size_t words) {
  return reinterpret_cast<const T*>(in.look(words));
}
template <class T, int P>
inline T* leave(frames<qfx::vec<T, P> >& out, const size_t words) {
  return reinterpret_cast<T*>(out.room(words));
}

// The frame of a second stream (qfx/beside.h), or none: what leaves of number `place` of the result.
template <class Beside>
struct beside_frame {
  beside_frame(Beside&, const size_t) {}
  template <class Epilogue, class X>
  inline typename Epilogue::out apply(const X& x, const size_t, const int pixel, const int channel) const {
    return Epilogue::apply(x, pixel, channel);
  }
  void done() {}
};
template <class B, int P>
struct beside_frame<frames<qfx::vec<B, P> > > {
  frames<qfx::vec<B, P> >& of;
  const size_t words;
  const B* __restrict numbers;
  beside_frame(frames<qfx::vec<B, P> >& in, const size_t count) : of(in), words(count), numbers(come(in, count)) {}
  template <class Epilogue, class X>
  inline typename Epilogue::out apply(const X& x, const size_t place, const int pixel, const int channel) const {
    return Epilogue::apply(x, numbers[place], pixel, channel);
  }
  void done() { of.drop(words); }
};

// The second stream as processes that go word by word take it.
template <class Word>
inline hls::stream<Word>& by_words_beside(frames<Word>& in) {
  return in;
}
inline qfx::nothing_beside& by_words_beside(qfx::nothing_beside& none) { return none; }

// The weights of a matrix-vector unit, laid out once for registers: those of a group are blocks of LANES sums, each a register a step; sums and steps that
// there are not have zeros. `first` is what a sum begins with: what numbers that are greater by OFFSET add to it is taken away.
template <class S, class Way, int ROWS>
struct weight_table {
  static const int PER_GROUP = S::OUTPUT_FOLD * S::INPUT_FOLD;
  static const int GROUPS = ROWS % PER_GROUP == 0 ? ROWS / PER_GROUP : S::GROUPS;
  static const int STEPS = (S::INPUTS + Way::PER - 1) / Way::PER;
  static const int SUMS = (S::OUTPUTS + Way::LANES - 1) / Way::LANES * Way::LANES;
  static const size_t NUMBERS = size_t(SUMS) * STEPS * Way::PER;
  typedef typename Way::w w;
  typedef typename Way::sum sum;

  const void* of;
  w* weights;
  sum* first;

  template <class Element, int ELEMENTS>
  void lay_out(const Element (&rom)[ROWS][ELEMENTS]) {
    of = static_cast<const void*>(&rom);
    size_t bytes = GROUPS * NUMBERS * sizeof(w), first_bytes = size_t(GROUPS) * SUMS * sizeof(sum);
    if (!weights) weights = reinterpret_cast<w*>(memory::take(bytes));
    if (!first) first = reinterpret_cast<sum*>(memory::take(first_bytes));
    std::memset(weights, 0, GROUPS * NUMBERS * sizeof(w));
    std::memset(first, 0, size_t(GROUPS) * SUMS * sizeof(sum));
    for (int group = 0; group < GROUPS; group++) {
      for (int output = 0; output < S::OUTPUTS; output++) {
        w* block = weights + group * NUMBERS + size_t(output / Way::LANES) * STEPS * Way::LANES * Way::PER;
        sum total = 0;
        for (int input = 0; input < S::INPUTS; input++) {
          const int row = (group * PER_GROUP + output / S::PE * S::INPUT_FOLD + input / S::SIMD) % ROWS;
          const int64_t weight = static_cast<int64_t>(qfx::unpacked_lane<typename S::packed>(rom[row], input % S::SIMD * S::PE + output % S::PE));
          block[(input / Way::PER * Way::LANES + output % Way::LANES) * Way::PER + input % Way::PER] = static_cast<w>(weight);
          total += static_cast<sum>(weight);
        }
        first[group * SUMS + output] = total * -Way::OFFSET;
      }
    }
  }
};

// Rows of numbers as a way takes them: where they lie, or as a copy.
template <class Way, class T, bool AS_THEY_ARE>
struct rows_for {
  static inline const char* of(const T* x, const size_t, const int, const int, char*, size_t& stride, const int) {
    stride *= sizeof(T);
    return reinterpret_cast<const char*>(x);
  }
};
template <class Way, class T>
struct rows_for<Way, T, false> {
  static inline const char* of(const T* x, const size_t apart, const int count, const int inputs, char* copy, size_t& stride, const int steps) {
    typedef typename Way::x number;
    const int length = steps * Way::PER;
    for (int row = 0; row < count; row++) {
      const T* __restrict from = x + row * apart;
      number* __restrict to = reinterpret_cast<number*>(copy) + size_t(row) * length;
      for (int i = 0; i < inputs; i++) to[i] = static_cast<number>(from[i] + Way::OFFSET);
      for (int i = inputs; i < length; i++) to[i] = 0;
    }
    stride = length * sizeof(number);
    return copy;
  }
};

// Whether a way takes a type's numbers where they lie.
template <class Way, class T>
struct as_they_are {
  static const bool value = sizeof(T) == sizeof(typename Way::x) && Way::OFFSET == 0 && (T(-1) < T(0)) == (typename Way::x(-1) < typename Way::x(0));
};

template <class S, class Epilogue, class T>
struct matvec_whole {
  typedef qfx::vec<T, S::SIMD> word_in;
  typedef qfx::vec<typename Epilogue::out, S::PE> word_out;
  typedef typename S::acc acc_t;
  typedef typename way_for<static_cast<int>(sizeof(T)) * 8, (T(-1) < T(0)), S::packed::WIDTH, S::packed::SIGNED, acc_t>::type way;
  static const int AT_ONCE = QFX_VECTOR_BYTES == 64 ? 8 : 4;

  template <class Beside, class Element, int ROWS, int ELEMENTS>
  static void run(frames<word_in>& in, Beside& beside, frames<word_out>& out, const Element (&rom)[ROWS][ELEMENTS]) {
    typedef weight_table<S, way, ROWS> table_type;
    static thread_local table_type table;
    if (table.of != static_cast<const void*>(&rom)) table.lay_out(rom);
    const size_t words_in = size_t(S::PIXELS) * S::GROUPS * S::INPUT_FOLD, words_out = size_t(S::PIXELS) * S::GROUPS * S::OUTPUT_FOLD;
    const T* x = come(in, words_in);
    beside_frame<Beside> others(beside, words_out);
    typename Epilogue::out* y = leave(out, words_out);
    size_t size = size_t(AT_ONCE) * (table_type::STEPS * way::PER * sizeof(typename way::x) + table_type::SUMS * sizeof(typename way::sum));
    const size_t sums_size = size_t(AT_ONCE) * table_type::SUMS * sizeof(typename way::sum);
    char* const scratch = memory::take(size);
    typename way::sum* const sums = reinterpret_cast<typename way::sum*>(scratch);
    char* const copy = scratch + sums_size;
    for (int group = 0; group < S::GROUPS; group++) {
      const int stored = group % table_type::GROUPS;
      const typename way::w* weights = table.weights + stored * table_type::NUMBERS;
      const typename way::sum* first = table.first + size_t(stored) * table_type::SUMS;
      int pixel = 0;
      for (; pixel + AT_ONCE <= S::PIXELS; pixel += AT_ONCE) {
        some<table_type, AT_ONCE, 2>(x, others, y, pixel, group, weights, first, sums, copy);
      }
      for (; pixel < S::PIXELS; pixel++) some<table_type, 1, 4>(x, others, y, pixel, group, weights, first, sums, copy);
    }
    memory::give_back(scratch, size);
    in.drop(words_in);
    others.done();
    out.filled(words_out);
  }

  // COUNT pixels of a group.
  template <class Table, int COUNT, int BLOCKS, class Others>
  static inline void some(const T* x, const Others& others, typename Epilogue::out* y, const int pixel, const int group, const typename way::w* weights,
                          const typename way::sum* first, typename way::sum* sums, char* copy) {
    const size_t apart = size_t(S::GROUPS) * S::INPUTS;
    size_t stride = apart;
    const T* begin = x + (size_t(pixel) * S::GROUPS + group) * S::INPUTS;
    const char* rows = rows_for<way, T, as_they_are<way, T>::value>::of(begin, apart, COUNT, S::INPUTS, copy, stride, Table::STEPS);
    add_blocks<way, COUNT, BLOCKS>(rows, stride, weights, Table::STEPS, first, sums, Table::SUMS);
    for (int i = 0; i < COUNT; i++) {
      const typename way::sum* __restrict sum = sums + i * Table::SUMS;
      const size_t place = (size_t(pixel + i) * S::GROUPS + group) * S::OUTPUTS;
      typename Epilogue::out* __restrict to = y + place;
      for (int output = 0; output < S::OUTPUTS; output++) {
        to[output] = others.template apply<Epilogue>(static_cast<acc_t>(sum[output]), place + output, pixel + i, group * S::OUTPUTS + output);
      }
    }
  }
};

// Multipliers that read something else than weights, weights of some inputs alone, and sums of more than 64 bits go word by word.
template <bool WHOLE>
struct matvec_form {
  template <class S, class Epilogue, class T, class Beside, class Element, int ROWS, int ELEMENTS>
  static inline void run(frames<qfx::vec<T, S::SIMD> >& in, Beside& beside, frames<qfx::vec<typename Epilogue::out, S::PE> >& out,
                         const Element (&rom)[ROWS][ELEMENTS], T (&)[S::INPUT_FOLD][S::SIMD]) {
    matvec_whole<S, Epilogue, T>::run(in, beside, out, rom);
  }
};
template <>
struct matvec_form<false> {
  template <class S, class Epilogue, class T, class Beside, class Element, int ROWS, int ELEMENTS>
  static inline void run(hls::stream<qfx::vec<T, S::SIMD> >& in, Beside& beside, hls::stream<qfx::vec<typename Epilogue::out, S::PE> >& out,
                         const Element (&rom)[ROWS][ELEMENTS], T (&kept)[S::INPUT_FOLD][S::SIMD]) {
    qfx::matvec_with<S, Epilogue>(in, by_words_beside(beside), out, rom, kept);
  }
};

// Lane by lane the products of TAPS weights and numbers. A function of its own, or g++ mixes up its loops with those around them.
template <int LANES, class Acc, class W, class T>
__attribute__((noinline)) void add_lanes(Acc* __restrict acc, const W* __restrict weights, const T* __restrict x, const int taps) {
  for (int tap = 0; tap < taps; tap++) {
    for (int lane = 0; lane < LANES; lane++) acc[lane] += qfx::product<Acc>(weights[tap * LANES + lane], x[tap * LANES + lane]);
  }
}

template <bool WHOLE>
struct depthwise_form {
  template <class S, class Epilogue, class T, class Beside, class Element, int ROWS, int ELEMENTS>
  static inline void run(frames<qfx::vec<T, S::PE * S::SIMD> >& in, Beside& beside, frames<qfx::vec<typename Epilogue::out, S::PE> >& out,
                         const Element (&rom)[ROWS][ELEMENTS]) {
    typedef typename S::acc acc_t;
    static const int CHUNKS = S::GROUPS / S::PE;
    static const size_t WORDS_IN = size_t(S::PIXELS) * CHUNKS * S::INPUT_FOLD, WORDS_OUT = size_t(S::PIXELS) * CHUNKS;
    typedef typename S::packed::type weight;
    const weight(&table)[ROWS][S::PE * S::SIMD] = qfx::unpack<Epilogue, S::PE * S::SIMD, typename S::packed>(rom);
    const T* __restrict x = come(in, WORDS_IN);
    beside_frame<Beside> others(beside, WORDS_OUT);
    typename Epilogue::out* __restrict y = leave(out, WORDS_OUT);
    size_t place = 0;
    int row = 0;
    for (int pixel = 0; pixel < S::PIXELS; pixel++) {
      for (int chunk = 0; chunk < CHUNKS; chunk++) {
        acc_t acc[S::PE];
        for (int pe = 0; pe < S::PE; pe++) acc[pe] = 0;
        row = row == ROWS ? 0 : row;
        add_lanes<S::PE>(acc, &table[row][0], x, S::INPUTS);
        row += S::INPUT_FOLD;
        x += S::INPUTS * S::PE;
        for (int pe = 0; pe < S::PE; pe++) y[place + pe] = others.template apply<Epilogue>(acc[pe], place + pe, pixel, chunk * S::PE + pe);
        place += S::PE;
      }
    }
    in.drop(WORDS_IN);
    others.done();
    out.filled(WORDS_OUT);
  }
};
template <>
struct depthwise_form<false> {
  template <class S, class Epilogue, class T, class Beside, class Element, int ROWS, int ELEMENTS>
  static inline void run(hls::stream<qfx::vec<T, S::PE * S::SIMD> >& in, Beside& beside, hls::stream<qfx::vec<typename Epilogue::out, S::PE> >& out,
                         const Element (&rom)[ROWS][ELEMENTS]) {
    qfx::depthwise_with<S, Epilogue>(in, by_words_beside(beside), out, rom);
  }
};

template <class Multiplier>
struct is_plain {
  static const bool value = false;
};
template <>
struct is_plain<qfx::mul_auto> {
  static const bool value = true;
};

}  // namespace qfx_native

namespace qfx {

template <class S, class Epilogue, class T, class Element, int ROWS, int ELEMENTS>
void matvec(qfx_native::frames<vec<T, S::SIMD> >& in, qfx_native::frames<vec<typename Epilogue::out, S::PE> >& out, const Element (&weights)[ROWS][ELEMENTS],
            T (&kept)[S::INPUT_FOLD][S::SIMD]) {
  typedef qfx_native::matvec_form<qfx_native::is_plain<typename S::multiplier>::value && sizeof(typename S::acc) <= 8 && S::LANES == S::PE * S::SIMD> form;
  nothing_beside none;
  form::template run<S, Epilogue, T>(in, none, out, weights, kept);
}

template <class S, class Epilogue, class T, class B, class Element, int ROWS, int ELEMENTS>
void matvec_with(qfx_native::frames<vec<T, S::SIMD> >& in, qfx_native::frames<vec<B, S::PE> >& beside,
            qfx_native::frames<vec<typename Epilogue::out, S::PE> >& out, const Element (&weights)[ROWS][ELEMENTS], T (&kept)[S::INPUT_FOLD][S::SIMD]) {
  typedef qfx_native::matvec_form<qfx_native::is_plain<typename S::multiplier>::value && sizeof(typename S::acc) <= 8 && S::LANES == S::PE * S::SIMD> form;
  form::template run<S, Epilogue, T>(in, beside, out, weights, kept);
}

template <class S, class Epilogue, class T, class Element, int ROWS, int ELEMENTS>
void depthwise(qfx_native::frames<vec<T, S::PE * S::SIMD> >& in, qfx_native::frames<vec<typename Epilogue::out, S::PE> >& out,
               const Element (&weights)[ROWS][ELEMENTS]) {
  typedef qfx_native::depthwise_form<qfx_native::is_plain<typename S::multiplier>::value> form;
  nothing_beside none;
  form::template run<S, Epilogue, T>(in, none, out, weights);
}

template <class S, class Epilogue, class T, class B, class Element, int ROWS, int ELEMENTS>
void depthwise_with(qfx_native::frames<vec<T, S::PE * S::SIMD> >& in, qfx_native::frames<vec<B, S::PE> >& beside,
               qfx_native::frames<vec<typename Epilogue::out, S::PE> >& out, const Element (&weights)[ROWS][ELEMENTS]) {
  typedef qfx_native::depthwise_form<qfx_native::is_plain<typename S::multiplier>::value> form;
  form::template run<S, Epilogue, T>(in, beside, out, weights);
}

// Both matrices lie there term by term: b column by column, a row by row.
template <class S, class Epilogue, class A, class B>
void matmul(qfx_native::frames<vec<A, S::SIMD> >& a, qfx_native::frames<vec<B, S::SIMD> >& b,
            qfx_native::frames<vec<typename Epilogue::out, S::PE> >& out, B (&)[S::FOLD][S::SIMD * S::PE], A (&)[S::INPUT_FOLD][S::SIMD]) {
  typedef typename S::acc acc_t;
  static const size_t WORDS_A = size_t(S::MATRICES) * S::ROWS * S::INPUT_FOLD, WORDS_B = size_t(S::MATRICES) * S::OUTPUTS * S::INPUT_FOLD;
  static const size_t WORDS_OUT = size_t(S::MATRICES) * S::ROWS * S::OUTPUT_FOLD;
  const A* __restrict row = qfx_native::come(a, WORDS_A);
  const B* __restrict matrix = qfx_native::come(b, WORDS_B);
  typename Epilogue::out* __restrict y = qfx_native::leave(out, WORDS_OUT);
  for (int index = 0; index < S::MATRICES; index++) {
    for (int i = 0; i < S::ROWS; i++) {
      for (int output = 0; output < S::OUTPUTS; output++) {
        const B* __restrict column = matrix + size_t(output) * S::INPUTS;
        acc_t sum = 0;
        for (int k = 0; k < S::INPUTS; k++) sum += product<acc_t>(column[k], row[k]);
        *y++ = Epilogue::apply(sum, index * S::ROWS + i, output);
      }
      row += S::INPUTS;
    }
    matrix += size_t(S::OUTPUTS) * S::INPUTS;
  }
  a.drop(WORDS_A);
  b.drop(WORDS_B);
  out.filled(WORDS_OUT);
}

}  // namespace qfx

#endif
