// Processes of a loop over the steps of a sequence: what enters and leaves a step, and the states that one step hands to the next.
#ifndef QFX_SEQUENCE_H
#define QFX_SEQUENCE_H

#include "qfx/storage.h"
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

// A state as a frame, word by word, and a frame as the next state. States are memories of words (storage.h).
template <int WORDS, class T, int P>
void recall(const typename memory_word<T, P>::type (&kept)[WORDS], hls::stream<vec<T, P> >& out) {
#pragma HLS INLINE
recall_word:
  for (int i = 0; i < WORDS; i++) {
    QFX_PIPELINE
    QFX_TURN();
    out.write(memory_word<T, P>::numbers(kept[i]));
  }
}

template <int WORDS, class R, class T, int P>
void keep(hls::stream<vec<T, P> >& in, typename memory_word<R, P>::type (&kept)[WORDS]) {
#pragma HLS INLINE
keep_word:
  for (int i = 0; i < WORDS; i++) {
    QFX_PIPELINE
    QFX_TURN();
    kept[i] = memory_word<R, P>::of(in.read());
  }
}

// A state before the first step: zeros.
template <int WORDS, class T, int P>
void forget(typename memory_word<T, P>::type (&kept)[WORDS]) {
#pragma HLS INLINE
  vec<T, P> zeros;
forget_lane:
  for (int p = 0; p < P; p++) {
#pragma HLS UNROLL
    zeros[p] = T(0);
  }
forget_word:
  for (int i = 0; i < WORDS; i++) {
    QFX_PIPELINE
    QFX_TURN();
    kept[i] = memory_word<T, P>::of(zeros);
  }
}

// Between two steps: the next state is the present one.
template <int WORDS, class Word>
void advance(const Word (&next)[WORDS], Word (&now)[WORDS]) {
#pragma HLS INLINE
advance_word:
  for (int i = 0; i < WORDS; i++) {
    QFX_PIPELINE
    QFX_TURN();
    now[i] = next[i];
  }
}

}  // namespace qfx

#endif
