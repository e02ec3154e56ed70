// Processes of the fast emulator that take and make whole frames, layer at a time. Not synthesized.
//
// Each has the name and the parameters of the process of the template library whose numbers it computes, and is called in its place where the streams are
// qfx_native::frames (hls_stream.h), which are better matches. What has no form here goes word by word. Epilogues, joins and casts are the library's own:
// only the order of the loops differs, and how sums are added up (qfx_dot.h).
#ifndef QFX_NATIVE_QFX_LAYERS_H
#define QFX_NATIVE_QFX_LAYERS_H

#include <cstring>

#include "qfx/elementwise.h"
#include "qfx/pool.h"
#include "qfx/sequence.h"
#include "qfx/shape.h"
#include "qfx/width.h"
#include "qfx/window.h"

#include "qfx_products.h"

namespace qfx {

// How many indices a span has.
template <class Span>
struct span_count {
  static const int value = (Span::STOP - Span::START + Span::STEP - 1) / Span::STEP;
};

// A row of the window at once where its pixels lie side by side.
template <class S, class T, int P>
void window(qfx_native::frames<vec<T, P> >& in, qfx_native::frames<vec<T, P> >& out, const T& padding, typename memory_word<T, P>::type (&)[S::SIZE]) {
  static const int CHANNELS = S::CHUNKS * P, PART = S::INNER * P;  // numbers of a pixel, and of it as many as a window takes together
  static const bool TOGETHER = S::OUTER == 1 && S::DW == 1;
  static const size_t WORDS = size_t(S::OH) * S::OW * S::OUTER * S::KH * S::KW * S::INNER;
  const T* x = qfx_native::come(in, S::READS);
  T* __restrict to = qfx_native::leave(out, WORDS);
  for (int oy = 0; oy < S::OH; oy++) {
    for (int ox = 0; ox < S::OW; ox++) {
      const int left = ox * S::SW - S::PAD_LEFT;
      for (int outer = 0; outer < S::OUTER; outer++) {
        for (int ky = 0; ky < S::KH; ky++) {
          const int y = oy * S::SH - S::PAD_TOP + ky * S::DH;
          if (y < 0 || y >= S::H) {
            for (int i = 0; i < S::KW * PART; i++) to[i] = padding;
            to += S::KW * PART;
          } else if (TOGETHER && left >= 0 && left + S::KW <= S::W) {
            std::memcpy(to, x + size_t(y * S::W + left) * CHANNELS, S::KW * CHANNELS * sizeof(T));
            to += S::KW * PART;
          } else {
            for (int kx = 0; kx < S::KW; kx++) {
              const int column = left + kx * S::DW;
              if (column < 0 || column >= S::W) {
                for (int i = 0; i < PART; i++) to[i] = padding;
              } else {
                std::memcpy(to, x + size_t(y * S::W + column) * CHANNELS + outer * PART, PART * sizeof(T));
              }
              to += PART;
            }
          }
        }
      }
    }
  }
  in.drop(S::READS);
  out.filled(WORDS);
}

template <class S, int TAP_Y, int TAP_X, class T, int P>
void window_tap(qfx_native::frames<vec<T, P> >& in, qfx_native::frames<vec<T, P> >& out, qfx_native::frames<vec<T, P> >& tap, const T& padding,
                typename memory_word<T, P>::type (&line)[S::SIZE]) {
  static const size_t WORDS = size_t(S::OH) * S::OW * S::CHUNKS, PIXEL = S::CHUNKS * sizeof(vec<T, P>);
  const char* x = in.look(S::READS);
  char* to = tap.room(WORDS);
  for (int oy = 0; oy < S::OH; oy++) {
    for (int ox = 0; ox < S::OW; ox++) {
      const int y = oy * S::SH - S::PAD_TOP + TAP_Y * S::DH, column = ox * S::SW - S::PAD_LEFT + TAP_X * S::DW;  // inside the frame
      std::memcpy(to, x + (size_t(y) * S::W + column) * PIXEL, PIXEL);
      to += PIXEL;
    }
  }
  tap.filled(WORDS);
  window<S>(in, out, padding, line);
}

template <class Epilogue, int PIXELS, int CHANNELS, class T, int P>
void pointwise(qfx_native::frames<vec<T, P> >& in, qfx_native::frames<vec<typename Epilogue::out, P> >& out) {
  static const size_t WORDS = size_t(PIXELS) * (CHANNELS / P);
  const T* __restrict x = qfx_native::come(in, WORDS);
  typename Epilogue::out* __restrict y = qfx_native::leave(out, WORDS);
  for (int pixel = 0; pixel < PIXELS; pixel++) {
    for (int channel = 0; channel < CHANNELS; channel++) y[channel] = Epilogue::apply(x[channel], pixel, channel);
    x += CHANNELS;
    y += CHANNELS;
  }
  in.drop(WORDS);
  out.filled(WORDS);
}

template <class Epilogue, int PIXELS, int CHANNELS, class A, class B, int P>
void binary(qfx_native::frames<vec<A, P> >& a, qfx_native::frames<vec<B, P> >& b, qfx_native::frames<vec<typename Epilogue::out, P> >& out) {
  static const size_t WORDS = size_t(PIXELS) * (CHANNELS / P);
  const A* __restrict left = qfx_native::come(a, WORDS);
  const B* __restrict right = qfx_native::come(b, WORDS);
  typename Epilogue::out* __restrict y = qfx_native::leave(out, WORDS);
  for (int pixel = 0; pixel < PIXELS; pixel++) {
    for (int channel = 0; channel < CHANNELS; channel++) y[channel] = Epilogue::apply(left[channel], right[channel], pixel, channel);
    left += CHANNELS;
    right += CHANNELS;
    y += CHANNELS;
  }
  a.drop(WORDS);
  b.drop(WORDS);
  out.filled(WORDS);
}

template <int WORDS, class T, int P>
void fork(qfx_native::frames<vec<T, P> >& in, qfx_native::frames<vec<T, P> >& out0, qfx_native::frames<vec<T, P> >& out1) {
  const char* x = in.look(WORDS);
  std::memcpy(out0.room(WORDS), x, WORDS * sizeof(vec<T, P>));
  std::memcpy(out1.room(WORDS), x, WORDS * sizeof(vec<T, P>));
  in.drop(WORDS);
  out0.filled(WORDS);
  out1.filled(WORDS);
}

// A frame is the same array in words of any length.
template <int WORDS, int FROM, int TO, class T>
void widen(qfx_native::frames<vec<T, FROM> >& in, qfx_native::frames<vec<T, TO> >& out) {
  std::memcpy(out.room(WORDS), in.look(WORDS * (TO / FROM)), WORDS * sizeof(vec<T, TO>));
  in.drop(WORDS * (TO / FROM));
  out.filled(WORDS);
}

template <int WORDS, int FROM, int TO, class T>
void narrow(qfx_native::frames<vec<T, FROM> >& in, qfx_native::frames<vec<T, TO> >& out) {
  std::memcpy(out.room(WORDS * (FROM / TO)), in.look(WORDS), WORDS * sizeof(vec<T, FROM>));
  in.drop(WORDS);
  out.filled(WORDS * (FROM / TO));
}

template <int WORDS, class T, class R, int P>
void hand_over(qfx_native::frames<vec<T, P> >& in, qfx_native::frames<vec<R, P> >& out) {
  const T* __restrict x = qfx_native::come(in, WORDS);
  R* __restrict y = qfx_native::leave(out, WORDS);
  for (int i = 0; i < WORDS * P; i++) y[i] = R(x[i]);
  in.drop(WORDS);
  out.filled(WORDS);
}

template <class Epilogue, class Joined, int SHIFT_A, int SHIFT_B, int PIXELS, int CHANNELS_A, int CHANNELS_B, class A, class B, int P>
void concat(qfx_native::frames<vec<A, P> >& a, qfx_native::frames<vec<B, P> >& b, qfx_native::frames<vec<typename Epilogue::out, P> >& out) {
  static const size_t WORDS_A = size_t(PIXELS) * (CHANNELS_A / P), WORDS_B = size_t(PIXELS) * (CHANNELS_B / P);
  const A* __restrict first = qfx_native::come(a, WORDS_A);
  const B* __restrict second = qfx_native::come(b, WORDS_B);
  typename Epilogue::out* __restrict y = qfx_native::leave(out, WORDS_A + WORDS_B);
  for (int pixel = 0; pixel < PIXELS; pixel++) {
    for (int i = 0; i < CHANNELS_A; i++) y[i] = Epilogue::apply(shl<Joined>(first[i], SHIFT_A), pixel, i);
    y += CHANNELS_A;
    for (int i = 0; i < CHANNELS_B; i++) y[i] = Epilogue::apply(shl<Joined>(second[i], SHIFT_B), pixel, CHANNELS_A + i);
    y += CHANNELS_B;
    first += CHANNELS_A;
    second += CHANNELS_B;
  }
  a.drop(WORDS_A);
  b.drop(WORDS_B);
  out.filled(WORDS_A + WORDS_B);
}

template <int H, int W, int CHUNKS, int OH, int OW, int OC, int TOP, int LEFT, int FIRST, class T, class R, int P>
void pad(qfx_native::frames<vec<T, P> >& in, qfx_native::frames<vec<R, P> >& out) {
  static const size_t WORDS_IN = size_t(H) * W * CHUNKS, WORDS_OUT = size_t(OH) * OW * OC;
  const T* __restrict x = qfx_native::come(in, WORDS_IN);
  R* __restrict to = qfx_native::leave(out, WORDS_OUT);
  for (size_t i = 0; i < WORDS_OUT * P; i++) to[i] = 0;
  for (int row = 0; row < H; row++) {
    for (int column = 0; column < W; column++) {
      R* __restrict place = to + ((size_t(row + TOP) * OW + column + LEFT) * OC + FIRST) * P;
      for (int i = 0; i < CHUNKS * P; i++) place[i] = R(x[i]);
      x += CHUNKS * P;
    }
  }
  in.drop(WORDS_IN);
  out.filled(WORDS_OUT);
}

// The spans of a slice name the indices that stay.
template <int H, int W, int CHUNKS, class SpanY, class SpanX, class SpanChunk, class T, int P>
void slice(qfx_native::frames<vec<T, P> >& in, qfx_native::frames<vec<T, P> >& out) {
  static const size_t WORDS_IN = size_t(H) * W * CHUNKS, WORDS_OUT = size_t(span_count<SpanY>::value) * span_count<SpanX>::value * span_count<SpanChunk>::value;
  const char* x = in.look(WORDS_IN);
  char* to = out.room(WORDS_OUT);
  for (int y = SpanY::START; y < SpanY::STOP; y += SpanY::STEP) {
    for (int column = SpanX::START; column < SpanX::STOP; column += SpanX::STEP) {
      for (int chunk = SpanChunk::START; chunk < SpanChunk::STOP; chunk += SpanChunk::STEP) {
        std::memcpy(to, x + ((size_t(y) * W + column) * CHUNKS + chunk) * sizeof(vec<T, P>), sizeof(vec<T, P>));
        to += sizeof(vec<T, P>);
      }
    }
  }
  in.drop(WORDS_IN);
  out.filled(WORDS_OUT);
}

template <int H, int W, int CHUNKS, int ROWS, int COLUMNS, class T, int P>
void repeat(qfx_native::frames<vec<T, P> >& in, qfx_native::frames<vec<T, P> >& out, typename memory_word<T, P>::type (&)[W * CHUNKS]) {
  static const size_t WORDS_IN = size_t(H) * W * CHUNKS, PIXEL = CHUNKS * sizeof(vec<T, P>), ROW = W * COLUMNS * PIXEL;
  const char* x = in.look(WORDS_IN);
  char* to = out.room(WORDS_IN * ROWS * COLUMNS);
  for (int y = 0; y < H; y++) {
    char* const row = to;
    for (int column = 0; column < W; column++) {
      for (int i = 0; i < COLUMNS; i++) {
        std::memcpy(to, x, PIXEL);
        to += PIXEL;
      }
      x += PIXEL;
    }
    for (int i = 1; i < ROWS; i++) {
      std::memcpy(to, row, ROW);
      to += ROW;
    }
  }
  in.drop(WORDS_IN);
  out.filled(WORDS_IN * ROWS * COLUMNS);
}

template <class Join, class Epilogue, class Acc, int PIXELS, int CHANNELS, int TAPS, int TOGETHER, class T, int P>
void pool(qfx_native::frames<vec<T, TOGETHER * P> >& in, qfx_native::frames<vec<typename Epilogue::out, P> >& out) {
  static const size_t WORDS_OUT = size_t(PIXELS) * (CHANNELS / P), WORDS_IN = WORDS_OUT * (TAPS / TOGETHER);
  const T* __restrict x = qfx_native::come(in, WORDS_IN);
  typename Epilogue::out* __restrict y = qfx_native::leave(out, WORDS_OUT);
  for (int pixel = 0; pixel < PIXELS; pixel++) {
    for (int channel = 0; channel < CHANNELS; channel += P) {
      Acc acc[P];
      for (int p = 0; p < P; p++) acc[p] = Acc(x[p]);
      for (int tap = 1; tap < TAPS; tap++) {
        for (int p = 0; p < P; p++) acc[p] = Join::join(acc[p], x[tap * P + p]);
      }
      for (int p = 0; p < P; p++) y[p] = Epilogue::apply(acc[p], pixel, channel + p);
      x += TAPS * P;
      y += P;
    }
  }
  in.drop(WORDS_IN);
  out.filled(WORDS_OUT);
}

template <class Join, class Epilogue, class Acc, int PIXELS, int CHANNELS, int TAPS, int ABREAST, class T>
void pool_abreast(qfx_native::frames<vec<T, ABREAST * TAPS * CHANNELS> >& in, qfx_native::frames<vec<typename Epilogue::out, ABREAST * CHANNELS> >& out) {
  static const size_t WORDS = PIXELS / ABREAST;
  const T* __restrict x = qfx_native::come(in, WORDS);
  typename Epilogue::out* __restrict y = qfx_native::leave(out, WORDS);
  for (int pixel = 0; pixel < PIXELS; pixel++) {
    Acc acc[CHANNELS];
    for (int p = 0; p < CHANNELS; p++) acc[p] = Acc(x[p]);
    for (int tap = 1; tap < TAPS; tap++) {
      for (int p = 0; p < CHANNELS; p++) acc[p] = Join::join(acc[p], x[tap * CHANNELS + p]);
    }
    for (int p = 0; p < CHANNELS; p++) y[p] = Epilogue::apply(acc[p], pixel, p);
    x += TAPS * CHANNELS;
    y += CHANNELS;
  }
  in.drop(WORDS);
  out.filled(WORDS);
}

template <class Join, class Epilogue, class Acc, int PIXELS, int CHANNELS, class T, int P>
void pool_few(qfx_native::frames<vec<T, P> >& in, qfx_native::frames<vec<typename Epilogue::out, P> >& out) {
  static const size_t WORDS_OUT = CHANNELS / P, WORDS_IN = WORDS_OUT * PIXELS;
  const T* __restrict x = qfx_native::come(in, WORDS_IN);
  typename Epilogue::out* __restrict y = qfx_native::leave(out, WORDS_OUT);
  Acc acc[CHANNELS];
  for (int i = 0; i < CHANNELS; i++) acc[i] = Acc(x[i]);
  for (int pixel = 1; pixel < PIXELS; pixel++) {
    x += CHANNELS;
    for (int i = 0; i < CHANNELS; i++) acc[i] = Join::join(acc[i], x[i]);
  }
  for (int i = 0; i < CHANNELS; i++) y[i] = Epilogue::apply(acc[i], 0, i);
  in.drop(WORDS_IN);
  out.filled(WORDS_OUT);
}

template <class Join, class Epilogue, class Acc, int PIXELS, int CHANNELS, class T, int P>
void pool_many(qfx_native::frames<vec<T, P> >& in, qfx_native::frames<vec<typename Epilogue::out, P> >& out,
               typename memory_word<Acc, P>::type (&)[CHANNELS / P]) {
  pool_few<Join, Epilogue, Acc, PIXELS, CHANNELS>(in, out);
}

}  // namespace qfx

#endif
