// Processes that move numbers and leave them as they are: duplication, padding, slicing, upsampling, slices by a table, permutation.
#ifndef QFX_SHAPE_H
#define QFX_SHAPE_H

#include "qfx/storage.h"
#include "qfx/types.h"

namespace qfx {

// Two copies of a stream of WORDS words.
template <int WORDS, class T, int P>
void fork(hls::stream<vec<T, P> >& in, hls::stream<vec<T, P> >& out0, hls::stream<vec<T, P> >& out1) {
#pragma HLS INLINE
fork_word:
  for (int i = 0; i < WORDS; i++) {
    QFX_PIPELINE_FRAMES
    QFX_TURN();
    vec<T, P> word = in.read();
    QFX_PACK(word)
    out0.write(word);
    out1.write(word);
  }
}

// Zeros around a frame of H x W pixels of CHUNKS words: the result has OH x OW pixels of OC words, and the frame begins at row TOP, column LEFT and
// word FIRST of a pixel.
template <int H, int W, int CHUNKS, int OH, int OW, int OC, int TOP, int LEFT, int FIRST, class T, class R, int P>
void pad(hls::stream<vec<T, P> >& in, hls::stream<vec<R, P> >& out) {
#pragma HLS INLINE
pad_y:
  for (int y = 0; y < OH; y++) {
  pad_x:
    for (int x = 0; x < OW; x++) {
    pad_chunk:
      for (int chunk = 0; chunk < OC; chunk++) {
        QFX_PIPELINE_FRAMES
        QFX_TURN();
        const bool inside = y >= TOP && y < TOP + H && x >= LEFT && x < LEFT + W && chunk >= FIRST && chunk < FIRST + CHUNKS;
        vec<T, P> word;
        if (inside) {
          word = in.read();
        }
        vec<R, P> padded;
        QFX_PACK(padded)
      pad_lane:
        for (int p = 0; p < P; p++) {
#pragma HLS UNROLL
          padded[p] = inside ? R(word[p]) : R(0);
        }
        out.write(padded);
      }
    }
  }
}

// One axis of a slice: start, stop and step.
template <int START_, int STOP_, int STEP_>
struct span {
  static const int START = START_;
  static const int STOP = STOP_;
  static const int STEP = STEP_;
};

// Walks along an axis and knows the next index that belongs to the span.
template <class Span>
struct span_cursor {
  typename upto<Span::STOP>::type wanted;
  span_cursor() : wanted(Span::START) {}
  inline bool at(const int index) const {
#pragma HLS INLINE
    return index == wanted;
  }
  inline void leave(const int index, const bool end) {  // `end`: the axis begins again
#pragma HLS INLINE
    if (end) {
      wanted = Span::START;
    } else if (index == wanted && wanted < Span::STOP - Span::STEP) {
      wanted = wanted + Span::STEP;
    }
  }
};

// The words of a frame of H x W pixels of CHUNKS words that lie in all three spans.
template <int H, int W, int CHUNKS, class SpanY, class SpanX, class SpanChunk, class T, int P>
void slice(hls::stream<vec<T, P> >& in, hls::stream<vec<T, P> >& out) {
#pragma HLS INLINE
  span_cursor<SpanY> rows;
  span_cursor<SpanX> columns;
  span_cursor<SpanChunk> chunks;
slice_y:
  for (int y = 0; y < H; y++) {
  slice_x:
    for (int x = 0; x < W; x++) {
    slice_chunk:
      for (int chunk = 0; chunk < CHUNKS; chunk++) {
        QFX_PIPELINE_FRAMES
        QFX_TURN();
        vec<T, P> word = in.read();
        QFX_PACK(word)
        if (rows.at(y) && columns.at(x) && chunks.at(chunk)) {
          out.write(word);
        }
        const bool pixel_ends = chunk == CHUNKS - 1;
        const bool row_ends = pixel_ends && x == W - 1;
        chunks.leave(chunk, pixel_ends);
        if (pixel_ends) columns.leave(x, row_ends);
        if (row_ends) rows.leave(y, y == H - 1);
      }
    }
  }
}

// Every pixel ROWS x COLUMNS times (nearest-neighbour upsampling): a turn writes a word, and reads it if it is a pixel's first copy; a buffer keeps the
// row for the further ones. The frame has H x W pixels of CHUNKS words.
template <int H, int W, int CHUNKS, int ROWS, int COLUMNS, class T, int P>
void repeat(hls::stream<vec<T, P> >& in, hls::stream<vec<T, P> >& out, typename memory_word<T, P>::type (&kept)[W * CHUNKS]) {
#pragma HLS INLINE
  typename upto<W * CHUNKS>::type place = 0;
repeat_y:
  for (int y = 0; y < H; y++) {
  repeat_row:
    for (int row = 0; row < ROWS; row++) {
    repeat_x:
      for (int x = 0; x < W; x++) {
      repeat_column:
        for (int column = 0; column < COLUMNS; column++) {
        repeat_chunk:
          for (int chunk = 0; chunk < CHUNKS; chunk++) {
            QFX_PIPELINE_FRAMES
            QFX_TURN();
            vec<T, P> word;
            QFX_PACK(word)
            if (row == 0 && column == 0) {
              word = in.read();
              kept[place] = memory_word<T, P>::of(word);
            } else {
              word = memory_word<T, P>::numbers(kept[place]);
            }
            out.write(word);
            if (chunk != CHUNKS - 1) {
              place = place + 1;
            } else if (column != COLUMNS - 1) {
              place = place - (CHUNKS - 1);
            } else if (x != W - 1) {
              place = place + 1;
            } else {
              place = 0;
            }
          }
        }
      }
    }
  }
}

// Zeros between the pixels: pixel (y, x) of the H x W moves to (y * ROWS, x * COLUMNS). A turn writes a word, and reads it if it is no zero.
template <int H, int W, int CHUNKS, int ROWS, int COLUMNS, class T, class R, int P>
void stretch(hls::stream<vec<T, P> >& in, hls::stream<vec<R, P> >& out) {
#pragma HLS INLINE
  typename upto<ROWS>::type row = 0;  // rows since the last one with pixels, and columns likewise
  typename upto<COLUMNS>::type column = 0;
stretch_y:
  for (int y = 0; y < (H - 1) * ROWS + 1; y++) {
  stretch_x:
    for (int x = 0; x < (W - 1) * COLUMNS + 1; x++) {
    stretch_chunk:
      for (int chunk = 0; chunk < CHUNKS; chunk++) {
        QFX_PIPELINE_FRAMES
        QFX_TURN();
        const bool pixel = row == 0 && column == 0;
        vec<T, P> word;
        if (pixel) {
          word = in.read();
        }
        vec<R, P> stretched;
        QFX_PACK(stretched)
      stretch_lane:
        for (int p = 0; p < P; p++) {
#pragma HLS UNROLL
          stretched[p] = pixel ? R(word[p]) : R(0);
        }
        out.write(stretched);
        if (chunk == CHUNKS - 1) {
          if (x == (W - 1) * COLUMNS) {
            column = 0;
            row = row == ROWS - 1 ? typename upto<ROWS>::type(0) : typename upto<ROWS>::type(row + 1);
          } else {
            column = column == COLUMNS - 1 ? typename upto<COLUMNS>::type(0) : typename upto<COLUMNS>::type(column + 1);
          }
        }
      }
    }
  }
}

// The pixels of groups side by side (depth to space): GROUPS_Y x GROUPS_X groups come, each of ROWS x COLUMNS pixels of WORDS words, row by row in it. The
// first row of a group leaves as it comes; the others wait in `kept`, and leave row by row once the row of groups is there. Of the rows and columns that
// come so many from TOP and LEFT on leave as H and W say.
template <int GROUPS_Y, int GROUPS_X, int ROWS, int COLUMNS, int WORDS, int TOP, int H, int LEFT, int W, class T, int P, int KEPT>
void interleave(hls::stream<vec<T, P> >& in, hls::stream<vec<T, P> >& out, typename memory_word<T, P>::type (&kept)[KEPT]) {
#pragma HLS INLINE
  static const int LINE = COLUMNS * WORDS;  // words of a row of a group
  typename upto<ROWS>::type row = 0;
  typename upto<GROUPS_X>::type group = 0;
  typename upto<GROUPS_X * LINE>::type left = 0;   // words of the row in front of the group
  typename upto<KEPT + GROUPS_X * LINE>::type base = 0;  // where the row is kept
  typename upto<GROUPS_Y * ROWS>::type top = 0;    // rows above those of the groups
  bool comes = true;
interleave_y:
  for (int y = 0; y < GROUPS_Y; y++) {
  interleave_part:
    for (int part = 0; part < (2 * ROWS - 1) * GROUPS_X; part++) {
    interleave_word:
      for (int i = 0; i < LINE; i++) {
        QFX_PIPELINE_FRAMES
        QFX_TURN();
        const int across = int(left) + i, down = int(top) + int(row);
        const bool inside = across >= LEFT * WORDS && across < (LEFT + W) * WORDS && down >= TOP && down < TOP + H;
        const bool waits = comes && row != 0;
        const int place = int(base) + across;
        vec<T, P> word;
        QFX_PACK(word)
        if (comes) {
          word = in.read();
        } else {
          word = memory_word<T, P>::numbers(kept[place]);
        }
        if (waits) {
          kept[place] = memory_word<T, P>::of(word);
        } else if (inside) {
          out.write(word);
        }
        if (i == LINE - 1) {
          const bool ends = group == GROUPS_X - 1;
          if (comes && row != ROWS - 1) {
            if (row != 0) base = base + GROUPS_X * LINE;
            row = row + 1;
          } else {
            group = ends ? typename upto<GROUPS_X>::type(0) : typename upto<GROUPS_X>::type(group + 1);
            left = ends ? typename upto<GROUPS_X * LINE>::type(0) : typename upto<GROUPS_X * LINE>::type(left + LINE);
            if (comes && !ends) {
              row = 0;
              base = 0;
            } else if (comes && ROWS > 1) {
              comes = false;
              row = 1;
              base = 0;
            } else if (comes || (ends && row == ROWS - 1)) {
              comes = true;
              row = 0;
              base = 0;
              top = top + ROWS;
            } else if (ends) {
              row = row + 1;
              base = base + GROUPS_X * LINE;
            }
          }
        }
      }
    }
  }
}

// Slices of a frame along one axis in another order, each any number of times. The frame is OUTER blocks; a block takes STEPS steps of WORDS words, in
// which a slice is read, one written, or both. An entry of `program` has four flags (reads, writes, keeps what it reads, writes what it reads), and then,
// ADDRESS bits each, where the slice to write begins and where the one to keep goes. Slices that wait lie in KEPT words. No word is written to where one is
// read in the same turn, so that the order of the two is free.
template <int OUTER, int STEPS, int WORDS, int KEPT, int ADDRESS, class T, int P, class Entry>
void take(hls::stream<vec<T, P> >& in, hls::stream<vec<T, P> >& out, const Entry (&program)[STEPS], typename memory_word<T, P>::type (&kept)[KEPT]) {
#pragma HLS INLINE
take_block:
  for (int block = 0; block < OUTER; block++) {
  take_step:
    for (int step = 0; step < STEPS; step++) {
    take_word:
      for (int i = 0; i < WORDS; i++) {
        QFX_PIPELINE_FRAMES
        QFX_TURN();
        const uint<4 + 2 * ADDRESS> entry = program[step];
        const int from = int((entry >> 4) & ((1 << ADDRESS) - 1)) + i;
        const int to = int(entry >> (4 + ADDRESS)) + i;
        const bool reads = (entry & 1) != 0;
        const bool writes = (entry & 2) != 0;
        const bool keeps = (entry & 4) != 0;
        const bool passes = (entry & 8) != 0;
        vec<T, P> word;
        QFX_PACK(word)
        if (reads) {
          word = in.read();
        }
        if (writes) {
          vec<T, P> taken;
          QFX_PACK(taken)
        take_recall:
          for (int p = 0; p < P; p++) {
#pragma HLS UNROLL
            taken[p] = passes ? T(word[p]) : T(memory_word<T, P>::at(kept[from], p));  // a choice of numbers, not of memories
          }
          out.write(taken);
        }
        if (keeps) {
          kept[to] = memory_word<T, P>::of(word);
        }
      }
    }
  }
}

// Addresses of four nested loops, outermost first: sizes D and strides S, which are not negative. Behind the last one comes any.
template <int D0, int S0, int D1, int S1, int D2, int S2, int D3, int S3>
struct nest {
  static const int LAST = (D0 - 1) * S0 + (D1 - 1) * S1 + (D2 - 1) * S2 + (D3 - 1) * S3;
  typename upto<LAST>::type address;
  typename upto<D1 - 1>::type i1;
  typename upto<D2 - 1>::type i2;
  typename upto<D3 - 1>::type i3;
  nest() : address(0), i1(0), i2(0), i3(0) {}
  inline void next() {
#pragma HLS INLINE
    if (i3 != D3 - 1) {
      i3 = i3 + 1;
      address = address + S3;
    } else {
      i3 = 0;
      if (i2 != D2 - 1) {
        i2 = i2 + 1;
        address = address + (S2 - (D3 - 1) * S3);
      } else {
        i2 = 0;
        if (i1 != D1 - 1) {
          i1 = i1 + 1;
          address = address + (S1 - (D3 - 1) * S3 - (D2 - 1) * S2);
        } else {
          i1 = 0;
          address = address + (S0 - (D3 - 1) * S3 - (D2 - 1) * S2 - (D1 - 1) * S1);
        }
      }
    }
  }
};

// Another order of the same SIZE numbers, through a buffer that holds the frame: number i of the stream goes to the address that Write gives at
// step i, and the result reads the addresses of Read.
template <int SIZE, class Write, class Read, class T>
void permute(hls::stream<vec<T, 1> >& in, hls::stream<vec<T, 1> >& out, T (&frame)[SIZE]) {
#pragma HLS INLINE
  Write write;
permute_write:
  for (int i = 0; i < SIZE; i++) {
    QFX_PIPELINE
    QFX_TURN();
    frame[write.address] = in.read()[0];
    write.next();
  }
  Read read;
permute_read:
  for (int i = 0; i < SIZE; i++) {
    QFX_PIPELINE
    QFX_TURN();
    vec<T, 1> word;
    word[0] = frame[read.address];
    out.write(word);
    read.next();
  }
}

// The same with the write addresses in a table, for orders that are no loop nest.
template <int SIZE, class Read, class T, class Address>
void permute_by_table(hls::stream<vec<T, 1> >& in, hls::stream<vec<T, 1> >& out, const Address (&table)[SIZE], T (&frame)[SIZE]) {
#pragma HLS INLINE
permute_table_write:
  for (int i = 0; i < SIZE; i++) {
    QFX_PIPELINE
    QFX_TURN();
    frame[table[i]] = in.read()[0];
  }
  Read read;
permute_table_read:
  for (int i = 0; i < SIZE; i++) {
    QFX_PIPELINE
    QFX_TURN();
    vec<T, 1> word;
    word[0] = frame[read.address];
    out.write(word);
    read.next();
  }
}

}  // namespace qfx

#endif
