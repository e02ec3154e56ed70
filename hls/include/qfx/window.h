// Sliding windows over a frame that arrives as a stream: the line buffer of convolutions and pools.
#ifndef QFX_WINDOW_H
#define QFX_WINDOW_H

#include "qfx/types.h"

namespace qfx {

// Geometry of one sliding window. CHUNKS words of P channels make a pixel. The words of one window leave in the order
//   for outer in OUTER: for ky: for kx: for inner in CHUNKS / OUTER
// with chunk = outer * (CHUNKS / OUTER) + inner: OUTER = groups suits a convolution, OUTER = CHUNKS whatever works channel by channel.
template <int CHUNKS_, int OUTER_, int H_, int W_, int OH_, int OW_, int KH_, int KW_, int SH_, int SW_, int PAD_TOP_, int PAD_LEFT_, int DH_, int DW_>
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
  static const int ROWS = (KH_ - 1) * DH_ + 1;  // rows that one window spans; the line buffer holds as many
  static const int READS = H_ * W_ * CHUNKS_;
  static const int WRITES = OH_ * OW_ * KH_ * KW_ * CHUNKS_;
};

// Each turn of the loop either reads one word or writes one: it reads until the last pixel that the present window needs has come, then writes the
// window, and reads what is left of the frame at the end. Row y lies in slot y mod ROWS; a read of row y overwrites row y - ROWS, which no later
// window touches. `padding` is what lies outside the frame.
template <class S, class T, int P>
void window(hls::stream<vec<T, P> >& in, hls::stream<vec<T, P> >& out, const T& padding) {
#pragma HLS INLINE
  T line[S::ROWS * S::W * S::CHUNKS][P];
#pragma HLS ARRAY_PARTITION variable=line complete dim=2

  int read_y = 0, read_x = 0, read_chunk = 0;  // the next word to read, and where it goes
  int read_slot = 0;
  int oy = 0, ox = 0, outer = 0, ky = 0, kx = 0, inner = 0;  // the next word to write
  int top_slot = (S::ROWS - S::PAD_TOP % S::ROWS) % S::ROWS;  // the slot of the window's first row
  int top = -S::PAD_TOP, left = -S::PAD_LEFT;
  bool done = false;

window_turn:
  for (int turn = 0; turn < S::READS + S::WRITES; turn++) {
    QFX_PIPELINE
    QFX_TURN();
    const int bottom = top + S::ROWS - 1;
    const int right = left + (S::KW - 1) * S::DW;
    const int last_y = bottom < S::H ? bottom : S::H - 1;
    const int last_x = right < S::W ? right : S::W - 1;
    const bool wants = done || read_y < last_y || (read_y == last_y && read_x <= last_x);
    if (wants) {
      const vec<T, P> word = in.read();
      const int address = (read_slot * S::W + read_x) * S::CHUNKS + read_chunk;
    window_store:
      for (int p = 0; p < P; p++) {
#pragma HLS UNROLL
        line[address][p] = word[p];
      }
      if (read_chunk != S::CHUNKS - 1) {
        read_chunk++;
      } else {
        read_chunk = 0;
        if (read_x != S::W - 1) {
          read_x++;
        } else {
          read_x = 0;
          read_y++;
          read_slot = read_slot == S::ROWS - 1 ? 0 : read_slot + 1;
        }
      }
    } else {
      const int y = top + ky * S::DH;
      const int x = left + kx * S::DW;
      const bool inside = y >= 0 && y < S::H && x >= 0 && x < S::W;
      const int slot = top_slot + ky * S::DH;
      const int wrapped = slot >= S::ROWS ? slot - S::ROWS : slot;
      const int address = inside ? (wrapped * S::W + x) * S::CHUNKS + outer * S::INNER + inner : 0;
      vec<T, P> word;
      QFX_PACK(word)
    window_load:
      for (int p = 0; p < P; p++) {
#pragma HLS UNROLL
        word[p] = inside ? line[address][p] : padding;
      }
      out.write(word);
      if (inner != S::INNER - 1) {
        inner++;
      } else {
        inner = 0;
        if (kx != S::KW - 1) {
          kx++;
        } else {
          kx = 0;
          if (ky != S::KH - 1) {
            ky++;
          } else {
            ky = 0;
            if (outer != S::OUTER - 1) {
              outer++;
            } else {
              outer = 0;
              if (ox != S::OW - 1) {
                ox++;
                left += S::SW;
              } else {
                ox = 0;
                left = -S::PAD_LEFT;
                done = oy == S::OH - 1;
                oy++;
                top += S::SH;
                top_slot += S::SH % S::ROWS;
                top_slot = top_slot >= S::ROWS ? top_slot - S::ROWS : top_slot;
              }
            }
          }
        }
      }
    }
  }
}

}  // namespace qfx

#endif
