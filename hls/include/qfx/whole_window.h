// Whole windows: a unit that writes all taps of a window in one word, as fast as the pixels come. The window unit of window.h writes one tap a turn.
#ifndef QFX_WHOLE_WINDOW_H
#define QFX_WHOLE_WINDOW_H

#include "qfx/storage.h"
#include "qfx/tap.h"
#include "qfx/types.h"

namespace qfx {

// Geometry of the windows; CHUNKS words of P channels make a pixel. The taps that lie in a column of the frame come from LINES rows that are kept, the
// taps of a row from columns that are kept; each is one memory, read and written once a turn, LINE and PAST words deep.
//
// Frame and padding are one line of pixels: pixel (y, x) is number y * W + x, and where x lies outside the frame that number is another pixel's, which
// the mask replaces by padding. So a window is complete a fixed number of pixels behind its first tap, and each turn is the same. What must hold (the
// generator makes sure): the windows' last taps follow each other, DOWN > 0; the first lies in front of no pixel, FIRST >= 0.
// TURNS: (the greater of H * W and the number behind the last window's last tap) * CHUNKS.
template <int CHUNKS_, int H_, int W_, int OH_, int OW_, int KH_, int KW_, int SH_, int SW_, int PAD_TOP_, int PAD_LEFT_, int DH_, int DW_, int TURNS_>
struct whole_shape {
  static const int CHUNKS = CHUNKS_;
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
  static const int TAPS = KH_ * KW_;
  static const int READS = H_ * W_ * CHUNKS_;
  static const int LINE = KH_ > 1 ? DH_ * W_ * CHUNKS_ : 1;
  static const int LINES = KH_ > 1 ? KH_ - 1 : 1;
  static const int PAST = KW_ > 1 ? DW_ * CHUNKS_ : 1;
  static const int PASTS = KW_ > 1 ? KH_ * (KW_ - 1) : 1;
  static const bool SHIFTS = PAST < 8;  // so few words are registers that shift: a memory has not answered yet when the place comes round again
  static const int FIRST = ((KH_ - 1) * DH_ - PAD_TOP_) * W_ + (KW_ - 1) * DW_ - PAD_LEFT_;  // number of the first window's last tap
  static const int DOWN = SH_ * W_ - (OW_ - 1) * SW_;  // pixels from a row's last window to the first one of the next row
  static const bool ROWS_INSIDE = PAD_TOP_ == 0 && (OH_ - 1) * SH_ + (KH_ - 1) * DH_ < H_;
  static const bool COLUMNS_INSIDE = PAD_LEFT_ == 0 && (OW_ - 1) * SW_ + (KW_ - 1) * DW_ < W_;
  typedef typename within<PAD_TOP_ + (OH_ + 1) * SH_ + KH_ * DH_ + H_>::type row_t;
  typedef typename within<PAD_LEFT_ + (OW_ + 1) * SW_ + KW_ * DW_ + W_>::type column_t;
  typedef typename upto<TURNS_ / CHUNKS_ + SH_ * W_ + SW_>::type pixel_t;
};

// What leaves of a window: all of it.
struct whole_word {
  template <class Word>
  static inline void give(hls::stream<Word>& out, const Word& word) {
#pragma HLS INLINE
    out.write(word);
  }
};

// Words that stand for pixels hold several of CHANNELS numbers each, WIDE of them in a row of such a window. What leaves are the KH x KW taps of each of
// PIXELS windows, SW pixels apart, from column FIRST on.
template <int PIXELS, int CHANNELS, int KH, int WIDE, int KW, int FIRST, int SW, int DW>
struct side_by_side {
  template <class T, int HELD>
  static inline void give(hls::stream<vec<T, PIXELS * KH * KW * CHANNELS> >& out, const vec<T, HELD>& held) {
#pragma HLS INLINE
    vec<T, PIXELS * KH * KW * CHANNELS> word;
    QFX_PACK(word)
  side_pixel:
    for (int pixel = 0; pixel < PIXELS; pixel++) {
#pragma HLS UNROLL
    side_row:
      for (int ky = 0; ky < KH; ky++) {
#pragma HLS UNROLL
      side_column:
        for (int kx = 0; kx < KW; kx++) {
#pragma HLS UNROLL
        side_number:
          for (int c = 0; c < CHANNELS; c++) {
#pragma HLS UNROLL
            word[((pixel * KH + ky) * KW + kx) * CHANNELS + c] = held[(ky * WIDE + FIRST + pixel * SW + kx * DW) * CHANNELS + c];
          }
        }
      }
    }
    out.write(word);
  }
};

// Each turn takes a word, as long as there is one, and writes the window of its chunk if the word completes one. `line` and `past` belong to the layer's
// function, which binds them; what they hold at the beginning of a frame lies outside it and is masked.
// The tap number AT of every window goes to `single` too (tap.h).
// Given says what leaves of a window.
template <class S, int AT, class Given, class T, int P, class Out, class Tap>
void whole_windows(hls::stream<vec<T, P> >& in, Out& out, Tap& single, const T& padding, typename memory_word<T, S::LINES * P>::type (&line)[S::LINE],
                   typename memory_word<T, S::PASTS * P>::type (&past)[S::PAST]) {
#pragma HLS INLINE
  typedef memory_word<T, S::LINES * P> rows;
  typedef memory_word<T, S::PASTS * P> columns;
  typename upto<S::CHUNKS>::type chunk = 0;
  typename S::pixel_t pixel = 0, due = S::FIRST;  // the pixel that is being read, and the one that completes the next window
  typename upto<S::OW>::type ox = 0;
  typename upto<S::OH>::type oy = 0;
  typename S::row_t top = -S::PAD_TOP;
  typename S::column_t left = -S::PAD_LEFT;
  typename upto<S::LINE>::type line_place = 0;
  typename upto<S::PAST>::type past_place = 0;

whole_turn:
  for (int turn = 0; turn < S::TURNS; turn++) {
    QFX_PIPELINE_FRAMES
    QFX_TURN();
    // The taps that come to the right edge of their windows, from the top row down, and all taps behind them; what the next ones see of both.
    vec<T, S::KH * P> column;
    vec<T, S::LINES * P> rows_next;
    vec<T, S::PASTS * P> columns_next;
    vec<T, P> newest;
    if (turn < S::READS) {
      newest = in.read();
    } else {
    whole_rest:
      for (int p = 0; p < P; p++) {
#pragma HLS UNROLL
        newest[p] = padding;
      }
    }
    vec<T, P * S::TAPS> word;
    QFX_PACK(word)
  whole_column:
    for (int ky = 0; ky < S::KH; ky++) {
#pragma HLS UNROLL
    whole_column_lane:
      for (int p = 0; p < P; p++) {
#pragma HLS UNROLL
        column[ky * P + p] = ky == S::KH - 1 ? newest[p] : T(rows::at(line[line_place], (ky == S::KH - 1 ? 0 : ky) * P + p));
        if (ky > 0) rows_next[(ky > 0 ? ky - 1 : 0) * P + p] = column[ky * P + p];
      }
    }
    if (S::KH > 1) {
      line[line_place] = rows::of(rows_next);
    }
    const int behind = S::SHIFTS ? 0 : int(past_place);
  whole_row:
    for (int ky = 0; ky < S::KH; ky++) {
#pragma HLS UNROLL
      const bool row_inside = S::ROWS_INSIDE || (top + ky * S::DH >= 0 && top + ky * S::DH < S::H);
    whole_tap:
      for (int kx = 0; kx < S::KW; kx++) {
#pragma HLS UNROLL
        const bool inside = row_inside && (S::COLUMNS_INSIDE || (left + kx * S::DW >= 0 && left + kx * S::DW < S::W));
        const int kept = kx == S::KW - 1 ? 0 : ky * (S::KW - 1) + kx;
      whole_tap_lane:
        for (int p = 0; p < P; p++) {
#pragma HLS UNROLL
          const T tap = kx == S::KW - 1 ? T(column[ky * P + p]) : T(columns::at(past[behind], kept * P + p));
          word[(ky * S::KW + kx) * P + p] = inside ? tap : padding;
          if (kx > 0) {  // the tap to the left sees it PAST turns later
            columns_next[(ky * (S::KW - 1) + (kx > 0 ? kx - 1 : 0)) * P + p] = tap;
          }
        }
      }
    }
    if (S::KW > 1) {
      if (S::SHIFTS) {
      whole_shift:
        for (int k = 0; k < S::PAST - 1; k++) {
#pragma HLS UNROLL
          past[k] = past[k + 1];
        }
      }
      past[S::SHIFTS ? S::PAST - 1 : behind] = columns::of(columns_next);
    }
    const bool complete = pixel == due && oy != S::OH;
    if (complete) Given::give(out, word);
    give_part<AT>(single, word, complete);
    line_place = line_place == S::LINE - 1 ? typename upto<S::LINE>::type(0) : typename upto<S::LINE>::type(line_place + 1);
    past_place = past_place == S::PAST - 1 ? typename upto<S::PAST>::type(0) : typename upto<S::PAST>::type(past_place + 1);
    if (chunk != S::CHUNKS - 1) {
      chunk = chunk + 1;
    } else {
      chunk = 0;
      pixel = pixel + 1;
      if (complete) {
        if (ox != S::OW - 1) {
          ox = ox + 1;
          left = left + S::SW;
          due = due + S::SW;
        } else {
          ox = 0;
          oy = oy + 1;
          left = -S::PAD_LEFT;
          top = top + S::SH;
          due = due + S::DOWN;
        }
      }
    }
  }
}

template <class S, int AT, class T, int P, class Tap>
void whole_window_tap(hls::stream<vec<T, P> >& in, hls::stream<vec<T, P * S::TAPS> >& out, Tap& single, const T& padding,
                      typename memory_word<T, S::LINES * P>::type (&line)[S::LINE], typename memory_word<T, S::PASTS * P>::type (&past)[S::PAST]) {
#pragma HLS INLINE
  whole_windows<S, AT, whole_word>(in, out, single, padding, line, past);
}

template <class S, class T, int P>
void whole_window(hls::stream<vec<T, P> >& in, hls::stream<vec<T, P * S::TAPS> >& out, const T& padding,
                  typename memory_word<T, S::LINES * P>::type (&line)[S::LINE], typename memory_word<T, S::PASTS * P>::type (&past)[S::PAST]) {
#pragma HLS INLINE
  no_tap none;
  whole_windows<S, 0, whole_word>(in, out, none, padding, line, past);
}

// Several windows a word: S is the shape of the words that stand for pixels, Given is side_by_side.
template <class S, class Given, class T, int P, int OUT>
void wide_window(hls::stream<vec<T, P> >& in, hls::stream<vec<T, OUT> >& out, const T& padding, typename memory_word<T, S::LINES * P>::type (&line)[S::LINE],
                 typename memory_word<T, S::PASTS * P>::type (&past)[S::PAST]) {
#pragma HLS INLINE
  no_tap none;
  whole_windows<S, 0, Given>(in, out, none, padding, line, past);
}

}  // namespace qfx

#endif
