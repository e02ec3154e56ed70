// Processes that move words of whole pixels, several side by side, and leave the numbers as they are. In a word lie the channels of the first pixel, then
// those of the next one.
#ifndef QFX_PIXELS_H
#define QFX_PIXELS_H

#include "qfx/abreast.h"
#include "qfx/shape.h"
#include "qfx/storage.h"
#include "qfx/types.h"

namespace qfx {

// Every pixel ROWS x COLUMNS times: the frame has H rows of WORDS words of TOGETHER pixels with CHANNELS numbers; the copies in a row lie side by side. A
// turn writes a word, and reads one in the first of the ROWS; the further ones come from `kept`, which holds a row, each place read and written again in
// the same turn, or one word where there are no further ones.
template <int H, int WORDS, int TOGETHER, int CHANNELS, int ROWS, int COLUMNS, class T, int KEPT>
void repeat_abreast(hls::stream<vec<T, TOGETHER * CHANNELS> >& in, hls::stream<vec<T, TOGETHER * COLUMNS * CHANNELS> >& out,
                    typename memory_word<T, TOGETHER * CHANNELS>::type (&kept)[KEPT]) {
#pragma HLS INLINE
  typedef abreast_shape<H * ROWS, KEPT, 2> shape;
  typedef memory_word<T, TOGETHER * CHANNELS> held;
repeat_abreast_y:
  for (int y = 0; y < H; y++) {
  repeat_abreast_row:
    for (int row = 0; row < ROWS; row++) {
    repeat_abreast_word:
      for (int i = 0; i < WORDS; i++) {
        QFX_PIPELINE_FRAMES
        QFX_TURN();
        const int place = shape::SHIFTS ? 0 : i;
        vec<T, TOGETHER * CHANNELS> word;
        if (row == 0) {
          word = in.read();
        } else {
          word = held::numbers(kept[place]);
        }
        abreast_shift<shape>(kept);
        kept[shape::SHIFTS ? KEPT - 1 : place] = held::of(word);
        vec<T, TOGETHER * COLUMNS * CHANNELS> copies;
        QFX_PACK(copies)
      repeat_abreast_lane:
        for (int p = 0; p < TOGETHER * COLUMNS * CHANNELS; p++) {
#pragma HLS UNROLL
          copies[p] = word[p / (COLUMNS * CHANNELS) * CHANNELS + p % CHANNELS];
        }
        out.write(copies);
      }
    }
  }
}

// The pixels of a row move along: `held` has the word that came last, and in front of it the one before.
template <class T, int N>
inline void next_word(T (&held)[2 * N], const bool comes, hls::stream<vec<T, N> >& in) {
#pragma HLS INLINE
  vec<T, N> word;
  if (comes) {
    word = in.read();
  }
next_word_lane:
  for (int p = 0; p < N; p++) {
#pragma HLS UNROLL
    held[p] = held[N + p];
    if (comes) held[N + p] = word[p];
  }
}

// Zeros around a frame of H rows of WORDS words and CHANNELS channels a pixel: the result has OH rows of OWORDS words and OC channels; the frame begins at
// row TOP, column LEFT and channel FIRST. A turn writes a word; of a row that has pixels of the frame the turns from AT on read one. Pixel 0 of a word of
// the result is pixel BASE of the two words that came last.
template <int H, int WORDS, int CHANNELS, int OH, int OWORDS, int OC, int TOP, int LEFT, int FIRST, int AT, int BASE, class T, class R, int N, int ON>
void pad_abreast(hls::stream<vec<T, N> >& in, hls::stream<vec<R, ON> >& out) {
#pragma HLS INLINE
  static const int TOGETHER = ON / OC, W = WORDS * (N / CHANNELS);
  T held[2 * N];
#pragma HLS ARRAY_PARTITION variable=held complete dim=1
pad_abreast_y:
  for (int y = 0; y < OH; y++) {
  pad_abreast_word:
    for (int i = 0; i < OWORDS; i++) {
      QFX_PIPELINE_FRAMES
      QFX_TURN();
      const bool row = y >= TOP && y < TOP + H;
      next_word<T, N>(held, row && i >= AT && i < AT + WORDS, in);
      vec<R, ON> padded;
      QFX_PACK(padded)
    pad_abreast_lane:
      for (int p = 0; p < ON; p++) {
#pragma HLS UNROLL
        const int pixel = p / OC, channel = p % OC - FIRST;
        const int from = pixel < LEFT ? (LEFT - pixel + TOGETHER - 1) / TOGETHER : 0;  // the first word whose pixel there is one of the frame
        const int to = pixel < LEFT + W ? (LEFT + W - pixel + TOGETHER - 1) / TOGETHER : 0;
        const int lane = (BASE + pixel) * CHANNELS + channel;
        const bool real = channel >= 0 && channel < CHANNELS && lane >= 0 && lane < 2 * N;
        padded[p] = real && row && i >= from && i < to ? R(held[real ? lane : 0]) : R(0);
      }
      out.write(padded);
    }
  }
}

// A part of a frame of H rows of WORDS words and CHANNELS channels a pixel: the rows in SpanY, of each OWORDS words from the turn AT on, and the channels
// in SpanChannel. Pixel 0 of such a word is pixel BASE of the two words that came last, and the next ones lie STEP apart.
template <int H, int WORDS, int CHANNELS, class SpanY, int AT, int OWORDS, int BASE, int STEP, class SpanChannel, class T, int N, int ON>
void slice_abreast(hls::stream<vec<T, N> >& in, hls::stream<vec<T, ON> >& out) {
#pragma HLS INLINE
  static const int OC = (SpanChannel::STOP - SpanChannel::START + SpanChannel::STEP - 1) / SpanChannel::STEP;
  span_cursor<SpanY> rows;
  T held[2 * N];
#pragma HLS ARRAY_PARTITION variable=held complete dim=1
slice_abreast_y:
  for (int y = 0; y < H; y++) {
  slice_abreast_word:
    for (int i = 0; i < WORDS; i++) {
      QFX_PIPELINE_FRAMES
      QFX_TURN();
      next_word<T, N>(held, true, in);
      if (rows.at(y) && i >= AT && i < AT + OWORDS) {
        vec<T, ON> word;
        QFX_PACK(word)
      slice_abreast_lane:
        for (int p = 0; p < ON; p++) {
#pragma HLS UNROLL
          word[p] = held[(BASE + p / OC * STEP) * CHANNELS + SpanChannel::START + p % OC * SpanChannel::STEP];
        }
        out.write(word);
      }
      if (i == WORDS - 1) rows.leave(y, y == H - 1);
    }
  }
}

}  // namespace qfx

#endif
