// Several pixels of a turn, side by side in a word: what puts them there and takes them apart, and how a matrix-vector unit multiplies them, each of its
// weights with a number of every pixel.
#ifndef QFX_ABREAST_H
#define QFX_ABREAST_H

#include "qfx/multiply.h"
#include "qfx/rom.h"
#include "qfx/storage.h"
#include "qfx/types.h"

namespace qfx {

// GROUPS times PIXELS pixels of WORDS words each. Of the words of a pixel there is one place each in `line`; each turn reads a place and writes it again.
template <int GROUPS_, int WORDS_, int PIXELS_>
struct abreast_shape {
  static const int GROUPS = GROUPS_;
  static const int WORDS = WORDS_;
  static const int PIXELS = PIXELS_;
  static const int KEPT = PIXELS_ - 1;
  static const bool SHIFTS = WORDS_ < 8;  // so few words are registers that shift: a memory has not answered yet when the place comes round again
};

// The places of registers move on by a turn, and the last one is free.
template <class S, class Word>
inline void abreast_shift(Word (&line)[S::WORDS]) {
#pragma HLS INLINE
  if (S::SHIFTS) {
  abreast_place:
    for (int k = 0; k < S::WORDS - 1; k++) {
#pragma HLS UNROLL
      line[k] = line[k + 1];
    }
  }
}

// The words of PIXELS pixels that follow each other, one word of each side by side: as soon as the last pixel's word is there.
template <class S, class T, int N>
void gather(hls::stream<vec<T, N> >& in, hls::stream<vec<T, N * S::PIXELS> >& out, typename memory_word<T, N * S::KEPT>::type (&line)[S::WORDS]) {
#pragma HLS INLINE
  typedef memory_word<T, N * S::KEPT> kept;
gather_group:
  for (int group = 0; group < S::GROUPS; group++) {
  gather_pixel:
    for (int pixel = 0; pixel < S::PIXELS; pixel++) {
    gather_word:
      for (int i = 0; i < S::WORDS; i++) {
        QFX_PIPELINE_FRAMES
        QFX_TURN();
        const vec<T, N> word = in.read();
        const int place = S::SHIFTS ? 0 : i;
        vec<T, N * S::PIXELS> all;
        QFX_PACK(all)
        vec<T, N * S::KEPT> later;
      gather_lane:
        for (int p = 0; p < N * S::PIXELS; p++) {
#pragma HLS UNROLL
          all[p] = p < N * S::KEPT ? T(kept::at(line[place], p < N * S::KEPT ? p : 0)) : word[p < N * S::KEPT ? 0 : p - N * S::KEPT];
          if (p >= N) later[p < N ? 0 : p - N] = all[p];
        }
        abreast_shift<S>(line);
        line[S::SHIFTS ? S::WORDS - 1 : place] = kept::of(later);
        if (pixel == S::PIXELS - 1) out.write(all);
      }
    }
  }
}

// The other way: the first pixel's words leave as they come, the others wait for their turn. In a word lie so many pixels TOGETHER times, a part of N of
// each at a time: parts of rows instead of pixels, those of a group of pixels side by side in a word.
template <class S, int TOGETHER = 1, class T, int N>
void scatter(hls::stream<vec<T, N * S::PIXELS> >& in, hls::stream<vec<T, N> >& out, typename memory_word<T, N * S::KEPT>::type (&line)[S::WORDS]) {
#pragma HLS INLINE
  typedef memory_word<T, N * S::KEPT> kept;
  static const int PART = N / TOGETHER;
scatter_group:
  for (int group = 0; group < S::GROUPS; group++) {
  scatter_pixel:
    for (int pixel = 0; pixel < S::PIXELS; pixel++) {
    scatter_word:
      for (int i = 0; i < S::WORDS; i++) {
        QFX_PIPELINE_FRAMES
        QFX_TURN();
        const int place = S::SHIFTS ? 0 : i;
        vec<T, N * S::PIXELS> all;
        if (pixel == 0) {
          const vec<T, N * S::PIXELS> came = in.read();
        scatter_apart:
          for (int p = 0; p < N * S::PIXELS; p++) {
#pragma HLS UNROLL
            all[p] = came[p % N / PART * PART * S::PIXELS + p / N * PART + p % PART];
          }
        } else {
        scatter_recall:
          for (int p = 0; p < N * S::PIXELS; p++) {
#pragma HLS UNROLL
            all[p] = T(kept::at(line[place], p < N * S::KEPT ? p : 0));  // of the last pixel's share nothing is needed
          }
        }
        vec<T, N> word;
        QFX_PACK(word)
        vec<T, N * S::KEPT> later;
      scatter_lane:
        for (int p = 0; p < N * S::PIXELS; p++) {
#pragma HLS UNROLL
          if (p < N) word[p < N ? p : 0] = all[p];
          if (p >= N) later[p < N ? 0 : p - N] = all[p];
        }
        abreast_shift<S>(line);
        line[S::SHIFTS ? S::WORDS - 1 : place] = kept::of(later);
        out.write(word);
      }
    }
  }
}

// The same for units that are faster than a word of one pixel a turn: all words of a pixel leave in one, while the next pixels come. PIXELS <= WORDS.
template <class S, class T, int IN, int WIDE>
void deal(hls::stream<vec<T, IN> >& in, hls::stream<vec<T, WIDE> >& out) {
#pragma HLS INLINE
  static const int N = IN / S::PIXELS;
  T come[S::PIXELS][WIDE], ready[S::PIXELS][WIDE];
#pragma HLS ARRAY_PARTITION variable=come complete dim=0
#pragma HLS ARRAY_PARTITION variable=ready complete dim=0
deal_group:
  for (int group = 0; group <= S::GROUPS; group++) {
  deal_word:
    for (int i = 0; i < S::WORDS; i++) {
      QFX_PIPELINE_FRAMES
      QFX_TURN();
      if (group != 0 && i < S::PIXELS) {
        vec<T, WIDE> word;
        QFX_PACK(word)
      deal_lane:
        for (int p = 0; p < WIDE; p++) {
#pragma HLS UNROLL
          word[p] = ready[0][p];
        }
        out.write(word);
      }
      vec<T, IN> all;
      if (group != S::GROUPS) {
        all = in.read();
      } else {
      deal_nothing:
        for (int p = 0; p < IN; p++) {
#pragma HLS UNROLL
          all[p] = 0;
        }
      }
    deal_pixel:
      for (int pixel = 0; pixel < S::PIXELS; pixel++) {
#pragma HLS UNROLL
      deal_shift:
        for (int p = 0; p < WIDE; p++) {
#pragma HLS UNROLL
          come[pixel][p] = p < WIDE - N ? come[pixel][p < WIDE - N ? p + N : 0] : all[p < WIDE - N ? 0 : pixel * N + p - (WIDE - N)];
        }
      deal_ready:
        for (int p = 0; p < WIDE; p++) {
#pragma HLS UNROLL
          ready[pixel][p] = i == S::WORDS - 1 ? come[pixel][p] : ready[pixel + 1 < S::PIXELS ? pixel + 1 : pixel][p];
        }
      }
    }
  }
}

// What multipliers that pack several factors into a product pack: of each pixel the weights of neighbouring outputs, of each output the numbers of
// neighbouring pixels, or both.
enum packs { along_outputs, across_pixels, in_a_grid };

// The sums of a turn: sum[pixel * PE + pe] of row `row` (rom.h) with the numbers of a pixel, which lie side by side in `word`. ABREAST is 1 nearly
// everywhere.
template <int ABREAST, packs PACKS>
struct abreast {
  template <bool TWO, class M, class Weight, int PE, int SIMD, class Lanes, class T, int IN, class Sum, int OUT, class Element, int ROWS, int REST, int ELEMENTS>
  static inline void products(const Element (&weights)[ROWS][ELEMENTS], const Element (&rest)[REST][ELEMENTS], const int row, const vec<T, IN>& word,
                         Sum (&sum)[OUT]) {
#pragma HLS INLINE
  abreast_pixel:
    for (int pixel = 0; pixel < ABREAST; pixel++) {
#pragma HLS UNROLL
      vec<T, SIMD> own;
      Sum sums[PE];
#pragma HLS ARRAY_PARTITION variable=sums complete dim=1
    abreast_number:
      for (int s = 0; s < SIMD; s++) {
#pragma HLS UNROLL
        own[s] = word[pixel * SIMD + s];
      }
      rows_of<TWO>::template dot<M, PE, SIMD, Lanes>(weights, rest, row, own, sums);
    abreast_sum:
      for (int pe = 0; pe < PE; pe++) {
#pragma HLS UNROLL
        sum[pixel * PE + pe] = sums[pe];
      }
    }
  }
};

template <packs PACKS>
struct abreast<1, PACKS> {
  template <bool TWO, class M, class Weight, int PE, int SIMD, class Lanes, class T, int IN, class Sum, int OUT, class Element, int ROWS, int REST, int ELEMENTS>
  static inline void products(const Element (&weights)[ROWS][ELEMENTS], const Element (&rest)[REST][ELEMENTS], const int row, const vec<T, IN>& word,
                         Sum (&sum)[OUT]) {
#pragma HLS INLINE
    rows_of<TWO>::template dot<M, PE, SIMD, Lanes>(weights, rest, row, word, sum);
  }
};

// The same with the roles of weights and numbers changed: a multiplier that packs several factors into a product packs the numbers of neighbouring pixels,
// which share their weight.
template <int ABREAST>
struct abreast<ABREAST, across_pixels> {
  template <bool TWO, class M, class Weight, int PE, int SIMD, class Lanes, class T, int IN, class Sum, int OUT, class Element, int ROWS, int REST, int ELEMENTS>
  static inline void products(const Element (&weights)[ROWS][ELEMENTS], const Element (&rest)[REST][ELEMENTS], const int row, const vec<T, IN>& word,
                         Sum (&sum)[OUT]) {
#pragma HLS INLINE
    T numbers[SIMD * ABREAST];
#pragma HLS ARRAY_PARTITION variable=numbers complete dim=1
  across_number:
    for (int s = 0; s < SIMD; s++) {
#pragma HLS UNROLL
    across_pixel:
      for (int pixel = 0; pixel < ABREAST; pixel++) {
#pragma HLS UNROLL
        numbers[s * ABREAST + pixel] = word[pixel * SIMD + s];
      }
    }
  across_pe:
    for (int pe = 0; pe < PE; pe++) {
#pragma HLS UNROLL
      vec<Weight, SIMD> own;
      Sum sums[ABREAST];
#pragma HLS ARRAY_PARTITION variable=sums complete dim=1
    across_weight:
      for (int s = 0; s < SIMD; s++) {
#pragma HLS UNROLL
        own[s] = rows_of<TWO>::template at<Weight, Lanes>(weights, rest, row, s * PE + pe);
      }
      M::template dot<ABREAST, SIMD, plain<T> >(numbers, own, sums);
    across_sum:
      for (int pixel = 0; pixel < ABREAST; pixel++) {
#pragma HLS UNROLL
        sum[pixel * PE + pe] = sums[pixel];
      }
    }
  }
};

template <int ABREAST>
struct abreast<ABREAST, in_a_grid> {
  template <bool TWO, class M, class Weight, int PE, int SIMD, class Lanes, class T, int IN, class Sum, int OUT, class Element, int ROWS, int REST, int ELEMENTS>
  static inline void products(const Element (&weights)[ROWS][ELEMENTS], const Element (&rest)[REST][ELEMENTS], const int row, const vec<T, IN>& word,
                         Sum (&sum)[OUT]) {
#pragma HLS INLINE
    rows_of<TWO>::template dot<typename M::template over_pixels<ABREAST, PE, SIMD>, OUT, IN, Lanes>(weights, rest, row, word, sum);
  }
};

// The sums of a turn of a depthwise unit: of each pixel, tap and channel there is a number of its own, the channels of a tap side by side.
template <int ABREAST, packs PACKS>
struct abreast_channels {
  template <class M, class Weight, int PE, int SIMD, class Lanes, class T, int IN, class Sum, int OUT, class Element, int ELEMENTS>
  static inline void products(const Element (&row)[ELEMENTS], const vec<T, IN>& word, Sum (&sum)[OUT]) {
#pragma HLS INLINE
  channels_pe:
    for (int pe = 0; pe < PE; pe++) {
#pragma HLS UNROLL
      Weight own[SIMD];
#pragma HLS ARRAY_PARTITION variable=own complete dim=1
    channels_weight:
      for (int s = 0; s < SIMD; s++) {
#pragma HLS UNROLL
        own[s] = Lanes::at(row, s * PE + pe);
      }
    channels_pixel:
      for (int pixel = 0; pixel < ABREAST; pixel++) {
#pragma HLS UNROLL
        vec<T, SIMD> taps;
        Sum one[1];
#pragma HLS ARRAY_PARTITION variable=one complete dim=1
      channels_tap:
        for (int s = 0; s < SIMD; s++) {
#pragma HLS UNROLL
          taps[s] = word[(pixel * SIMD + s) * PE + pe];
        }
        M::template dot<1, SIMD, plain<Weight> >(own, taps, one);
        sum[pixel * PE + pe] = one[0];
      }
    }
  }
};

template <int ABREAST>
struct abreast_channels<ABREAST, across_pixels> {
  template <class M, class Weight, int PE, int SIMD, class Lanes, class T, int IN, class Sum, int OUT, class Element, int ELEMENTS>
  static inline void products(const Element (&row)[ELEMENTS], const vec<T, IN>& word, Sum (&sum)[OUT]) {
#pragma HLS INLINE
  channels_across_pe:
    for (int pe = 0; pe < PE; pe++) {
#pragma HLS UNROLL
      vec<Weight, SIMD> own;
      T numbers[SIMD * ABREAST];
#pragma HLS ARRAY_PARTITION variable=numbers complete dim=1
      Sum sums[ABREAST];
#pragma HLS ARRAY_PARTITION variable=sums complete dim=1
    channels_across_tap:
      for (int s = 0; s < SIMD; s++) {
#pragma HLS UNROLL
        own[s] = Lanes::at(row, s * PE + pe);
      channels_across_number:
        for (int pixel = 0; pixel < ABREAST; pixel++) {
#pragma HLS UNROLL
          numbers[s * ABREAST + pixel] = word[(pixel * SIMD + s) * PE + pe];
        }
      }
      M::template dot<ABREAST, SIMD, plain<T> >(numbers, own, sums);
    channels_across_sum:
      for (int pixel = 0; pixel < ABREAST; pixel++) {
#pragma HLS UNROLL
        sum[pixel * PE + pe] = sums[pixel];
      }
    }
  }
};

// Which inputs of a turn meet a weight, and their sums: all of them.
struct every_input {
  template <int SIMD>
  struct lanes {
    static const int value = SIMD;
  };
  template <int ABREAST, packs PACKS>
  struct sums : abreast<ABREAST, PACKS> {};
  // What it computes with: numbers, and sums of COUNT products.
  template <class T>
  struct number : working<T> {};
  template <class T, class M, class W, class X, int COUNT>
  struct total : working_sum<T, M, W, X, COUNT> {};
};

// One of WAYS neighbouring numbers.
template <int WAYS, class T, int IN>
inline T one_of(const vec<T, IN>& word, const int first, const unsigned way) {
#pragma HLS INLINE
  T chosen = word[first];
one_of_way:
  for (int i = 1; i < WAYS; i++) {
#pragma HLS UNROLL
    if (way == static_cast<unsigned>(i)) chosen = word[first + i];
  }
  return chosen;
}

template <bool SIGNED, int BITS>
struct low_weight {
  typedef sint<BITS> type;
  template <class Code>
  static inline type of(const Code& code) {
#pragma HLS INLINE
    return low_signed<BITS>(code);
  }
};
template <int BITS>
struct low_weight<false, BITS> {
  typedef uint<BITS> type;
  template <class Code>
  static inline type of(const Code& code) {
#pragma HLS INLINE
    return low_bits<BITS>(code);
  }
};

// Of each OF neighbouring inputs N meet a weight, the others 0. The k-th weight meets the k-th of them or one of the OF - N behind it: a lane holds the
// weight in its lowest BITS bits and above how many behind, and a row SIMD / OF * N lanes for each PE.
template <int N, int OF, bool SIGNED, int BITS>
struct few_inputs {
  template <int SIMD>
  struct lanes {
    static const int value = SIMD / OF * N;
  };
  // A lane's bits are taken apart, so that all stays in the library's types.
  template <class T>
  struct number {
    typedef T type;
  };
  template <class T, class M, class W, class X, int COUNT>
  struct total {
    typedef T type;
  };
  template <int ABREAST, packs PACKS>
  struct sums {
    template <bool TWO, class M, class Code, int PE, int SIMD, class Lanes, class T, int IN, class Sum, int OUT, class Element, int ROWS, int REST, int ELEMENTS>
    static inline void products(const Element (&weights)[ROWS][ELEMENTS], const Element (&rest)[REST][ELEMENTS], const int row, const vec<T, IN>& word,
                                Sum (&sum)[OUT]) {
#pragma HLS INLINE
      static const int KEPT = SIMD / OF * N;
      typedef low_weight<SIGNED, BITS> weight;
    few_pe:
      for (int pe = 0; pe < PE; pe++) {
#pragma HLS UNROLL
        typename weight::type own[KEPT];
        vec<T, ABREAST * KEPT> chosen;
        Sum one[ABREAST];
#pragma HLS ARRAY_PARTITION variable=own complete dim=1
#pragma HLS ARRAY_PARTITION variable=one complete dim=1
      few_lane:
        for (int k = 0; k < KEPT; k++) {
#pragma HLS UNROLL
          const Code code = rows_of<TWO>::template at<Code, Lanes>(weights, rest, row, k * PE + pe);
          const unsigned way = static_cast<unsigned>(Code(code >> BITS));
          own[k] = weight::of(code);
        few_pixel:
          for (int pixel = 0; pixel < ABREAST; pixel++) {
#pragma HLS UNROLL
            chosen[pixel * KEPT + k] = one_of<OF - N + 1>(word, pixel * SIMD + k / N * OF + k % N, way);
          }
        }
        abreast_channels<ABREAST, PACKS>::template products<M, typename weight::type, 1, KEPT, plain<typename weight::type> >(own, chosen, one);
      few_sum:
        for (int pixel = 0; pixel < ABREAST; pixel++) {
#pragma HLS UNROLL
          sum[pixel * PE + pe] = one[pixel];
        }
      }
    }
  };
};

}  // namespace qfx

#endif
