// Matrix-vector units: the arithmetic of convolutions and linear layers, folded by PE (outputs in parallel) and SIMD (inputs in parallel).
//
// An Epilogue is a generated struct with
//   typedef ... out;                                                  the raw type that leaves
//   static out apply(const Acc& acc, int pixel, int channel);         bias and the pointwise operators that follow
// or, with a second stream (beside.h), apply(acc, beside, pixel, channel).
// The accumulator has the width of the exact result. Sums in between may pass its bounds and come back: they are exact modulo 2**width.
#ifndef QFX_MATVEC_H
#define QFX_MATVEC_H

#include "qfx/abreast.h"
#include "qfx/beside.h"
#include "qfx/multiply.h"
#include "qfx/rom.h"
#include "qfx/types.h"

namespace qfx {

// The accumulator of a sum that wraps, as wide as the cast behind it looks at; simulations that count what that loses keep the sum whole.
template <class Narrow, class Wide>
struct wrapping {
#ifdef QFX_REPORT
  typedef Wide raw;
#else
  typedef Narrow raw;
#endif
};

// Whether output `channel` of window `pixel` lies outside of the result of a transposed convolution, whose windows give ROWS x COLUMNS pixels of CHANNELS
// numbers each, GROUPS windows side by side: what qfx::interleave leaves out. Simulations that count casts ask.
template <int GROUPS, int CHANNELS, int ROWS, int COLUMNS, int TOP, int H, int LEFT, int W>
inline bool cropped(const int pixel, const int channel) {
  const int y = pixel / GROUPS * ROWS + channel / CHANNELS / COLUMNS - TOP, x = pixel % GROUPS * COLUMNS + channel / CHANNELS % COLUMNS - LEFT;
  return y < 0 || y >= H || x < 0 || x >= W;
}

// For each pixel and group, OUTPUTS dot products of INPUTS numbers. The INPUTS words of a pixel and group arrive once and are kept for the further
// outputs. Row (group * OUTPUTS + first output) / PE * (INPUTS / SIMD) + (first input / SIMD) of `weights` holds SIMD * PE raws, the PEs innermost, as
// Packed (see rom.h) says; behind the last row the first comes again, so that weights that groups share are there once. The elements of a row are read
// at once: the function that calls says how (ARRAY_RESHAPE or ARRAY_PARTITION). `kept` belongs to it too, a memory for each number of a word. Multiplier is
// one of multiply.h's, Sum the type of the products of a turn together. The sums of the turns are added in Total, which has more bits than Sum: a compiler
// that saw additions of one width alone could turn them into a chain that begins at the accumulator, and only one of them may lie between a turn and the
// next. Acc is as much of it as the epilogue takes. ABREAST pixels are worked on at once: their words lie side by side in those that come, and what leaves of
// each in those that leave. PACKS: what multipliers pack into a product. Inputs says which of a turn's inputs meet a
// weight: every_input or few_inputs (abreast.h), of which a row has fewer lanes.
template <int PIXELS_, int GROUPS_, int OUTPUTS_, int INPUTS_, int PE_, int SIMD_, class Packed_, class Acc_, class Multiplier_ = mul_auto,
          class Sum_ = Acc_, class Total_ = Acc_, int ABREAST_ = 1, packs PACKS_ = along_outputs, class Inputs_ = every_input>
struct matvec_shape {
  static const int PIXELS = PIXELS_;
  static const int GROUPS = GROUPS_;
  static const int OUTPUTS = OUTPUTS_;
  static const int INPUTS = INPUTS_;
  static const int PE = PE_;
  static const int SIMD = SIMD_;
  static const int OUTPUT_FOLD = OUTPUTS_ / PE_;
  static const int INPUT_FOLD = INPUTS_ / SIMD_;
  static const int ABREAST = ABREAST_;
  static const packs PACKS = PACKS_;
  static const int BLOCKS = PIXELS_ / ABREAST_;
  static const int LANES = PE_ * Inputs_::template lanes<SIMD_>::value;
  static const int IN = ABREAST_ * SIMD_;   // numbers that come in a turn; of a depthwise unit PE times as many
  static const int OUT = ABREAST_ * PE_;    // sums of a turn
  typedef Inputs_ inputs;
  typedef Packed_ packed;
  typedef Acc_ acc;
  typedef Multiplier_ multiplier;
  typedef Sum_ sum;
  typedef Total_ total;
};

// The types of the sums of a turn and of all turns.
template <class S, class T>
struct matvec_sums {
  typedef typename S::packed::type weight;
  typedef typename S::inputs::template total<typename S::sum, typename S::multiplier, weight, T, S::SIMD>::type turn;
  typedef typename S::inputs::template total<typename S::total, typename S::multiplier, weight, T, S::INPUTS>::type all;
};

template <class S, class Epilogue, class Lanes, bool TWO, class T, class Beside, class Element, int FIRST, int REST, int ELEMENTS>
void matvec_rows(hls::stream<vec<T, S::IN> >& in, Beside& beside, hls::stream<vec<typename Epilogue::out, S::OUT> >& out,
                 const Element (&weights)[FIRST][ELEMENTS], const Element (&rest)[REST][ELEMENTS], T (&kept)[S::INPUT_FOLD][S::IN]) {
#pragma HLS INLINE
  static const int ROWS = FIRST + (TWO ? REST : 0);
  typedef typename upto<ROWS - 1>::type row_t;
  typedef typename matvec_sums<S, T>::all total_t;
  typedef typename S::inputs::template number<T>::type number_t;
  typedef typename S::inputs::template number<typename S::packed::type>::type weight_t;
  total_t acc[S::OUT];
#pragma HLS ARRAY_PARTITION variable=acc complete dim=1
  row_t row = 0;

matvec_pixel:
  for (int pixel = 0; pixel < S::BLOCKS; pixel++) {
  matvec_group:
    for (int group = 0; group < S::GROUPS; group++) {
    matvec_output:
      for (int output = 0; output < S::OUTPUT_FOLD; output++) {
      matvec_input:
        for (int input = 0; input < S::INPUT_FOLD; input++) {
          QFX_PIPELINE_FRAMES
          QFX_TURN();
          vec<number_t, S::IN> word;
          if (output == 0) {
            const vec<T, S::IN> came = in.read();
          matvec_keep:
            for (int s = 0; s < S::IN; s++) {
#pragma HLS UNROLL
              kept[input][s] = came[s];
              word[s] = number_t(came[s]);
            }
          } else {
          matvec_recall:
            for (int s = 0; s < S::IN; s++) {
#pragma HLS UNROLL
              word[s] = number_t(kept[input][s]);
            }
          }
          typename beside_word<Beside>::type other;
          take_beside(beside, other, input == S::INPUT_FOLD - 1);
          typename matvec_sums<S, T>::turn sum[S::OUT];
#pragma HLS ARRAY_PARTITION variable=sum complete dim=1
          S::inputs::template sums<S::ABREAST, S::PACKS>::template products<TWO, typename S::multiplier, weight_t, S::PE, S::SIMD, Lanes>(
              weights, rest, int(row), word, sum);
        matvec_lane:
          for (int lane = 0; lane < S::OUT; lane++) {
#pragma HLS UNROLL
            go_on(acc[lane], total_t(sum[lane]), input == 0);
          }
          row = row == ROWS - 1 ? row_t(0) : row_t(row + 1);
          if (input == S::INPUT_FOLD - 1) {
            vec<typename Epilogue::out, S::OUT> result;
            QFX_PACK(result)
          matvec_epilogue:
            for (int lane = 0; lane < S::OUT; lane++) {
#pragma HLS UNROLL
              result[lane] = leave_beside<Epilogue>(typename S::acc(acc[lane]), other, lane, pixel * S::ABREAST + lane / S::PE,
                                                    group * S::OUTPUTS + output * S::PE + lane % S::PE);
            }
            out.write(result);
          }
        }
      }
    }
  }
}

template <class S, class Epilogue, class T, class Beside, class Element, int ROWS, int ELEMENTS>
void matvec_with(hls::stream<vec<T, S::IN> >& in, Beside& beside, hls::stream<vec<typename Epilogue::out, S::OUT> >& out,
                 const Element (&weights)[ROWS][ELEMENTS], T (&kept)[S::INPUT_FOLD][S::IN]) {
#pragma HLS INLINE
#ifdef QFX_UNPACKED
  const typename working<typename S::packed::type>::type(&rows)[ROWS][S::LANES] = unpack<Epilogue, S::LANES, typename S::packed>(weights);
  matvec_rows<S, Epilogue, unpacked_lanes, false>(in, beside, out, rows, rows, kept);
#else
  matvec_rows<S, Epilogue, typename S::packed, false>(in, beside, out, weights, weights, kept);
#endif
}

template <class S, class Epilogue, class T, class Element, int ROWS, int ELEMENTS>
void matvec(hls::stream<vec<T, S::IN> >& in, hls::stream<vec<typename Epilogue::out, S::OUT> >& out, const Element (&weights)[ROWS][ELEMENTS],
            T (&kept)[S::INPUT_FOLD][S::IN]) {
#pragma HLS INLINE
  nothing_beside none;
  matvec_with<S, Epilogue>(in, none, out, weights, kept);
}

// The same with the last rows in a memory of their own.
template <class S, class Epilogue, class T, class Beside, class Element, int FIRST, int REST, int ELEMENTS>
void matvec_with(hls::stream<vec<T, S::IN> >& in, Beside& beside, hls::stream<vec<typename Epilogue::out, S::OUT> >& out,
                 const Element (&weights)[FIRST][ELEMENTS], const Element (&rest)[REST][ELEMENTS], T (&kept)[S::INPUT_FOLD][S::IN]) {
#pragma HLS INLINE
#ifdef QFX_UNPACKED
  const typename working<typename S::packed::type>::type(&rows)[FIRST + REST][S::LANES] = unpack<Epilogue, S::LANES, typename S::packed, true>(weights, rest);
  matvec_rows<S, Epilogue, unpacked_lanes, false>(in, beside, out, rows, rows, kept);
#else
  matvec_rows<S, Epilogue, typename S::packed, true>(in, beside, out, weights, rest, kept);
#endif
}

template <class S, class Epilogue, class T, class Element, int FIRST, int REST, int ELEMENTS>
void matvec(hls::stream<vec<T, S::IN> >& in, hls::stream<vec<typename Epilogue::out, S::OUT> >& out, const Element (&weights)[FIRST][ELEMENTS],
            const Element (&rest)[REST][ELEMENTS], T (&kept)[S::INPUT_FOLD][S::IN]) {
#pragma HLS INLINE
  nothing_beside none;
  matvec_with<S, Epilogue>(in, none, out, weights, rest, kept);
}

// Depthwise: one dot product of INPUTS taps for each pixel and channel, PE channels and SIMD taps at a time. Words arrive as a pixel's chunks of PE
// channels, each chunk with all its taps, the channels of a tap side by side. Here GROUPS counts the channels and OUTPUTS is 1; row
// chunk * (INPUTS / SIMD) + first tap / SIMD of `weights` holds SIMD * PE raws, the PEs innermost.
template <class S, class Epilogue, class Lanes, class T, class Beside, class Element, int ROWS, int ELEMENTS>
void depthwise_rows(hls::stream<vec<T, S::PE * S::IN> >& in, Beside& beside, hls::stream<vec<typename Epilogue::out, S::OUT> >& out,
                    const Element (&weights)[ROWS][ELEMENTS]) {
#pragma HLS INLINE
  typedef typename upto<ROWS - 1>::type row_t;
  typedef typename matvec_sums<S, T>::all total_t;
  typedef typename S::inputs::template number<T>::type number_t;
  typedef typename S::inputs::template number<typename S::packed::type>::type weight_t;
  total_t acc[S::OUT];
#pragma HLS ARRAY_PARTITION variable=acc complete dim=1
  row_t row = 0;

depthwise_pixel:
  for (int pixel = 0; pixel < S::BLOCKS; pixel++) {
  depthwise_chunk:
    for (int chunk = 0; chunk < S::GROUPS / S::PE; chunk++) {
    depthwise_tap:
      for (int tap = 0; tap < S::INPUT_FOLD; tap++) {
        QFX_PIPELINE_FRAMES
        QFX_TURN();
        const vec<T, S::PE * S::IN> came = in.read();
        vec<number_t, S::PE * S::IN> word;
      depthwise_come:
        for (int s = 0; s < S::PE * S::IN; s++) {
#pragma HLS UNROLL
          word[s] = number_t(came[s]);
        }
        typename beside_word<Beside>::type other;
        take_beside(beside, other, tap == S::INPUT_FOLD - 1);
        typename matvec_sums<S, T>::turn sum[S::OUT];
#pragma HLS ARRAY_PARTITION variable=sum complete dim=1
        abreast_channels<S::ABREAST, S::PACKS>::template products<typename S::multiplier, weight_t, S::PE, S::SIMD, Lanes>(weights[row], word, sum);
      depthwise_lane:
        for (int lane = 0; lane < S::OUT; lane++) {
#pragma HLS UNROLL
          go_on(acc[lane], total_t(sum[lane]), tap == 0);
        }
        row = row == ROWS - 1 ? row_t(0) : row_t(row + 1);
        if (tap == S::INPUT_FOLD - 1) {
          vec<typename Epilogue::out, S::OUT> result;
          QFX_PACK(result)
        depthwise_epilogue:
          for (int lane = 0; lane < S::OUT; lane++) {
#pragma HLS UNROLL
            result[lane] =
                leave_beside<Epilogue>(typename S::acc(acc[lane]), other, lane, pixel * S::ABREAST + lane / S::PE, chunk * S::PE + lane % S::PE);
          }
          out.write(result);
        }
      }
    }
  }
}

template <class S, class Epilogue, class T, class Beside, class Element, int ROWS, int ELEMENTS>
void depthwise_with(hls::stream<vec<T, S::PE * S::IN> >& in, Beside& beside, hls::stream<vec<typename Epilogue::out, S::OUT> >& out,
               const Element (&weights)[ROWS][ELEMENTS]) {
#pragma HLS INLINE
#ifdef QFX_UNPACKED
  depthwise_rows<S, Epilogue, unpacked_lanes>(in, beside, out, unpack<Epilogue, S::PE * S::SIMD, typename S::packed>(weights));
#else
  depthwise_rows<S, Epilogue, typename S::packed>(in, beside, out, weights);
#endif
}

template <class S, class Epilogue, class T, class Element, int ROWS, int ELEMENTS>
void depthwise(hls::stream<vec<T, S::PE * S::IN> >& in, hls::stream<vec<typename Epilogue::out, S::OUT> >& out, const Element (&weights)[ROWS][ELEMENTS]) {
#pragma HLS INLINE
  nothing_beside none;
  depthwise_with<S, Epilogue>(in, none, out, weights);
}

}  // namespace qfx

#endif
