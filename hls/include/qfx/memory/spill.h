// A FIFO that lies in the board's memory.
//
// One process writes and reads, through one pointer, so that its C++ says in which order: a place is read by a loop behind the one that wrote it, and written
// again by one behind the loop that read it. The tools keep the order of a store and of a load that may meet it: they wait for the response to a burst that is
// written before they read. Two processes would have nothing of that kind between them.
//
// It never waits for either side: while nothing comes it gives back, and while nothing leaves it takes. So it is as any FIFO of so many places, however
// long memory takes. What is in it when a frame has left belongs to the next ones and stays, in variables of the layer's function that keep their values.
#ifndef QFX_MEMORY_SPILL_H
#define QFX_MEMORY_SPILL_H

#include "qfx/types.h"

// Between two rounds: simulations whose processes run side by side define it, and let others go on while neither side can.
#ifndef QFX_POLLED
#define QFX_POLLED(in, takes, out, gives)
#endif

namespace qfx {

// WORDS words of P numbers of WIDTH bits in a frame, each in the lowest bits of a word of memory; PLACES words of memory, from and to which bursts of up to
// BURST go. Of the words in memory the oldest is at `got`, the next one comes to `put`, and there are `held`. `ahead` are words that were read, of which `ready`
// are there and `sent` have left.
template <int WORDS, int BURST, int PLACES, int WIDTH, class T, int P, int BITS>
void spill(hls::stream<vec<T, P> >& in, uint<BITS>* memory, hls::stream<vec<T, P> >& out, uint<BITS> (&ahead)[BURST], int& put, int& got, int& held, int& ready,
           int& sent) {
#pragma HLS INLINE
  uint<BITS> burst[BURST];
  int gone = 0;  // of this frame
spill_round:
  while (gone < WORDS) {
    // What has come, as far as there are places for it in one piece.
    const int places = PLACES - held < PLACES - put ? PLACES - held : PLACES - put;
    const int most = places < BURST ? places : BURST;
    int come = 0;
  spill_take:
    while (come < most && !in.empty()) {
      QFX_PIPELINE
      QFX_TURN();
      const vec<T, P> numbers = in.read();
      uint<BITS> word = 0;
    spill_pack:
      for (int p = 0; p < P; p++) {
#pragma HLS UNROLL
        word |= uint<BITS>(uint<WIDTH>(numbers[p])) << (p * WIDTH);
      }
      burst[come] = word;
      come++;
    }
  spill_put:
    for (int beat = 0; beat < come; beat++) {
      QFX_PIPELINE
      QFX_TURN();
      memory[put + beat] = burst[beat];
    }
    put = put + come == PLACES ? 0 : put + come;
    held += come;

    // The oldest, once those before them have left.
    if (sent == ready) {
      const int piece = held < PLACES - got ? held : PLACES - got;
      ready = piece < BURST ? piece : BURST;
      sent = 0;
    spill_get:
      for (int beat = 0; beat < ready; beat++) {
        QFX_PIPELINE
        QFX_TURN();
        ahead[beat] = memory[got + beat];
      }
      got = got + ready == PLACES ? 0 : got + ready;
      held -= ready;
    }
  spill_give:
    while (gone < WORDS && sent < ready && !out.full()) {
      QFX_PIPELINE
      QFX_TURN();
      const uint<BITS> word = ahead[sent];
      vec<T, P> numbers;
      QFX_PACK(numbers)
    spill_unpack:
      for (int p = 0; p < P; p++) {
#pragma HLS UNROLL
        numbers[p] = T(uint<WIDTH>(word >> (p * WIDTH)));
      }
      out.write(numbers);
      sent++;
      gone++;
    }
    if (gone < WORDS) {
      QFX_POLLED(in, held < PLACES, out, sent < ready || held > 0)
    }
  }
}

}  // namespace qfx

#endif
