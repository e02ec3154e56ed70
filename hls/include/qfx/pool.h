// Pools. The windowed ones read what qfx::window writes channel chunk by channel chunk; the global ones read the frame itself.
#ifndef QFX_POOL_H
#define QFX_POOL_H

#include "qfx/storage.h"
#include "qfx/types.h"

namespace qfx {

// How a pool joins two numbers.
struct pool_sum {
  template <class Acc, class T>
  static inline Acc join(const Acc& acc, const T& x) {
#pragma HLS INLINE
    return Acc(acc + Acc(x));
  }
};

struct pool_max {
  template <class Acc, class T>
  static inline Acc join(const Acc& acc, const T& x) {
#pragma HLS INLINE
    return acc < Acc(x) ? Acc(x) : acc;
  }
};

struct pool_min {
  template <class Acc, class T>
  static inline Acc join(const Acc& acc, const T& x) {
#pragma HLS INLINE
    return Acc(x) < acc ? Acc(x) : acc;
  }
};

// TAPS numbers of each channel in, TOGETHER of them a word (the P channels of a tap side by side), one word out, for each pixel and chunk of P channels.
template <class Join, class Epilogue, class Acc, int PIXELS, int CHANNELS, int TAPS, int TOGETHER, class T, int P>
void pool(hls::stream<vec<T, TOGETHER * P> >& in, hls::stream<vec<typename Epilogue::out, P> >& out) {
#pragma HLS INLINE
  Acc acc[P];
#pragma HLS ARRAY_PARTITION variable=acc complete dim=1
pool_pixel:
  for (int pixel = 0; pixel < PIXELS; pixel++) {
  pool_channel:
    for (int channel = 0; channel < CHANNELS; channel += P) {
    pool_tap:
      for (int tap = 0; tap < TAPS / TOGETHER; tap++) {
        QFX_PIPELINE_FRAMES
        QFX_TURN();
        const vec<T, TOGETHER * P> word = in.read();
      pool_lane:
        for (int p = 0; p < P; p++) {
#pragma HLS UNROLL
          // The taps of the word are joined by themselves, so that only one join lies between a turn and the next.
          Acc joined = Acc(word[p]);
        pool_together:
          for (int t = 1; t < TOGETHER; t++) {
#pragma HLS UNROLL
            joined = Join::join(joined, word[t * P + p]);
          }
          acc[p] = tap == 0 ? joined : Join::join(acc[p], joined);
        }
        if (tap == TAPS / TOGETHER - 1) {
          vec<typename Epilogue::out, P> result;
          QFX_PACK(result)
        pool_epilogue:
          for (int p = 0; p < P; p++) {
#pragma HLS UNROLL
            result[p] = Epilogue::apply(acc[p], pixel, channel + p);
          }
          out.write(result);
        }
      }
    }
  }
}

// ABREAST neighbouring pixels at once: their windows lie one after the other in a word, in each the CHANNELS of a tap side by side. Nothing is carried
// from turn to turn.
template <class Join, class Epilogue, class Acc, int PIXELS, int CHANNELS, int TAPS, int ABREAST, class T>
void pool_abreast(hls::stream<vec<T, ABREAST * TAPS * CHANNELS> >& in, hls::stream<vec<typename Epilogue::out, ABREAST * CHANNELS> >& out) {
#pragma HLS INLINE
pool_abreast_block:
  for (int block = 0; block < PIXELS / ABREAST; block++) {
    QFX_PIPELINE_FRAMES
    QFX_TURN();
    const vec<T, ABREAST * TAPS * CHANNELS> word = in.read();
    vec<typename Epilogue::out, ABREAST * CHANNELS> result;
    QFX_PACK(result)
  pool_abreast_lane:
    for (int lane = 0; lane < ABREAST * CHANNELS; lane++) {
#pragma HLS UNROLL
      const int first = lane / CHANNELS * TAPS * CHANNELS + lane % CHANNELS;
      Acc joined = Acc(word[first]);
    pool_abreast_tap:
      for (int tap = 1; tap < TAPS; tap++) {
#pragma HLS UNROLL
        joined = Join::join(joined, word[first + tap * CHANNELS]);
      }
      result[lane] = Epilogue::apply(joined, block * ABREAST + lane / CHANNELS, lane % CHANNELS);
    }
    out.write(result);
  }
}

// One window that is the whole frame: an accumulator for every channel, no line buffer. A pixel's words come round again after CHUNKS turns. Up to 16
// of them are registers that shift, so that each turn joins the oldest.
template <class Join, class Epilogue, class Acc, int PIXELS, int CHANNELS, class T, int P>
void pool_few(hls::stream<vec<T, P> >& in, hls::stream<vec<typename Epilogue::out, P> >& out) {
#pragma HLS INLINE
  static const int CHUNKS = CHANNELS / P;
  Acc few[CHUNKS][P];
#pragma HLS ARRAY_PARTITION variable=few complete dim=0
  typename upto<CHUNKS>::type chunk = 0;
  typename upto<PIXELS>::type pixel = 0;
pool_few_word:
  for (int i = 0; i < PIXELS * CHUNKS; i++) {
    QFX_PIPELINE_FRAMES
    QFX_TURN();
    const vec<T, P> word = in.read();
    vec<Acc, P> joined;
  pool_few_lane:
    for (int p = 0; p < P; p++) {
#pragma HLS UNROLL
      joined[p] = pixel == 0 ? Acc(word[p]) : Join::join(few[0][p], word[p]);
    pool_few_shift:
      for (int k = 0; k < CHUNKS - 1; k++) {
#pragma HLS UNROLL
        few[k][p] = few[k + 1][p];
      }
      few[CHUNKS - 1][p] = joined[p];
    }
    if (pixel == PIXELS - 1) {
      vec<typename Epilogue::out, P> result;
      QFX_PACK(result)
    pool_few_epilogue:
      for (int p = 0; p < P; p++) {
#pragma HLS UNROLL
        result[p] = Epilogue::apply(joined[p], 0, int(chunk) * P + p);
      }
      out.write(result);
    }
    if (chunk == CHUNKS - 1) {
      chunk = 0;
      pixel = pixel + 1;
    } else {
      chunk = chunk + 1;
    }
  }
}

// More are a memory, whose load, join and store then have 16 cycles at least: the layer's function, to which it belongs, says so (DEPENDENCE distance 16).
template <class Join, class Epilogue, class Acc, int PIXELS, int CHANNELS, class T, int P>
void pool_many(hls::stream<vec<T, P> >& in, hls::stream<vec<typename Epilogue::out, P> >& out,
               typename memory_word<Acc, P>::type (&many)[CHANNELS / P]) {
#pragma HLS INLINE
  static const int CHUNKS = CHANNELS / P;
  typename upto<CHUNKS>::type chunk = 0;
  typename upto<PIXELS>::type pixel = 0;
pool_many_word:
  for (int i = 0; i < PIXELS * CHUNKS; i++) {
    QFX_PIPELINE_FRAMES
    QFX_TURN();
    const vec<T, P> word = in.read();
    vec<Acc, P> joined;
  pool_many_lane:
    for (int p = 0; p < P; p++) {
#pragma HLS UNROLL
      joined[p] = pixel == 0 ? Acc(word[p]) : Join::join(Acc(memory_word<Acc, P>::at(many[chunk], p)), word[p]);
    }
    many[chunk] = memory_word<Acc, P>::of(joined);
    if (pixel == PIXELS - 1) {
      vec<typename Epilogue::out, P> result;
      QFX_PACK(result)
    pool_many_epilogue:
      for (int p = 0; p < P; p++) {
#pragma HLS UNROLL
        result[p] = Epilogue::apply(joined[p], 0, int(chunk) * P + p);
      }
      out.write(result);
    }
    if (chunk == CHUNKS - 1) {
      chunk = 0;
      pixel = pixel + 1;
    } else {
      chunk = chunk + 1;
    }
  }
}

}  // namespace qfx

#endif
