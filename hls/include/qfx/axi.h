// The AXI4-Stream words of the top function: TDATA, TKEEP, TSTRB and TLAST.
#ifndef QFX_AXI_H
#define QFX_AXI_H

#ifndef AP_INT_MAX_W
#define AP_INT_MAX_W 4096  // as in types.h
#endif

#include <ap_axi_sdata.h>
#include <ap_int.h>

namespace qfx {

// A word of WIDTH bits. Vitis HLS leaves side channels of no width out (UG1399, "AXI4-Stream Interfaces"); Vivado HLS has no integers of no width, so there
// TUSER, TID and TDEST are one bit each, which is 0. Vitis HLS defines its macro in C simulation, too: both of its worlds see one type.
#if defined(__VITIS_HLS__)
template <int WIDTH>
using axi_word = ap_axiu<WIDTH, 0, 0, 0>;
#else
template <int WIDTH>
using axi_word = ap_axiu<WIDTH, 1, 1, 1>;
#endif

// A word with all bytes in use.
template <int WIDTH>
inline axi_word<WIDTH> axi(const ap_uint<WIDTH>& data, const bool last) {
#pragma HLS INLINE
  axi_word<WIDTH> word;
  word.data = data;
  word.keep = -1;
  word.strb = -1;
#if !defined(__VITIS_HLS__)
  word.user = 0;
  word.id = 0;
  word.dest = 0;
#endif
  word.last = last;
  return word;
}

}  // namespace qfx

#endif
