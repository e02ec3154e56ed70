// Processes that map words one to one: pointwise operators on one stream, sums and products of two, and joining along the channels.
#ifndef QFX_ELEMENTWISE_H
#define QFX_ELEMENTWISE_H

#include "qfx/types.h"

namespace qfx {

// Epilogue::apply(x, pixel, channel) on every number of the frame; a word has P numbers, of ABREAST pixels.
template <class Epilogue, int PIXELS, int CHANNELS, int ABREAST = 1, class T, int P>
void pointwise(hls::stream<vec<T, P> >& in, hls::stream<vec<typename Epilogue::out, P> >& out) {
#pragma HLS INLINE
  static const int LANES = P / ABREAST;
pointwise_pixel:
  for (int pixel = 0; pixel < PIXELS / ABREAST; pixel++) {
  pointwise_channel:
    for (int channel = 0; channel < CHANNELS; channel += LANES) {
      QFX_PIPELINE_FRAMES
      QFX_TURN();
      const vec<T, P> word = in.read();
      vec<typename Epilogue::out, P> result;
      QFX_PACK(result)
    pointwise_lane:
      for (int p = 0; p < P; p++) {
#pragma HLS UNROLL
        result[p] = Epilogue::apply(word[p], pixel * ABREAST + p / LANES, channel + p % LANES);
      }
      out.write(result);
    }
  }
}

// Epilogue::apply(a, b, pixel, channel) on every pair, likewise.
template <class Epilogue, int PIXELS, int CHANNELS, int ABREAST = 1, class A, class B, int P>
void binary(hls::stream<vec<A, P> >& a, hls::stream<vec<B, P> >& b, hls::stream<vec<typename Epilogue::out, P> >& out) {
#pragma HLS INLINE
  static const int LANES = P / ABREAST;
binary_pixel:
  for (int pixel = 0; pixel < PIXELS / ABREAST; pixel++) {
  binary_channel:
    for (int channel = 0; channel < CHANNELS; channel += LANES) {
      QFX_PIPELINE_FRAMES
      QFX_TURN();
      const vec<A, P> left = a.read();
      const vec<B, P> right = b.read();
      vec<typename Epilogue::out, P> result;
      QFX_PACK(result)
    binary_lane:
      for (int p = 0; p < P; p++) {
#pragma HLS UNROLL
        result[p] = Epilogue::apply(left[p], right[p], pixel * ABREAST + p / LANES, channel + p % LANES);
      }
      out.write(result);
    }
  }
}

// For each pixel CHANNELS_A channels of a, then CHANNELS_B of b. SHIFT_A and SHIFT_B bring them onto the grid of Joined.
template <class Epilogue, class Joined, int SHIFT_A, int SHIFT_B, int PIXELS, int CHANNELS_A, int CHANNELS_B, class A, class B, int P>
void concat(hls::stream<vec<A, P> >& a, hls::stream<vec<B, P> >& b, hls::stream<vec<typename Epilogue::out, P> >& out) {
#pragma HLS INLINE
concat_pixel:
  for (int pixel = 0; pixel < PIXELS; pixel++) {
  concat_channel:
    for (int channel = 0; channel < CHANNELS_A + CHANNELS_B; channel += P) {
      QFX_PIPELINE_FRAMES
      QFX_TURN();
      vec<Joined, P> joined;
      if (channel < CHANNELS_A) {
        const vec<A, P> word = a.read();
      concat_a:
        for (int p = 0; p < P; p++) {
#pragma HLS UNROLL
          joined[p] = shl<Joined>(word[p], SHIFT_A);
        }
      } else {
        const vec<B, P> word = b.read();
      concat_b:
        for (int p = 0; p < P; p++) {
#pragma HLS UNROLL
          joined[p] = shl<Joined>(word[p], SHIFT_B);
        }
      }
      vec<typename Epilogue::out, P> result;
      QFX_PACK(result)
    concat_lane:
      for (int p = 0; p < P; p++) {
#pragma HLS UNROLL
        result[p] = Epilogue::apply(joined[p], pixel, channel + p);
      }
      out.write(result);
    }
  }
}

// ABREAST whole pixels at once, the channels of a beside those of b in each.
template <class Epilogue, class Joined, int SHIFT_A, int SHIFT_B, int PIXELS, int CHANNELS_A, int CHANNELS_B, int ABREAST, class A, class B>
void concat_abreast(hls::stream<vec<A, ABREAST * CHANNELS_A> >& a, hls::stream<vec<B, ABREAST * CHANNELS_B> >& b,
                    hls::stream<vec<typename Epilogue::out, ABREAST * (CHANNELS_A + CHANNELS_B)> >& out) {
#pragma HLS INLINE
  static const int CHANNELS = CHANNELS_A + CHANNELS_B;
concat_abreast_block:
  for (int block = 0; block < PIXELS / ABREAST; block++) {
    QFX_PIPELINE_FRAMES
    QFX_TURN();
    const vec<A, ABREAST * CHANNELS_A> left = a.read();
    const vec<B, ABREAST * CHANNELS_B> right = b.read();
    vec<typename Epilogue::out, ABREAST * CHANNELS> result;
    QFX_PACK(result)
  concat_abreast_pixel:
    for (int pixel = 0; pixel < ABREAST; pixel++) {
#pragma HLS UNROLL
    concat_abreast_a:
      for (int channel = 0; channel < CHANNELS_A; channel++) {
#pragma HLS UNROLL
        const Joined joined = shl<Joined>(left[pixel * CHANNELS_A + channel], SHIFT_A);
        result[pixel * CHANNELS + channel] = Epilogue::apply(joined, block * ABREAST + pixel, channel);
      }
    concat_abreast_b:
      for (int channel = 0; channel < CHANNELS_B; channel++) {
#pragma HLS UNROLL
        const Joined joined = shl<Joined>(right[pixel * CHANNELS_B + channel], SHIFT_B);
        result[pixel * CHANNELS + CHANNELS_A + channel] = Epilogue::apply(joined, block * ABREAST + pixel, CHANNELS_A + channel);
      }
    }
    out.write(result);
  }
}

}  // namespace qfx

#endif
