// Processes that find things: rows of a table by their number, and what ranks first.
#ifndef QFX_SELECT_H
#define QFX_SELECT_H

#include "qfx/rom.h"
#include "qfx/types.h"

namespace qfx {

// Row x of a table of ROWS rows for each of NUMBERS numbers x, as WORDS words of P numbers of the epilogue's kind. A number below 0 reads the first
// row, one behind the table the last. Word w of row r lies at w * ROWS + r of `table`, whose elements hold raws as Lanes (rom.h) says; those of a row are read at once, as the
// function that calls says (ARRAY_RESHAPE or ARRAY_PARTITION).
template <class Lanes, class Epilogue, int NUMBERS, int ROWS, int WORDS, class T, int P, class Element, int DEPTH, int ELEMENTS>
void embedding_rows(hls::stream<vec<T, 1> >& in, hls::stream<vec<typename Epilogue::out, P> >& out, const Element (&table)[DEPTH][ELEMENTS]) {
#pragma HLS INLINE
  typedef typename upto<ROWS * WORDS>::type address_type;
  address_type address = 0;
embedding_number:
  for (int number = 0; number < NUMBERS; number++) {
  embedding_word:
    for (int word = 0; word < WORDS; word++) {
      QFX_PIPELINE_FRAMES
      QFX_TURN();
      if (word == 0) {
        const T x = in.read()[0];
        address = x < 0 ? address_type(0) : x > ROWS - 1 ? address_type(ROWS - 1) : address_type(x);
      }
      vec<typename Epilogue::out, P> row;
      QFX_PACK(row)
    embedding_lane:
      for (int p = 0; p < P; p++) {
#pragma HLS UNROLL
        row[p] = Epilogue::apply(Lanes::at(table[address], p), number, word * P + p);
      }
      out.write(row);
      address = address + ROWS;
    }
  }
}

template <class Packed, class Epilogue, int NUMBERS, int ROWS, int WORDS, class T, int P, class Element, int DEPTH, int ELEMENTS>
void embedding(hls::stream<vec<T, 1> >& in, hls::stream<vec<typename Epilogue::out, P> >& out, const Element (&table)[DEPTH][ELEMENTS]) {
#pragma HLS INLINE
#ifdef QFX_UNPACKED
  embedding_rows<unpacked_lanes, Epilogue, NUMBERS, ROWS, WORDS>(in, out, unpack<Epilogue, P, Packed>(table));
#else
  embedding_rows<Packed, Epilogue, NUMBERS, ROWS, WORDS>(in, out, table);
#endif
}

// A number and, where PLACES, where it stands.
template <bool PLACES, class T, class Place>
struct ranked {
  T number;
  Place place;
  inline Place result() const {
#pragma HLS INLINE
    return place;
  }
};
template <class T, class Place>
struct ranked<false, T, Place> {
  T number;
  inline T result() const {
#pragma HLS INLINE
    return number;
  }
};
template <class T, class Place>
inline void stand(ranked<true, T, Place>& entry, const int place) {
#pragma HLS INLINE
  entry.place = Place(place);
}
template <class T, class Place>
inline void stand(ranked<false, T, Place>&, const int) {
#pragma HLS INLINE
}

template <bool LARGEST, class T>
inline bool goes_before(const T& a, const T& b) {
#pragma HLS INLINE
  return LARGEST ? a > b : a < b;
}

// GROUPS times: of TAPS numbers the COUNT greatest (LARGEST) or least, in that order, or their places. Between equal numbers the one that comes first
// goes before. The numbers kept so far are in order: each stays where it goes before the one that comes, or moves on by one; after the last, one leaves
// in each turn.
template <class Epilogue, int GROUPS, int TAPS, int COUNT, bool LARGEST, bool PLACES, class T>
void top(hls::stream<vec<T, 1> >& in, hls::stream<vec<typename Epilogue::out, 1> >& out) {
#pragma HLS INLINE
  typedef ranked<PLACES, T, typename upto<TAPS - 1>::type> entry_type;
  entry_type kept[COUNT];
#pragma HLS ARRAY_PARTITION variable=kept complete dim=1
top_group:
  for (int group = 0; group < GROUPS; group++) {
  top_turn:
    for (int turn = 0; turn < TAPS + COUNT - 1; turn++) {
      QFX_PIPELINE_FRAMES
      QFX_TURN();
      if (turn < TAPS) {
        entry_type came;
        came.number = in.read()[0];
        stand(came, turn);
      top_insert:
        for (int i = COUNT - 1; i >= 0; i--) {
#pragma HLS UNROLL
          const bool stays = i < turn && !goes_before<LARGEST>(came.number, kept[i].number);
          const bool here = i == 0 || !goes_before<LARGEST>(came.number, kept[i > 0 ? i - 1 : 0].number);
          if (i <= turn && !stays) kept[i] = here ? came : kept[i > 0 ? i - 1 : 0];
        }
      } else {
      top_shift:
        for (int i = 0; i < COUNT - 1; i++) {
#pragma HLS UNROLL
          kept[i] = kept[i + 1];
        }
      }
      if (turn >= TAPS - 1) {
        vec<typename Epilogue::out, 1> word;
        QFX_PACK(word)
        word[0] = Epilogue::apply(kept[0].result(), group, turn - (TAPS - 1));
        out.write(word);
      }
    }
  }
}

}  // namespace qfx

#endif
