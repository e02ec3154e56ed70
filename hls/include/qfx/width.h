// Changes of the number of channels per word, and the ports of the top function.
#ifndef QFX_WIDTH_H
#define QFX_WIDTH_H

#include "qfx/axi.h"
#include "qfx/types.h"

namespace qfx {

// TO / FROM words of FROM numbers become one of TO; WORDS counts the words that leave.
template <int WORDS, int FROM, int TO, class T>
void widen(hls::stream<vec<T, FROM> >& in, hls::stream<vec<T, TO> >& out) {
#pragma HLS INLINE
  vec<T, TO> wide;
  QFX_PACK(wide)
widen_word:
  for (int i = 0; i < WORDS; i++) {
  widen_part:
    for (int part = 0; part < TO / FROM; part++) {
      QFX_PIPELINE
      QFX_TURN();
      const vec<T, FROM> word = in.read();
    widen_shift:
      for (int p = 0; p < TO - FROM; p++) {
#pragma HLS UNROLL
        wide[p] = wide[p + FROM];
      }
    widen_lane:
      for (int p = 0; p < FROM; p++) {
#pragma HLS UNROLL
        wide[TO - FROM + p] = word[p];
      }
      if (part == TO / FROM - 1) {
        out.write(wide);
      }
    }
  }
}

// One word of FROM numbers becomes FROM / TO words of TO; WORDS counts the words that come.
template <int WORDS, int FROM, int TO, class T>
void narrow(hls::stream<vec<T, FROM> >& in, hls::stream<vec<T, TO> >& out) {
#pragma HLS INLINE
  vec<T, FROM> wide;
narrow_word:
  for (int i = 0; i < WORDS; i++) {
  narrow_part:
    for (int part = 0; part < FROM / TO; part++) {
      QFX_PIPELINE
      QFX_TURN();
      if (part == 0) {
        wide = in.read();
      }
      vec<T, TO> word;
      QFX_PACK(word)
    narrow_lane:
      for (int p = 0; p < TO; p++) {
#pragma HLS UNROLL
        word[p] = wide[p];
      }
      out.write(word);
    narrow_shift:
      for (int p = 0; p < FROM - TO; p++) {
#pragma HLS UNROLL
        wide[p] = wide[p + TO];
      }
    }
  }
}

// A port word carries its P numbers in slots of SLOT bits (8, 16, 32 or 64), the first in the lowest bits; what a slot has beyond the number's
// width is sign (or zero) extension on the way out and is ignored on the way in.
//
// TLAST travels beside the numbers, one bit a frame: that of the frame's last word. It is written together with that word, or after it. So whenever the
// FIFO of `last` is full, the frames that its bits belong to have come in whole, the oldest of them will leave without anything that comes later, and
// to_port then reads its bit: a full FIFO holds the input back for a while but never for good, whatever its depth.
template <int WORDS, int SLOT, class T, int P>
void from_port(hls::stream<axi_word<SLOT * P> >& in, hls::stream<vec<T, P> >& out, hls::stream<vec<uint<1>, 1> >& last) {
#pragma HLS INLINE
from_port_word:
  for (int i = 0; i < WORDS; i++) {
    QFX_PIPELINE
    QFX_TURN();
    const axi_word<SLOT * P> port = in.read();
    vec<T, P> word;
    QFX_PACK(word)
  from_port_lane:
    for (int p = 0; p < P; p++) {
#pragma HLS UNROLL
      word[p] = T(ap_uint<SLOT>(port.data.range(p * SLOT + SLOT - 1, p * SLOT)));
    }
    out.write(word);
    if (i == WORDS - 1) {
      vec<uint<1>, 1> bit;
      QFX_PACK(bit)
      bit[0] = port.last;
      last.write(bit);
    }
  }
}

// An input of several: the TLAST of another of them goes round, and that of this one is ignored.
template <int WORDS, int SLOT, class T, int P>
void from_port(hls::stream<axi_word<SLOT * P> >& in, hls::stream<vec<T, P> >& out) {
#pragma HLS INLINE
from_port_unmarked_word:
  for (int i = 0; i < WORDS; i++) {
    QFX_PIPELINE
    QFX_TURN();
    const axi_word<SLOT * P> port = in.read();
    vec<T, P> word;
    QFX_PACK(word)
  from_port_unmarked_lane:
    for (int p = 0; p < P; p++) {
#pragma HLS UNROLL
      word[p] = T(ap_uint<SLOT>(port.data.range(p * SLOT + SLOT - 1, p * SLOT)));
    }
    out.write(word);
  }
}

// The frame's last word carries the frame's TLAST; so a transfer of many frames ends with one TLAST, as it began.
template <int WORDS, int SLOT, class T, int P>
void to_port(hls::stream<vec<T, P> >& in, hls::stream<vec<uint<1>, 1> >& last, hls::stream<axi_word<SLOT * P> >& out) {
#pragma HLS INLINE
to_port_word:
  for (int i = 0; i < WORDS; i++) {
    QFX_PIPELINE
    QFX_TURN();
    const vec<T, P> word = in.read();
    ap_uint<SLOT * P> port = 0;
  to_port_lane:
    for (int p = 0; p < P; p++) {
#pragma HLS UNROLL
      port.range(p * SLOT + SLOT - 1, p * SLOT) = ap_uint<SLOT>(word[p]);
    }
    bool ends = false;
    if (i == WORDS - 1) {
      ends = last.read()[0] != 0;
    }
    out.write(axi<SLOT * P>(port, ends));
  }
}

}  // namespace qfx

#endif
