// Processes that find things: rows of a table by their number.
#ifndef QFX_SELECT_H
#define QFX_SELECT_H

#include "qfx/rom.h"
#include "qfx/types.h"

namespace qfx {

// Row x of a table of ROWS rows for each of NUMBERS numbers x, as WORDS words of P numbers of the epilogue's kind. A number below 0 reads the first
// row, one behind the table the last. Word w of row r lies at w * ROWS + r of `table`, whose elements hold raws as Lanes (rom.h) says.
template <class Lanes, class Epilogue, int NUMBERS, int ROWS, int WORDS, class T, int P, class Element, int DEPTH, int ELEMENTS>
void embedding_rows(hls::stream<vec<T, 1> >& in, hls::stream<vec<typename Epilogue::out, P> >& out, const Element (&table)[DEPTH][ELEMENTS]) {
#pragma HLS INLINE
  typedef typename upto<ROWS * WORDS>::type address_type;
  address_type address = 0;
embedding_number:
  for (int number = 0; number < NUMBERS; number++) {
  embedding_word:
    for (int word = 0; word < WORDS; word++) {
      QFX_PIPELINE
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
#pragma HLS ARRAY_PARTITION variable=table complete dim=2
#ifdef QFX_UNPACKED
  embedding_rows<plain<typename Packed::type>, Epilogue, NUMBERS, ROWS, WORDS>(in, out, unpack<Epilogue, P, Packed>(table).rows);
#else
  embedding_rows<Packed, Epilogue, NUMBERS, ROWS, WORDS>(in, out, table);
#endif
}

}  // namespace qfx

#endif
