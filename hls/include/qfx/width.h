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
      QFX_PIPELINE_FRAMES
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
      QFX_PIPELINE_FRAMES
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
    QFX_PIPELINE_FRAMES
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
    QFX_PIPELINE_FRAMES
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
    QFX_PIPELINE_FRAMES
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

// Several ports in one stream, one after the other in a frame: the numbers of a port lie dense in words of BITS, the first in the lowest bits, and the last
// word of a port is padded with zeros. WORDS of P numbers a port; BITS / (SLOT * P), a power of two, are in a word of the stream.
template <int WORDS, int SLOT, int BITS, class T, int P>
void from_merged(hls::stream<axi_word<BITS> >& in, hls::stream<vec<T, P> >& out) {
#pragma HLS INLINE
  ap_uint<BITS> wide = 0;
from_merged_word:
  for (int i = 0; i < WORDS; i++) {
    QFX_PIPELINE
    QFX_TURN();
    if (i % (BITS / (SLOT * P)) == 0) {
      const axi_word<BITS> port = in.read();
      wide = port.data;
    }
    vec<T, P> word;
    QFX_PACK(word)
  from_merged_lane:
    for (int p = 0; p < P; p++) {
#pragma HLS UNROLL
      word[p] = T(ap_uint<SLOT>(wide.range(p * SLOT + SLOT - 1, p * SLOT)));
    }
    out.write(word);
    wide >>= SLOT * P;
  }
}

// The last port of a frame: the TLAST that comes with the frame's last word goes round, as in from_port.
template <int WORDS, int SLOT, int BITS, class T, int P>
void from_merged(hls::stream<axi_word<BITS> >& in, hls::stream<vec<T, P> >& out, hls::stream<vec<uint<1>, 1> >& last) {
#pragma HLS INLINE
  ap_uint<BITS> wide = 0;
  bool ends = false;
from_merged_last_word:
  for (int i = 0; i < WORDS; i++) {
    QFX_PIPELINE
    QFX_TURN();
    if (i % (BITS / (SLOT * P)) == 0) {
      const axi_word<BITS> port = in.read();
      wide = port.data;
      ends = port.last != 0;
    }
    vec<T, P> word;
    QFX_PACK(word)
  from_merged_last_lane:
    for (int p = 0; p < P; p++) {
#pragma HLS UNROLL
      word[p] = T(ap_uint<SLOT>(wide.range(p * SLOT + SLOT - 1, p * SLOT)));
    }
    out.write(word);
    wide >>= SLOT * P;
    if (i == WORDS - 1) {
      vec<uint<1>, 1> bit;
      QFX_PACK(bit)
      bit[0] = ends;
      last.write(bit);
    }
  }
}

template <int WORDS, int SLOT, int BITS, class T, int P>
void to_merged(hls::stream<vec<T, P> >& in, hls::stream<axi_word<BITS> >& out) {
#pragma HLS INLINE
  ap_uint<BITS> wide = 0;
to_merged_word:
  for (int i = 0; i < WORDS; i++) {
    QFX_PIPELINE
    QFX_TURN();
    const vec<T, P> word = in.read();
    const int part = i % (BITS / (SLOT * P));
    if (part == 0) {
      wide = 0;
    }
  to_merged_lane:
    for (int place = 0; place < BITS / SLOT; place++) {
#pragma HLS UNROLL
      if (place / P == part) {
        wide.range(place * SLOT + SLOT - 1, place * SLOT) = ap_uint<SLOT>(word[place % P]);
      }
    }
    if (part == BITS / (SLOT * P) - 1 || i == WORDS - 1) {
      out.write(axi<BITS>(wide, false));
    }
  }
}

// The last port of a frame: its last word has the frame's TLAST.
template <int WORDS, int SLOT, int BITS, class T, int P>
void to_merged(hls::stream<vec<T, P> >& in, hls::stream<vec<uint<1>, 1> >& last, hls::stream<axi_word<BITS> >& out) {
#pragma HLS INLINE
  ap_uint<BITS> wide = 0;
to_merged_last_word:
  for (int i = 0; i < WORDS; i++) {
    QFX_PIPELINE
    QFX_TURN();
    const vec<T, P> word = in.read();
    const int part = i % (BITS / (SLOT * P));
    if (part == 0) {
      wide = 0;
    }
  to_merged_last_lane:
    for (int place = 0; place < BITS / SLOT; place++) {
#pragma HLS UNROLL
      if (place / P == part) {
        wide.range(place * SLOT + SLOT - 1, place * SLOT) = ap_uint<SLOT>(word[place % P]);
      }
    }
    bool ends = false;
    if (i == WORDS - 1) {
      ends = last.read()[0] != 0;
    }
    if (part == BITS / (SLOT * P) - 1 || i == WORDS - 1) {
      out.write(axi<BITS>(wide, ends));
    }
  }
}

}  // namespace qfx

#endif
