// Constants that come while the hardware runs: from a port of their own into memories of the processes that compute with them.
//
// A call of the top function with `load` set takes all constants before its frame. The process that reads the port tells every other process that has
// memories, once a frame, whether constants come, and then hands each of them its words. Flags are written before any word, and each process takes
// both before the frame's first turn; so frames that are still under way keep the constants that they began with.
#ifndef QFX_LOAD_H
#define QFX_LOAD_H

#include "qfx/axi.h"
#include "qfx/types.h"

namespace qfx {

// A memory that outlives the call: in hardware a RAM that is all zeros until it is loaded.
template <class T>
struct loaded {
  typedef T type;
};

// COUNT words from the port to one process. TLAST is not looked at: the words are counted, and may come in any number of transfers.
template <int COUNT, int SLOT>
void hand_on(hls::stream<axi_word<SLOT> >& port, hls::stream<uint<SLOT> >& words) {
#pragma HLS INLINE
hand_on_word:
  for (int i = 0; i < COUNT; i++) {
    QFX_PIPELINE
    QFX_TURN();
    const axi_word<SLOT> word = port.read();
    words.write(word.data);
  }
}

// Row by row; the first element of a row first. Each element of a row is a memory of its own, as the function that calls says (ARRAY_PARTITION).
template <int SLOT, class Element, int ROWS, int ELEMENTS>
void load(hls::stream<uint<SLOT> >& words, Element (&memory)[ROWS][ELEMENTS]) {
#pragma HLS INLINE
load_row:
  for (int row = 0; row < ROWS; row++) {
  load_element:
    for (int element = 0; element < ELEMENTS; element++) {
      QFX_PIPELINE
      QFX_TURN();
      const uint<SLOT> word = words.read();
    load_choose:
      for (int i = 0; i < ELEMENTS; i++) {
#pragma HLS UNROLL
        if (i == element) {
          memory[row][i] = static_cast<Element>(word);
        }
      }
    }
  }
}

template <int SLOT, class Element, int ENTRIES>
void load(hls::stream<uint<SLOT> >& words, Element (&memory)[ENTRIES]) {
#pragma HLS INLINE
load_entry:
  for (int entry = 0; entry < ENTRIES; entry++) {
    QFX_PIPELINE
    QFX_TURN();
    const uint<SLOT> word = words.read();
    memory[entry] = static_cast<Element>(word);
  }
}

}  // namespace qfx

#endif
