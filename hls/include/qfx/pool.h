// Pools. The windowed ones read what qfx::window writes channel chunk by channel chunk; the global ones read the frame itself.
#ifndef QFX_POOL_H
#define QFX_POOL_H

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

// TAPS words in, one word out, for each pixel and chunk of P channels.
template <class Join, class Epilogue, class Acc, int PIXELS, int CHANNELS, int TAPS, class T, int P>
void pool(hls::stream<vec<T, P> >& in, hls::stream<vec<typename Epilogue::out, P> >& out) {
#pragma HLS INLINE
  Acc acc[P];
#pragma HLS ARRAY_PARTITION variable=acc complete dim=1
pool_pixel:
  for (int pixel = 0; pixel < PIXELS; pixel++) {
  pool_channel:
    for (int channel = 0; channel < CHANNELS; channel += P) {
    pool_tap:
      for (int tap = 0; tap < TAPS; tap++) {
        QFX_PIPELINE
        QFX_TURN();
        const vec<T, P> word = in.read();
      pool_lane:
        for (int p = 0; p < P; p++) {
#pragma HLS UNROLL
          acc[p] = tap == 0 ? Acc(word[p]) : Join::join(acc[p], word[p]);
        }
        if (tap == TAPS - 1) {
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

// One window that is the whole frame: an accumulator for every channel, no line buffer.
template <class Join, class Epilogue, class Acc, int PIXELS, int CHANNELS, class T, int P>
void pool_global(hls::stream<vec<T, P> >& in, hls::stream<vec<typename Epilogue::out, P> >& out) {
#pragma HLS INLINE
  Acc acc[CHANNELS / P][P];
#pragma HLS ARRAY_PARTITION variable=acc complete dim=2
pool_global_pixel:
  for (int pixel = 0; pixel < PIXELS; pixel++) {
  pool_global_chunk:
    for (int chunk = 0; chunk < CHANNELS / P; chunk++) {
      QFX_PIPELINE
      QFX_TURN();
      const vec<T, P> word = in.read();
      Acc joined[P];
#pragma HLS ARRAY_PARTITION variable=joined complete dim=1
    pool_global_lane:
      for (int p = 0; p < P; p++) {
#pragma HLS UNROLL
        joined[p] = pixel == 0 ? Acc(word[p]) : Join::join(acc[chunk][p], word[p]);
        acc[chunk][p] = joined[p];
      }
      if (pixel == PIXELS - 1) {
        vec<typename Epilogue::out, P> result;
        QFX_PACK(result)
      pool_global_epilogue:
        for (int p = 0; p < P; p++) {
#pragma HLS UNROLL
          result[p] = Epilogue::apply(joined[p], 0, chunk * P + p);
        }
        out.write(result);
      }
    }
  }
}

}  // namespace qfx

#endif
