// Processes of the fast emulator that take and make whole frames, layer at a time. Not synthesized.
//
// Each has the name and the parameters of the process of the template library whose numbers it computes, and is called in its place where the streams are
// qfx_native::frames (hls_stream.h), which are better matches. What has no form here goes word by word. Epilogues, joins and casts are the library's own:
// only the order of the loops differs, and how sums are added up (qfx_dot.h).
#ifndef QFX_NATIVE_QFX_LAYERS_H
#define QFX_NATIVE_QFX_LAYERS_H

#include <cstring>

#include "qfx/beside.h"
#include "qfx/elementwise.h"
#include "qfx/matmul.h"
#include "qfx/matvec.h"
#include "qfx/pool.h"
#include "qfx/sequence.h"
#include "qfx/shape.h"
#include "qfx/width.h"
#include "qfx/window.h"

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

// How many indices a span has.
template <class Span>
struct span_count {
  static const int value = (Span::STOP - Span::START + Span::STEP - 1) / Span::STEP;
};

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

// A row of the window at once where its pixels lie side by side.
template <class S, class T, int P>
void window(qfx_native::frames<vec<T, P> >& in, qfx_native::frames<vec<T, P> >& out, const T& padding, typename memory_word<T, P>::type (&)[S::SIZE]) {
  static const int CHANNELS = S::CHUNKS * P, PART = S::INNER * P;  // numbers of a pixel, and of it as many as a window takes together
  static const bool TOGETHER = S::OUTER == 1 && S::DW == 1;
  static const size_t WORDS = size_t(S::OH) * S::OW * S::OUTER * S::KH * S::KW * S::INNER;
  const T* x = qfx_native::come(in, S::READS);
  T* __restrict to = qfx_native::leave(out, WORDS);
  for (int oy = 0; oy < S::OH; oy++) {
    for (int ox = 0; ox < S::OW; ox++) {
      const int left = ox * S::SW - S::PAD_LEFT;
      for (int outer = 0; outer < S::OUTER; outer++) {
        for (int ky = 0; ky < S::KH; ky++) {
          const int y = oy * S::SH - S::PAD_TOP + ky * S::DH;
          if (y < 0 || y >= S::H) {
            for (int i = 0; i < S::KW * PART; i++) to[i] = padding;
            to += S::KW * PART;
          } else if (TOGETHER && left >= 0 && left + S::KW <= S::W) {
            std::memcpy(to, x + size_t(y * S::W + left) * CHANNELS, S::KW * CHANNELS * sizeof(T));
            to += S::KW * PART;
          } else {
            for (int kx = 0; kx < S::KW; kx++) {
              const int column = left + kx * S::DW;
              if (column < 0 || column >= S::W) {
                for (int i = 0; i < PART; i++) to[i] = padding;
              } else {
                std::memcpy(to, x + size_t(y * S::W + column) * CHANNELS + outer * PART, PART * sizeof(T));
              }
              to += PART;
            }
          }
        }
      }
    }
  }
  in.drop(S::READS);
  out.filled(WORDS);
}

template <class S, int TAP_Y, int TAP_X, class T, int P>
void window_tap(qfx_native::frames<vec<T, P> >& in, qfx_native::frames<vec<T, P> >& out, qfx_native::frames<vec<T, P> >& tap, const T& padding,
                typename memory_word<T, P>::type (&line)[S::SIZE]) {
  static const size_t WORDS = size_t(S::OH) * S::OW * S::CHUNKS, PIXEL = S::CHUNKS * sizeof(vec<T, P>);
  const char* x = in.look(S::READS);
  char* to = tap.room(WORDS);
  for (int oy = 0; oy < S::OH; oy++) {
    for (int ox = 0; ox < S::OW; ox++) {
      const int y = oy * S::SH - S::PAD_TOP + TAP_Y * S::DH, column = ox * S::SW - S::PAD_LEFT + TAP_X * S::DW;  // inside the frame
      std::memcpy(to, x + (size_t(y) * S::W + column) * PIXEL, PIXEL);
      to += PIXEL;
    }
  }
  tap.filled(WORDS);
  window<S>(in, out, padding, line);
}

template <class Epilogue, int PIXELS, int CHANNELS, class T, int P>
void pointwise(qfx_native::frames<vec<T, P> >& in, qfx_native::frames<vec<typename Epilogue::out, P> >& out) {
  static const size_t WORDS = size_t(PIXELS) * (CHANNELS / P);
  const T* __restrict x = qfx_native::come(in, WORDS);
  typename Epilogue::out* __restrict y = qfx_native::leave(out, WORDS);
  for (int pixel = 0; pixel < PIXELS; pixel++) {
    for (int channel = 0; channel < CHANNELS; channel++) y[channel] = Epilogue::apply(x[channel], pixel, channel);
    x += CHANNELS;
    y += CHANNELS;
  }
  in.drop(WORDS);
  out.filled(WORDS);
}

template <class Epilogue, int PIXELS, int CHANNELS, class A, class B, int P>
void binary(qfx_native::frames<vec<A, P> >& a, qfx_native::frames<vec<B, P> >& b, qfx_native::frames<vec<typename Epilogue::out, P> >& out) {
  static const size_t WORDS = size_t(PIXELS) * (CHANNELS / P);
  const A* __restrict left = qfx_native::come(a, WORDS);
  const B* __restrict right = qfx_native::come(b, WORDS);
  typename Epilogue::out* __restrict y = qfx_native::leave(out, WORDS);
  for (int pixel = 0; pixel < PIXELS; pixel++) {
    for (int channel = 0; channel < CHANNELS; channel++) y[channel] = Epilogue::apply(left[channel], right[channel], pixel, channel);
    left += CHANNELS;
    right += CHANNELS;
    y += CHANNELS;
  }
  a.drop(WORDS);
  b.drop(WORDS);
  out.filled(WORDS);
}

template <int WORDS, class T, int P>
void fork(qfx_native::frames<vec<T, P> >& in, qfx_native::frames<vec<T, P> >& out0, qfx_native::frames<vec<T, P> >& out1) {
  const char* x = in.look(WORDS);
  std::memcpy(out0.room(WORDS), x, WORDS * sizeof(vec<T, P>));
  std::memcpy(out1.room(WORDS), x, WORDS * sizeof(vec<T, P>));
  in.drop(WORDS);
  out0.filled(WORDS);
  out1.filled(WORDS);
}

// A frame is the same array in words of any length.
template <int WORDS, int FROM, int TO, class T>
void widen(qfx_native::frames<vec<T, FROM> >& in, qfx_native::frames<vec<T, TO> >& out) {
  std::memcpy(out.room(WORDS), in.look(WORDS * (TO / FROM)), WORDS * sizeof(vec<T, TO>));
  in.drop(WORDS * (TO / FROM));
  out.filled(WORDS);
}

template <int WORDS, int FROM, int TO, class T>
void narrow(qfx_native::frames<vec<T, FROM> >& in, qfx_native::frames<vec<T, TO> >& out) {
  std::memcpy(out.room(WORDS * (FROM / TO)), in.look(WORDS), WORDS * sizeof(vec<T, FROM>));
  in.drop(WORDS);
  out.filled(WORDS * (FROM / TO));
}

template <int WORDS, class T, class R, int P>
void hand_over(qfx_native::frames<vec<T, P> >& in, qfx_native::frames<vec<R, P> >& out) {
  const T* __restrict x = qfx_native::come(in, WORDS);
  R* __restrict y = qfx_native::leave(out, WORDS);
  for (int i = 0; i < WORDS * P; i++) y[i] = R(x[i]);
  in.drop(WORDS);
  out.filled(WORDS);
}

template <class Epilogue, class Joined, int SHIFT_A, int SHIFT_B, int PIXELS, int CHANNELS_A, int CHANNELS_B, class A, class B, int P>
void concat(qfx_native::frames<vec<A, P> >& a, qfx_native::frames<vec<B, P> >& b, qfx_native::frames<vec<typename Epilogue::out, P> >& out) {
  static const size_t WORDS_A = size_t(PIXELS) * (CHANNELS_A / P), WORDS_B = size_t(PIXELS) * (CHANNELS_B / P);
  const A* __restrict first = qfx_native::come(a, WORDS_A);
  const B* __restrict second = qfx_native::come(b, WORDS_B);
  typename Epilogue::out* __restrict y = qfx_native::leave(out, WORDS_A + WORDS_B);
  for (int pixel = 0; pixel < PIXELS; pixel++) {
    for (int i = 0; i < CHANNELS_A; i++) y[i] = Epilogue::apply(shl<Joined>(first[i], SHIFT_A), pixel, i);
    y += CHANNELS_A;
    for (int i = 0; i < CHANNELS_B; i++) y[i] = Epilogue::apply(shl<Joined>(second[i], SHIFT_B), pixel, CHANNELS_A + i);
    y += CHANNELS_B;
    first += CHANNELS_A;
    second += CHANNELS_B;
  }
  a.drop(WORDS_A);
  b.drop(WORDS_B);
  out.filled(WORDS_A + WORDS_B);
}

template <int H, int W, int CHUNKS, int OH, int OW, int OC, int TOP, int LEFT, int FIRST, class T, class R, int P>
void pad(qfx_native::frames<vec<T, P> >& in, qfx_native::frames<vec<R, P> >& out) {
  static const size_t WORDS_IN = size_t(H) * W * CHUNKS, WORDS_OUT = size_t(OH) * OW * OC;
  const T* __restrict x = qfx_native::come(in, WORDS_IN);
  R* __restrict to = qfx_native::leave(out, WORDS_OUT);
  for (size_t i = 0; i < WORDS_OUT * P; i++) to[i] = 0;
  for (int row = 0; row < H; row++) {
    for (int column = 0; column < W; column++) {
      R* __restrict place = to + ((size_t(row + TOP) * OW + column + LEFT) * OC + FIRST) * P;
      for (int i = 0; i < CHUNKS * P; i++) place[i] = R(x[i]);
      x += CHUNKS * P;
    }
  }
  in.drop(WORDS_IN);
  out.filled(WORDS_OUT);
}

// The spans of a slice name the indices that stay.
template <int H, int W, int CHUNKS, class SpanY, class SpanX, class SpanChunk, class T, int P>
void slice(qfx_native::frames<vec<T, P> >& in, qfx_native::frames<vec<T, P> >& out) {
  static const size_t WORDS_IN = size_t(H) * W * CHUNKS, WORDS_OUT = size_t(span_count<SpanY>::value) * span_count<SpanX>::value * span_count<SpanChunk>::value;
  const char* x = in.look(WORDS_IN);
  char* to = out.room(WORDS_OUT);
  for (int y = SpanY::START; y < SpanY::STOP; y += SpanY::STEP) {
    for (int column = SpanX::START; column < SpanX::STOP; column += SpanX::STEP) {
      for (int chunk = SpanChunk::START; chunk < SpanChunk::STOP; chunk += SpanChunk::STEP) {
        std::memcpy(to, x + ((size_t(y) * W + column) * CHUNKS + chunk) * sizeof(vec<T, P>), sizeof(vec<T, P>));
        to += sizeof(vec<T, P>);
      }
    }
  }
  in.drop(WORDS_IN);
  out.filled(WORDS_OUT);
}

template <int H, int W, int CHUNKS, int ROWS, int COLUMNS, class T, int P>
void repeat(qfx_native::frames<vec<T, P> >& in, qfx_native::frames<vec<T, P> >& out, typename memory_word<T, P>::type (&)[W * CHUNKS]) {
  static const size_t WORDS_IN = size_t(H) * W * CHUNKS, PIXEL = CHUNKS * sizeof(vec<T, P>), ROW = W * COLUMNS * PIXEL;
  const char* x = in.look(WORDS_IN);
  char* to = out.room(WORDS_IN * ROWS * COLUMNS);
  for (int y = 0; y < H; y++) {
    char* const row = to;
    for (int column = 0; column < W; column++) {
      for (int i = 0; i < COLUMNS; i++) {
        std::memcpy(to, x, PIXEL);
        to += PIXEL;
      }
      x += PIXEL;
    }
    for (int i = 1; i < ROWS; i++) {
      std::memcpy(to, row, ROW);
      to += ROW;
    }
  }
  in.drop(WORDS_IN);
  out.filled(WORDS_IN * ROWS * COLUMNS);
}

template <class Join, class Epilogue, class Acc, int PIXELS, int CHANNELS, int TAPS, int TOGETHER, class T, int P>
void pool(qfx_native::frames<vec<T, TOGETHER * P> >& in, qfx_native::frames<vec<typename Epilogue::out, P> >& out) {
  static const size_t WORDS_OUT = size_t(PIXELS) * (CHANNELS / P), WORDS_IN = WORDS_OUT * (TAPS / TOGETHER);
  const T* __restrict x = qfx_native::come(in, WORDS_IN);
  typename Epilogue::out* __restrict y = qfx_native::leave(out, WORDS_OUT);
  for (int pixel = 0; pixel < PIXELS; pixel++) {
    for (int channel = 0; channel < CHANNELS; channel += P) {
      Acc acc[P];
      for (int p = 0; p < P; p++) acc[p] = Acc(x[p]);
      for (int tap = 1; tap < TAPS; tap++) {
        for (int p = 0; p < P; p++) acc[p] = Join::join(acc[p], x[tap * P + p]);
      }
      for (int p = 0; p < P; p++) y[p] = Epilogue::apply(acc[p], pixel, channel + p);
      x += TAPS * P;
      y += P;
    }
  }
  in.drop(WORDS_IN);
  out.filled(WORDS_OUT);
}

template <class Join, class Epilogue, class Acc, int PIXELS, int CHANNELS, class T, int P>
void pool_few(qfx_native::frames<vec<T, P> >& in, qfx_native::frames<vec<typename Epilogue::out, P> >& out) {
  static const size_t WORDS_OUT = CHANNELS / P, WORDS_IN = WORDS_OUT * PIXELS;
  const T* __restrict x = qfx_native::come(in, WORDS_IN);
  typename Epilogue::out* __restrict y = qfx_native::leave(out, WORDS_OUT);
  Acc acc[CHANNELS];
  for (int i = 0; i < CHANNELS; i++) acc[i] = Acc(x[i]);
  for (int pixel = 1; pixel < PIXELS; pixel++) {
    x += CHANNELS;
    for (int i = 0; i < CHANNELS; i++) acc[i] = Join::join(acc[i], x[i]);
  }
  for (int i = 0; i < CHANNELS; i++) y[i] = Epilogue::apply(acc[i], 0, i);
  in.drop(WORDS_IN);
  out.filled(WORDS_OUT);
}

template <class Join, class Epilogue, class Acc, int PIXELS, int CHANNELS, class T, int P>
void pool_many(qfx_native::frames<vec<T, P> >& in, qfx_native::frames<vec<typename Epilogue::out, P> >& out,
               typename memory_word<Acc, P>::type (&)[CHANNELS / P]) {
  pool_few<Join, Epilogue, Acc, PIXELS, CHANNELS>(in, out);
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
