// A second stream of a process that has an epilogue: a word of it for each word that leaves, the numbers of both lane by lane in the same order. The
// epilogue then joins two values (the sum at the end of a residual branch): Epilogue::apply(x, beside, pixel, channel).
#ifndef QFX_BESIDE_H
#define QFX_BESIDE_H

#include "qfx/types.h"

namespace qfx {

// Stands where there is no second stream, and for the words that it has not.
struct nothing_beside {};

template <class Beside>
struct beside_word {
  typedef nothing_beside type;
};
template <class Word>
struct beside_word<hls::stream<Word> > {
  typedef Word type;
};

// The next word, if it is `due` in this turn.
inline void take_beside(nothing_beside&, nothing_beside&, const bool) {
#pragma HLS INLINE
}
template <class Word>
inline void take_beside(hls::stream<Word>& beside, Word& word, const bool due) {
#pragma HLS INLINE
  if (due) word = beside.read();
}

// What leaves of one number.
template <class Epilogue, class X>
inline typename Epilogue::out leave_beside(const X& x, const nothing_beside&, const int, const int pixel, const int channel) {
#pragma HLS INLINE
  return Epilogue::apply(x, pixel, channel);
}
template <class Epilogue, class X, class B, int P>
inline typename Epilogue::out leave_beside(const X& x, const vec<B, P>& word, const int lane, const int pixel, const int channel) {
#pragma HLS INLINE
  return Epilogue::apply(x, word[lane], pixel, channel);
}

}  // namespace qfx

#endif
