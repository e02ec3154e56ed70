// Processes of a loop over the steps of a sequence: what enters and leaves a step, and the states that one step hands to the next.
#ifndef QFX_SEQUENCE_H
#define QFX_SEQUENCE_H

#include "qfx/types.h"

namespace qfx {

// WORDS words of the same numbers in another type, which holds them: a step's numbers on their way in or out.
template <int WORDS, class T, class R, int P>
void hand_over(hls::stream<vec<T, P> >& in, hls::stream<vec<R, P> >& out) {
#pragma HLS INLINE
hand_over_word:
  for (int i = 0; i < WORDS; i++) {
    QFX_PIPELINE
    QFX_TURN();
    const vec<T, P> word = in.read();
    vec<R, P> handed;
    QFX_PACK(handed)
  hand_over_lane:
    for (int p = 0; p < P; p++) {
#pragma HLS UNROLL
      handed[p] = R(word[p]);
    }
    out.write(handed);
  }
}

// A state as a frame, word by word, and a frame as the next state.
template <int WORDS, class T, int P>
void recall(const T (&kept)[WORDS][P], hls::stream<vec<T, P> >& out) {
#pragma HLS INLINE
recall_word:
  for (int i = 0; i < WORDS; i++) {
    QFX_PIPELINE
    QFX_TURN();
    vec<T, P> word;
    QFX_PACK(word)
  recall_lane:
    for (int p = 0; p < P; p++) {
#pragma HLS UNROLL
      word[p] = kept[i][p];
    }
    out.write(word);
  }
}

template <int WORDS, class T, class R, int P>
void keep(hls::stream<vec<T, P> >& in, R (&kept)[WORDS][P]) {
#pragma HLS INLINE
keep_word:
  for (int i = 0; i < WORDS; i++) {
    QFX_PIPELINE
    QFX_TURN();
    const vec<T, P> word = in.read();
  keep_lane:
    for (int p = 0; p < P; p++) {
#pragma HLS UNROLL
      kept[i][p] = R(word[p]);
    }
  }
}

// A state before the first step: zeros.
template <int WORDS, class T, int P>
void forget(T (&kept)[WORDS][P]) {
#pragma HLS INLINE
forget_word:
  for (int i = 0; i < WORDS; i++) {
    QFX_PIPELINE
    QFX_TURN();
  forget_lane:
    for (int p = 0; p < P; p++) {
#pragma HLS UNROLL
      kept[i][p] = T(0);
    }
  }
}

// Between two steps: the next state is the present one.
template <int WORDS, class T, int P>
void advance(const T (&next)[WORDS][P], T (&now)[WORDS][P]) {
#pragma HLS INLINE
advance_word:
  for (int i = 0; i < WORDS; i++) {
    QFX_PIPELINE
    QFX_TURN();
  advance_lane:
    for (int p = 0; p < P; p++) {
#pragma HLS UNROLL
      now[i][p] = next[i][p];
    }
  }
}

}  // namespace qfx

#endif
