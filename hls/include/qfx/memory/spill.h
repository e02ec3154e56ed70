// A FIFO that lies in the board's memory: words come, go into a ring of blocks, and come back when they are wanted.
//
// One process writes and reads, through one pointer, so that its C++ says in which order: a block is read by a loop that follows the one that wrote it,
// and a place is written again by one that follows the loop that read it. The tools keep the order of a store and of a load that may meet it: they wait
// for the response to a burst that is written before they read. Two processes would have nothing of that kind between them.
#ifndef QFX_MEMORY_SPILL_H
#define QFX_MEMORY_SPILL_H

#include "qfx/types.h"

namespace qfx {

// A frame is BLOCKS blocks of BURST words, the last one of LAST, each of P numbers of WIDTH bits in the lowest bits of a word of memory; RING blocks have a
// place. `due[b]`: how many blocks have gone back when block b has come; all of them behind the last one. The loops over a block are bursts.
template <int BURST, int BLOCKS, int LAST, int RING, int WIDTH, class T, int P, int BITS, class Due>
void spill(hls::stream<vec<T, P> >& in, uint<BITS>* memory, hls::stream<vec<T, P> >& out, const Due (&due)[BLOCKS]) {
#pragma HLS INLINE
  int gone = 0;   // blocks that went back
  int put = 0;    // the place of the next block that comes
  int taken = 0;  // that of the next that goes back
spill_block:
  for (int block = 0; block < BLOCKS; block++) {
    const int comes = block == BLOCKS - 1 ? LAST : BURST;
  spill_put:
    for (int beat = 0; beat < comes; beat++) {
      QFX_PIPELINE
      QFX_TURN();
      const vec<T, P> numbers = in.read();
      uint<BITS> word = 0;
    spill_pack:
      for (int p = 0; p < P; p++) {
#pragma HLS UNROLL
        word |= uint<BITS>(uint<WIDTH>(numbers[p])) << (p * WIDTH);
      }
      memory[put * BURST + beat] = word;
    }
    put = put == RING - 1 ? 0 : put + 1;
  spill_due:
    for (; gone < int(due[block]); gone++) {
      const int goes = gone == BLOCKS - 1 ? LAST : BURST;
    spill_get:
      for (int beat = 0; beat < goes; beat++) {
        QFX_PIPELINE
        QFX_TURN();
        const uint<BITS> word = memory[taken * BURST + beat];
        vec<T, P> numbers;
        QFX_PACK(numbers)
      spill_unpack:
        for (int p = 0; p < P; p++) {
#pragma HLS UNROLL
          numbers[p] = T(uint<WIDTH>(word >> (p * WIDTH)));
        }
        out.write(numbers);
      }
      taken = taken == RING - 1 ? 0 : taken + 1;
    }
  }
}

}  // namespace qfx

#endif
