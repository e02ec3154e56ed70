// Sliding windows over a frame that arrives as a stream: the line buffer of convolutions and pools.
#ifndef QFX_WINDOW_H
#define QFX_WINDOW_H

#include "qfx/storage.h"
#include "qfx/tap.h"
#include "qfx/types.h"

namespace qfx {

// Geometry of one sliding window. CHUNKS words of P channels make a pixel. The words of one window leave in the order
//   for outer in OUTER: for ky: for kx: for inner in CHUNKS / OUTER
// with chunk = outer * (CHUNKS / OUTER) + inner: OUTER = groups suits a convolution, OUTER = CHUNKS whatever works channel by channel.
// TURNS is the number of turns that qfx::window takes for a frame: qfx/hardware/timing/window_turns.py computes it.
template <int CHUNKS_, int OUTER_, int H_, int W_, int OH_, int OW_, int KH_, int KW_, int SH_, int SW_, int PAD_TOP_, int PAD_LEFT_, int DH_, int DW_, int TURNS_>
struct window_shape {
  static const int CHUNKS = CHUNKS_;
  static const int OUTER = OUTER_;
  static const int INNER = CHUNKS_ / OUTER_;
  static const int H = H_;
  static const int W = W_;
  static const int OH = OH_;
  static const int OW = OW_;
  static const int KH = KH_;
  static const int KW = KW_;
  static const int SH = SH_;
  static const int SW = SW_;
  static const int PAD_TOP = PAD_TOP_;
  static const int PAD_LEFT = PAD_LEFT_;
  static const int DH = DH_;
  static const int DW = DW_;
  static const int TURNS = TURNS_;
  static const int ROWS = (KH_ - 1) * DH_ + 1;  // rows that one window spans; the line buffer holds as many
  static const int ROW = W_ * CHUNKS_;          // words of a row
  static const int SIZE = ROWS * ROW;           // words of the line buffer
  static const int READS = H_ * ROW;
  // Counters of rows, of words along a row and of words of the frame, wherever a window may lie.
  typedef typename within<PAD_TOP_ + OH_ * SH_ + ROWS + KH_ * DH_>::type row_t;
  typedef typename within<(PAD_LEFT_ + OW_ * SW_ + KW_ * DW_) * CHUNKS_>::type column_t;
  typedef typename within<(PAD_TOP_ + (OH_ + 2) * SH_ + ROWS + H_ + 2) * ROW>::type reach_t;
  typedef typename upto<READS>::type count_t;
};

// A position of the window, in raster order, and what follows from it for reading.
template <class S>
struct window_place {
  typename upto<S::OW>::type ox;
  typename S::column_t left;   // words from the row's beginning to the window's left edge
  typename S::reach_t bottom;  // words in front of the window's last row

  window_place() : ox(0), left(-S::PAD_LEFT * S::CHUNKS), bottom((S::ROWS - 1 - S::PAD_TOP) * S::ROW) {}

  inline void advance() {
#pragma HLS INLINE
    if (ox != S::OW - 1) {
      ox = ox + 1;
      left = left + S::SW * S::CHUNKS;
    } else {
      ox = 0;
      left = -S::PAD_LEFT * S::CHUNKS;
      bottom = bottom + S::SH * S::ROW;
    }
  }

  // How many words must have come: up to the window's last pixel, or as far as the frame goes.
  inline typename S::count_t need() const {
#pragma HLS INLINE
    const typename S::column_t right = left + ((S::KW - 1) * S::DW + 1) * S::CHUNKS;
    const typename S::column_t columns = right < 0 ? typename S::column_t(0) : right;
    const typename S::reach_t row = columns < S::ROW ? typename S::reach_t(columns) : typename S::reach_t(S::ROW);
    const typename S::reach_t rows = bottom < S::READS - S::ROW ? bottom : typename S::reach_t(S::READS - S::ROW);
    const typename S::reach_t sum = rows + row;
    return sum < 0 ? typename S::count_t(0) : typename S::count_t(sum);
  }

  // How many words may have come. Row y takes the place of row y - ROWS: all of a row above the window, and what lies left of the window in the rows
  // that the windows below no longer touch.
  inline typename S::count_t limit() const {
#pragma HLS INLINE
    const typename S::reach_t below = bottom + S::ROW;
    const typename S::reach_t next = below + S::SH * S::ROW;
    const typename S::reach_t rows = below < 0 ? typename S::reach_t(0) : below;
    const typename S::reach_t columns = left < 0 ? typename S::reach_t(0) : typename S::reach_t(left);
    const typename S::reach_t part = rows + columns;
    const typename S::reach_t free = next < 0 ? typename S::reach_t(0) : (left < S::ROW && next > 0 ? part : next);
    return free < S::READS ? typename S::count_t(free) : typename S::count_t(S::READS);
  }
};

// Each turn either only reads (while the present window still misses a pixel, and what is left of the frame behind the last window) or writes a word
// of the window and, if the place of the next word is free, also reads that. The rows of the frame follow each other round the line buffer, so the
// next word's place is one counter; a window's row is a base that goes round. `padding` is what lies outside the frame.
//
// `line` belongs to the layer's function, which says that within a turn no word is loaded from the place that another takes (DEPENDENCE intra false). The
// word that comes is none of the present window's, which are all there; if it is of a row of the window, it lies behind them, else it takes the place of a
// row above or of what lies left of the window.
//
// What the next window needs and leaves free is worked out while the present one is written: each turn decides by two comparisons of registers.
// The tap in row TAP_Y and column TAP_X of every window goes to `tap` too (tap.h).
template <class S, int TAP_Y, int TAP_X, class T, int P, class Tap>
void window_tap(hls::stream<vec<T, P> >& in, hls::stream<vec<T, P> >& out, Tap& tap, const T& padding,
                typename memory_word<T, P>::type (&line)[S::SIZE]) {
#pragma HLS INLINE
  typename S::count_t reads = 0;
  typename upto<S::SIZE>::type place = 0;  // of the next word to read
  window_place<S> next;
  typename S::count_t need = next.need(), limit = next.limit();
  next.advance();
  typename S::count_t next_need = next.need(), next_limit = next.limit();
  bool done = false;

  typename upto<S::OH>::type oy = 0;
  typename upto<S::OW>::type ox = 0;
  typename upto<S::OUTER>::type outer = 0;
  typename upto<S::KH>::type ky = 0;
  typename upto<S::KW>::type kx = 0;
  typename upto<S::INNER>::type inner = 0;
  typename S::row_t top = -S::PAD_TOP, y = -S::PAD_TOP;
  typename S::column_t left = -S::PAD_LEFT * S::CHUNKS, column = -S::PAD_LEFT * S::CHUNKS;
  typename upto<S::CHUNKS>::type first = 0;  // outer * INNER
  typename upto<2 * S::SIZE>::type top_base = (S::ROWS - S::PAD_TOP % S::ROWS) % S::ROWS * S::ROW, base = top_base;  // places of the rows top and y

window_turn:
  for (int turn = 0; turn < S::TURNS; turn++) {
    QFX_PIPELINE_FRAMES
    QFX_TURN();
    const bool missing = done || reads < need;
    const bool reading = missing || reads < limit;
    if (!missing) {
      const bool inside = y >= 0 && y < S::H && column >= 0 && column < S::ROW;
      const int address = inside ? int(base) + int(column) + int(first) + int(inner) : 0;
      vec<T, P> word;
      QFX_PACK(word)
    window_load:
      for (int p = 0; p < P; p++) {
#pragma HLS UNROLL
        word[p] = inside ? T(memory_word<T, P>::at(line[address], p)) : padding;  // a choice of numbers, not of memories
      }
      out.write(word);
      give_tap(tap, word, ky == TAP_Y && kx == TAP_X);
    }
    if (reading) {
      line[place] = memory_word<T, P>::of(in.read());
      reads = reads + 1;
      place = place == S::SIZE - 1 ? typename upto<S::SIZE>::type(0) : typename upto<S::SIZE>::type(place + 1);
    }
    if (!missing) {
      if (inner != S::INNER - 1) {
        inner = inner + 1;
      } else {
        inner = 0;
        if (kx != S::KW - 1) {
          kx = kx + 1;
          column = column + S::DW * S::CHUNKS;
        } else {
          kx = 0;
          column = left;
          if (ky != S::KH - 1) {
            ky = ky + 1;
            y = y + S::DH;
            base = base + S::DH * S::ROW;
            if (base >= S::SIZE) base = base - S::SIZE;
          } else {
            ky = 0;
            y = top;
            base = top_base;
            if (outer != S::OUTER - 1) {
              outer = outer + 1;
              first = first + S::INNER;
            } else {
              outer = 0;
              first = 0;
              need = next_need;
              limit = next_limit;
              next.advance();
              next_need = next.need();
              next_limit = next.limit();
              if (ox != S::OW - 1) {
                ox = ox + 1;
                left = left + S::SW * S::CHUNKS;
              } else {
                ox = 0;
                left = -S::PAD_LEFT * S::CHUNKS;
                done = oy == S::OH - 1;
                oy = oy + 1;
                top = top + S::SH;
                y = top;
                top_base = top_base + S::SH % S::ROWS * S::ROW;
                if (top_base >= S::SIZE) top_base = top_base - S::SIZE;
                base = top_base;
              }
              column = left;
            }
          }
        }
      }
    }
  }
}

template <class S, class T, int P>
void window(hls::stream<vec<T, P> >& in, hls::stream<vec<T, P> >& out, const T& padding, typename memory_word<T, P>::type (&line)[S::SIZE]) {
#pragma HLS INLINE
  no_tap none;
  window_tap<S, 0, 0>(in, out, none, padding, line);
}

}  // namespace qfx

#endif
