// A second stream that leaves a window unit: one tap of every window. Where the tap of each window is a pixel that another layer reads, that layer needs
// neither a copy of the frame nor a window unit of its own, and reads its pixels as late as the windows come.
#ifndef QFX_TAP_H
#define QFX_TAP_H

#include "qfx/types.h"

namespace qfx {

// Stands where there is no such stream.
struct no_tap {};

// The word, if it is `due` in this turn.
template <class Word>
inline void give_tap(no_tap&, const Word&, const bool) {
#pragma HLS INLINE
}
template <class Word>
inline void give_tap(hls::stream<Word>& tap, const Word& word, const bool due) {
#pragma HLS INLINE
  if (due) tap.write(word);
}

// The tap number AT of a window whose taps are all in the word, if it is `due`.
template <int AT, class T, int TAPS>
inline void give_part(no_tap&, const vec<T, TAPS>&, const bool) {
#pragma HLS INLINE
}
template <int AT, class T, int TAPS, int P>
inline void give_part(hls::stream<vec<T, P> >& tap, const vec<T, TAPS>& window, const bool due) {
#pragma HLS INLINE
  if (due) {
    vec<T, P> word;
    QFX_PACK(word)
  tap_lane:
    for (int p = 0; p < P; p++) {
#pragma HLS UNROLL
      word[p] = window[AT * P + p];
    }
    tap.write(word);
  }
}

}  // namespace qfx

#endif
