// Changes of the number of channels per word where rows do not fill their words: the last word of a row is filled up with zeros that are no numbers.
#ifndef QFX_ROW_WIDTH_H
#define QFX_ROW_WIDTH_H

#include "qfx/types.h"

namespace qfx {

// ROWS rows of NUMBERS numbers each, in words of FROM; a row begins with a word of its own on either side. FROM divides TO, or TO holds a whole row.
// Where a row has no words left zeros are taken in their place.
template <int ROWS, int NUMBERS, int FROM, int TO, class T>
void widen_rows(hls::stream<vec<T, FROM> >& in, hls::stream<vec<T, TO> >& out) {
#pragma HLS INLINE
  static const int WORDS = (NUMBERS + TO - 1) / TO;     // of a row that leave
  static const int PARTS = (TO + FROM - 1) / FROM;      // words that become one
  static const int COME = (NUMBERS + FROM - 1) / FROM;  // of a row
  static const int LAST = COME - (WORDS - 1) * PARTS;   // of them in the row's last word
  static const int WIDE = PARTS * FROM;
  T wide[WIDE];
#pragma HLS ARRAY_PARTITION variable=wide complete dim=1
widen_row:
  for (int row = 0; row < ROWS; row++) {
  widen_row_word:
    for (int i = 0; i < WORDS; i++) {
    widen_row_part:
      for (int part = 0; part < PARTS; part++) {
        QFX_PIPELINE_FRAMES
        QFX_TURN();
        vec<T, FROM> word;
        if (i != WORDS - 1 || part < LAST) {
          word = in.read();
        } else {
        widen_row_zero:
          for (int p = 0; p < FROM; p++) {
#pragma HLS UNROLL
            word[p] = 0;
          }
        }
      widen_row_shift:
        for (int p = 0; p < WIDE - FROM; p++) {
#pragma HLS UNROLL
          wide[p] = wide[p + FROM];
        }
      widen_row_lane:
        for (int p = 0; p < FROM; p++) {
#pragma HLS UNROLL
          wide[WIDE - FROM + p] = word[p];
        }
        if (part == PARTS - 1) {
          vec<T, TO> result;
          QFX_PACK(result)
        widen_row_result:
          for (int p = 0; p < TO; p++) {
#pragma HLS UNROLL
            result[p] = wide[p];
          }
          out.write(result);
        }
      }
    }
  }
}

// TO divides FROM, or FROM holds a whole row. Words that have no number of their row left do not leave.
template <int ROWS, int NUMBERS, int FROM, int TO, class T>
void narrow_rows(hls::stream<vec<T, FROM> >& in, hls::stream<vec<T, TO> >& out) {
#pragma HLS INLINE
  static const int WORDS = (NUMBERS + FROM - 1) / FROM;  // of a row that come
  static const int PARTS = (FROM + TO - 1) / TO;         // words that one becomes
  static const int LEAVE = (NUMBERS + TO - 1) / TO;      // of a row
  static const int LAST = LEAVE - (WORDS - 1) * PARTS;   // of them from the row's last word
  static const int WIDE = PARTS * TO;
  T wide[WIDE];
#pragma HLS ARRAY_PARTITION variable=wide complete dim=1
narrow_row:
  for (int row = 0; row < ROWS; row++) {
  narrow_row_word:
    for (int i = 0; i < WORDS; i++) {
    narrow_row_part:
      for (int part = 0; part < PARTS; part++) {
        QFX_PIPELINE_FRAMES
        QFX_TURN();
        if (part == 0) {
          const vec<T, FROM> word = in.read();
        narrow_row_take:
          for (int p = 0; p < WIDE; p++) {
#pragma HLS UNROLL
            wide[p] = p < FROM ? T(word[p < FROM ? p : 0]) : T(0);
          }
        }
        vec<T, TO> result;
        QFX_PACK(result)
      narrow_row_lane:
        for (int p = 0; p < TO; p++) {
#pragma HLS UNROLL
          result[p] = wide[p];
        }
        if (i != WORDS - 1 || part < LAST) {
          out.write(result);
        }
      narrow_row_shift:
        for (int p = 0; p < WIDE - TO; p++) {
#pragma HLS UNROLL
          wide[p] = wide[p + TO];
        }
      }
    }
  }
}

}  // namespace qfx

#endif
