// Weights that lie in the board's memory: read by an AXI master while the hardware runs, each word of them used for all pixels of a tile.
//
// A layer whose weights the chip cannot hold keeps the frame instead: the rows of its input that a tile of ROWS rows of results needs. Then it goes over
// outputs and taps in the outer loops and over the tile's pixels in the inner ones, so that a word of weights serves that many turns, and a tile's sums lie
// in a memory of their own. A frame reads all weights once for each tile, in the order in which they lie in memory.
#ifndef QFX_MEMORY_TILES_H
#define QFX_MEMORY_TILES_H

#include "qfx/beside.h"
#include "qfx/multiply.h"
#include "qfx/rom.h"
#include "qfx/storage.h"
#include "qfx/types.h"

namespace qfx {

// BEATS words of memory, one after the other (the tools make bursts of the loop), each of P numbers of WIDTH bits, the first in the lowest bits; REPEATS
// times a frame.
template <int BEATS, int REPEATS, int WIDTH, class T, int P, int BITS>
void from_memory(const uint<BITS>* memory, hls::stream<vec<T, P> >& out) {
#pragma HLS INLINE
from_memory_again:
  for (int again = 0; again < REPEATS; again++) {
  from_memory_beat:
    for (int beat = 0; beat < BEATS; beat++) {
      QFX_PIPELINE
      QFX_TURN();
      const uint<BITS> word = memory[beat];
      vec<T, P> numbers;
      QFX_PACK(numbers)
    from_memory_number:
      for (int p = 0; p < P; p++) {
#pragma HLS UNROLL
        numbers[p] = T(uint<WIDTH>(word >> (p * WIDTH)));
      }
      out.write(numbers);
    }
  }
}

// The windows of a frame: as of window_shape in window.h.
template <int H_, int W_, int OH_, int OW_, int KH_, int KW_, int SH_, int SW_, int TOP_, int LEFT_, int DH_, int DW_>
struct tiles_frame {
  static const int H = H_;
  static const int W = W_;
  static const int OH = OH_;
  static const int OW = OW_;
  static const int KH = KH_;
  static const int KW = KW_;
  static const int SH = SH_;
  static const int SW = SW_;
  static const int TOP = TOP_;
  static const int LEFT = LEFT_;
  static const int DH = DH_;
  static const int DW = DW_;
};

// CHUNKS words of SIMD channels make a pixel that comes, OUTPUT_FOLD words of PE one that leaves, each of GROUPS its share of both; ROWS divides the rows of results. Multiplier, Sum, Total
// and Acc are as in matvec.h. FRAMES: of a fully connected layer the pixels of the row may be so many frames that follow each other, each with one; a word of
// weights then serves all of them.
template <class Frame, int CHUNKS_, int OUTPUT_FOLD_, int PE_, int SIMD_, int ROWS_, int GROUPS_, class Acc_, class Multiplier_, class Sum_, class Total_,
          int FRAMES_ = 1>
struct tiles_shape : Frame {
  static const int CHUNKS = CHUNKS_;
  static const int OUTPUT_FOLD = OUTPUT_FOLD_;
  static const int PE = PE_;
  static const int SIMD = SIMD_;
  static const int ROWS = ROWS_;
  static const int TURN_CHUNKS = CHUNKS_ / GROUPS_;  // that make a tap of an output
  static const int GROUP_FOLD = OUTPUT_FOLD_ / GROUPS_;
  static const int TILES = Frame::OH / ROWS_;
  static const int PIXELS = ROWS_ * Frame::OW;
  // The rows between the first and the last that a tile needs, and those that are kept: row r lies in place r % KEPT.
  static const int SPAN = (ROWS_ - 1) * Frame::SH + (Frame::KH - 1) * Frame::DH + 1;
  static const int KEPT = SPAN < Frame::H ? SPAN : Frame::H;
  static const int ORIGIN = (KEPT - Frame::TOP % KEPT) % KEPT;  // the place of row -TOP
  static const int WORDS = KEPT * Frame::W * CHUNKS_;
  // Results wait until the tile is done, unless they come in the order in which they leave.
  static const bool DIRECT = OUTPUT_FOLD_ == 1 || PIXELS == 1;
  static const int RESULTS = DIRECT ? 1 : PIXELS * OUTPUT_FOLD_;
  static const int FRAMES = FRAMES_;
  typedef Acc_ acc;
  typedef Multiplier_ multiplier;
  typedef Sum_ sum;
  typedef Total_ total;
};

// The sums of a tile's pixels come round again after PIXELS turns. Up to 16 of them are registers that shift, so that each turn goes on with the oldest.
template <class Total, int PIXELS, int PE, class Sum>
inline void tile_sum(Total (&few)[PIXELS][PE], const int, const Sum (&terms)[PE], const bool begins, Total (&joined)[PE]) {
#pragma HLS INLINE
tile_few_lane:
  for (int pe = 0; pe < PE; pe++) {
#pragma HLS UNROLL
    joined[pe] = few[0][pe];
    go_on(joined[pe], Total(terms[pe]), begins);
  tile_few_shift:
    for (int k = 0; k < PIXELS - 1; k++) {
#pragma HLS UNROLL
      few[k][pe] = few[k + 1][pe];
    }
    few[PIXELS - 1][pe] = joined[pe];
  }
}

// More are a memory, whose load, sum and store then have 16 cycles at least: the layer's function, to which it belongs, says so (DEPENDENCE distance 16).
template <class Total, int PIXELS, int PE, class Word, class Sum>
inline void tile_sum(Word (&many)[PIXELS], const int pixel, const Sum (&terms)[PE], const bool begins, Total (&joined)[PE]) {
#pragma HLS INLINE
  vec<Total, PE> sums = memory_word<Total, PE>::numbers(many[pixel]);
tile_many_lane:
  for (int pe = 0; pe < PE; pe++) {
#pragma HLS UNROLL
    go_on(sums[pe], Total(terms[pe]), begins);
    joined[pe] = sums[pe];
  }
  many[pixel] = memory_word<Total, PE>::of(sums);
}

// The words of the second stream (beside.h) come pixel by pixel, as those that leave, and are needed output by output: a tile's are held, unless results leave
// as they come.
inline void tiles_hold(nothing_beside&, nothing_beside&) {
#pragma HLS INLINE
}
template <int WORDS, class B, int PE, class Word>
inline void tiles_hold(hls::stream<vec<B, PE> >& beside, Word (&others)[WORDS]) {
#pragma HLS INLINE
tiles_hold_word:
  for (int i = 0; i < WORDS; i++) {
    QFX_PIPELINE
    QFX_TURN();
    others[i] = memory_word<B, PE>::of(beside.read());
  }
}

inline void tiles_recall(nothing_beside&, const int, nothing_beside&) {
#pragma HLS INLINE
}
template <int WORDS, class B, int PE, class Word>
inline void tiles_recall(Word (&others)[WORDS], const int place, vec<B, PE>& other) {
#pragma HLS INLINE
  other = memory_word<B, PE>::numbers(others[place]);
}

// A convolution, or (one pixel, one tap) a linear layer. Words of weights hold SIMD * PE raws, the PEs innermost, and come in the order of the loops: outputs,
// rows and columns of the taps, words of a pixel. `kept` (the rows that a tile needs), `sums`, `results` and `others` (what is held of `beside`) belong to the
// layer's function.
template <class S, class Epilogue, class T, class Weight, class Beside, class Sums, class Others>
void tiles_with(hls::stream<vec<T, S::SIMD> >& in, hls::stream<vec<Weight, S::PE * S::SIMD> >& weights, Beside& beside,
                hls::stream<vec<typename Epilogue::out, S::PE> >& out, typename memory_word<T, S::SIMD>::type (&kept)[S::WORDS], Sums& sums,
                typename memory_word<typename Epilogue::out, S::PE>::type (&results)[S::RESULTS], Others& others) {
#pragma HLS INLINE
  typedef memory_word<T, S::SIMD> pixel_word;
  typedef memory_word<typename Epilogue::out, S::PE> result_word;
  int loaded = 0;           // rows of the frame
  int slot = 0;             // the place of the next one
  int origin = S::ORIGIN;   // the place of the first row that the tile needs

tiles_tile:
  for (int tile = 0; tile < S::TILES; tile++) {
    const int first = tile * S::ROWS * S::SH - S::TOP;
    const int needed = first + S::SPAN < S::H ? first + S::SPAN : int(S::H);
    if (!S::DIRECT) tiles_hold(beside, others);
  tiles_load_row:
    for (; loaded < needed; loaded++) {
    tiles_load_column:
      for (int column = 0; column < S::W; column++) {
      tiles_load_chunk:
        for (int chunk = 0; chunk < S::CHUNKS; chunk++) {
          QFX_PIPELINE
          QFX_TURN();
          kept[(slot * S::W + column) * S::CHUNKS + chunk] = pixel_word::of(in.read());
        }
      }
      slot = slot == S::KEPT - 1 ? 0 : slot + 1;
    }

    vec<Weight, S::PE * S::SIMD> word;
  tiles_output:
    for (int output = 0; output < S::OUTPUT_FOLD; output++) {
    tiles_tap_row:
      for (int ky = 0; ky < S::KH; ky++) {
      tiles_tap_column:
        for (int kx = 0; kx < S::KW; kx++) {
        tiles_chunk:
          for (int chunk = 0; chunk < S::TURN_CHUNKS; chunk++) {
          tiles_row:
            for (int y = 0; y < S::ROWS; y++) {
            tiles_column:
              for (int x = 0; x < S::OW; x++) {
                QFX_PIPELINE
                QFX_TURN();
                if (y == 0 && x == 0) word = weights.read();
                const int offset = y * S::SH + ky * S::DH;
                const int row = first + offset, column = x * S::SW + kx * S::DW - S::LEFT;
                const int turned = origin + offset < S::KEPT ? origin + offset : origin + offset - S::KEPT;
                const int place = S::KEPT == S::H ? row : turned;
                const bool inside = row >= 0 && row < S::H && column >= 0 && column < S::W;
                const int own = S::TURN_CHUNKS == S::CHUNKS ? chunk : output / S::GROUP_FOLD * S::TURN_CHUNKS + chunk;  // of the pixel's words
                const vec<T, S::SIMD> held = pixel_word::numbers(kept[inside ? (place * S::W + column) * S::CHUNKS + own : 0]);
                vec<T, S::SIMD> pixel;
              tiles_mask:
                for (int s = 0; s < S::SIMD; s++) {
#pragma HLS UNROLL
                  pixel[s] = inside ? held[s] : T(0);
                }
                typename S::sum terms[S::PE];
#pragma HLS ARRAY_PARTITION variable=terms complete dim=1
                typename S::total joined[S::PE];
#pragma HLS ARRAY_PARTITION variable=joined complete dim=1
                S::multiplier::template dot<S::PE, S::SIMD, plain<Weight> >(word.data, pixel, terms);
                tile_sum(sums, y * S::OW + x, terms, ky == 0 && kx == 0 && chunk == 0, joined);
                const bool ends = ky == S::KH - 1 && kx == S::KW - 1 && chunk == S::TURN_CHUNKS - 1;
                typename beside_word<Beside>::type other;
                if (S::DIRECT) {
                  take_beside(beside, other, ends);
                } else {
                  tiles_recall(others, S::DIRECT ? 0 : (y * S::OW + x) * S::OUTPUT_FOLD + output, other);
                }
                if (ends) {
                  vec<typename Epilogue::out, S::PE> result;
                  QFX_PACK(result)
                tiles_epilogue:
                  for (int pe = 0; pe < S::PE; pe++) {
#pragma HLS UNROLL
                    const int at = S::FRAMES > 1 ? 0 : (tile * S::ROWS + y) * S::OW + x;  // of its frame
                    result[pe] = leave_beside<Epilogue>(typename S::acc(joined[pe]), other, pe, at, output * S::PE + pe);
                  }
                  if (S::DIRECT) {
                    out.write(result);
                  } else {
                    results[S::DIRECT ? 0 : (y * S::OW + x) * S::OUTPUT_FOLD + output] = result_word::of(result);
                  }
                }
              }
            }
          }
        }
      }
    }

    if (!S::DIRECT) {
    tiles_leave:
      for (int i = 0; i < S::RESULTS; i++) {
        QFX_PIPELINE
        QFX_TURN();
        out.write(result_word::numbers(results[i]));
      }
    }
    origin = origin + S::ROWS * S::SH % S::KEPT < S::KEPT ? origin + S::ROWS * S::SH % S::KEPT : origin + S::ROWS * S::SH % S::KEPT - S::KEPT;
  }

  // Rows below the last window.
tiles_rest_row:
  for (; loaded < S::H; loaded++) {
  tiles_rest:
    for (int i = 0; i < S::W * S::CHUNKS; i++) {
      QFX_PIPELINE
      QFX_TURN();
      in.read();
    }
  }
}

template <class S, class Epilogue, class T, class Weight, class Sums>
void tiles(hls::stream<vec<T, S::SIMD> >& in, hls::stream<vec<Weight, S::PE * S::SIMD> >& weights, hls::stream<vec<typename Epilogue::out, S::PE> >& out,
           typename memory_word<T, S::SIMD>::type (&kept)[S::WORDS], Sums& sums,
           typename memory_word<typename Epilogue::out, S::PE>::type (&results)[S::RESULTS]) {
#pragma HLS INLINE
  nothing_beside none, others;
  tiles_with<S, Epilogue>(in, weights, none, out, kept, sums, results, others);
}

}  // namespace qfx

#endif
