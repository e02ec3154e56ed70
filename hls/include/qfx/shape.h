// Processes that move numbers and leave them as they are: duplication, padding, slicing, permutation.
#ifndef QFX_SHAPE_H
#define QFX_SHAPE_H

#include "qfx/types.h"

namespace qfx {

// Two copies of a stream of WORDS words.
template <int WORDS, class T, int P>
void fork(hls::stream<vec<T, P> >& in, hls::stream<vec<T, P> >& out0, hls::stream<vec<T, P> >& out1) {
#pragma HLS INLINE
fork_word:
  for (int i = 0; i < WORDS; i++) {
    QFX_PIPELINE
    QFX_TURN();
    vec<T, P> word = in.read();
    QFX_PACK(word)
    out0.write(word);
    out1.write(word);
  }
}

// Zeros around a frame of H x W x C numbers: the result has OH x OW x OC.
template <int H, int W, int C, int OH, int OW, int OC, int TOP, int LEFT, int FIRST, class T, class R>
void pad(hls::stream<vec<T, 1> >& in, hls::stream<vec<R, 1> >& out) {
#pragma HLS INLINE
pad_y:
  for (int y = 0; y < OH; y++) {
  pad_x:
    for (int x = 0; x < OW; x++) {
    pad_channel:
      for (int c = 0; c < OC; c++) {
        QFX_PIPELINE
        QFX_TURN();
        const bool inside = y >= TOP && y < TOP + H && x >= LEFT && x < LEFT + W && c >= FIRST && c < FIRST + C;
        vec<R, 1> word;
        word[0] = R(0);
        if (inside) {
          word[0] = R(in.read()[0]);
        }
        out.write(word);
      }
    }
  }
}

// One axis of a slice: start, stop and step.
template <int START_, int STOP_, int STEP_>
struct span {
  static inline bool has(const int i) {
#pragma HLS INLINE
    return i >= START_ && i < STOP_ && (i - START_) % STEP_ == 0;
  }
};

// The numbers of a frame of H x W x C that lie in all three spans.
template <int H, int W, int C, class SpanY, class SpanX, class SpanC, class T>
void slice(hls::stream<vec<T, 1> >& in, hls::stream<vec<T, 1> >& out) {
#pragma HLS INLINE
slice_y:
  for (int y = 0; y < H; y++) {
  slice_x:
    for (int x = 0; x < W; x++) {
    slice_channel:
      for (int c = 0; c < C; c++) {
        QFX_PIPELINE
        QFX_TURN();
        const vec<T, 1> word = in.read();
        if (SpanY::has(y) && SpanX::has(x) && SpanC::has(c)) {
          out.write(word);
        }
      }
    }
  }
}

// Addresses of four nested loops, outermost first: sizes D and strides S.
template <int D0, int S0, int D1, int S1, int D2, int S2, int D3, int S3>
struct nest {
  int i0, i1, i2, i3;
  int address;
  nest() : i0(0), i1(0), i2(0), i3(0), address(0) {}
  inline void next() {
#pragma HLS INLINE
    if (i3 != D3 - 1) {
      i3++;
      address += S3;
    } else {
      i3 = 0;
      address -= (D3 - 1) * S3;
      if (i2 != D2 - 1) {
        i2++;
        address += S2;
      } else {
        i2 = 0;
        address -= (D2 - 1) * S2;
        if (i1 != D1 - 1) {
          i1++;
          address += S1;
        } else {
          i1 = 0;
          address -= (D1 - 1) * S1;
          i0++;
          address += S0;
        }
      }
    }
  }
};

// Another order of the same SIZE numbers, through a buffer that holds the frame: number i of the stream goes to the address that Write gives at
// step i, and the result reads the addresses of Read.
template <int SIZE, class Write, class Read, class T>
void permute(hls::stream<vec<T, 1> >& in, hls::stream<vec<T, 1> >& out) {
#pragma HLS INLINE
  T frame[SIZE];
  Write write;
permute_write:
  for (int i = 0; i < SIZE; i++) {
    QFX_PIPELINE
    QFX_TURN();
    frame[write.address] = in.read()[0];
    write.next();
  }
  Read read;
permute_read:
  for (int i = 0; i < SIZE; i++) {
    QFX_PIPELINE
    QFX_TURN();
    vec<T, 1> word;
    word[0] = frame[read.address];
    out.write(word);
    read.next();
  }
}

// The same with the write addresses in a table, for orders that are no loop nest.
template <int SIZE, class Read, class T, class Address>
void permute_by_table(hls::stream<vec<T, 1> >& in, hls::stream<vec<T, 1> >& out, const Address (&table)[SIZE]) {
#pragma HLS INLINE
  T frame[SIZE];
permute_table_write:
  for (int i = 0; i < SIZE; i++) {
    QFX_PIPELINE
    QFX_TURN();
    frame[table[i]] = in.read()[0];
  }
  Read read;
permute_table_read:
  for (int i = 0; i < SIZE; i++) {
    QFX_PIPELINE
    QFX_TURN();
    vec<T, 1> word;
    word[0] = frame[read.address];
    out.write(word);
    read.next();
  }
}

}  // namespace qfx

#endif
