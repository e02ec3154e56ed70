// The AXI4-Stream word of C simulation with plain g++ or clang++: the vendor's headers that qfx can ship lack this one. It declares what qfx uses under
// the names of UG1399, "AXI4-Stream Interfaces". The vendor's tools bring their own header and never see this file.
#ifndef QFX_SIM_AP_AXI_SDATA_H
#define QFX_SIM_AP_AXI_SDATA_H

#include <ap_int.h>

// D bits of TDATA, U of TUSER, TI of TID and TD of TDEST (each at least 1).
template <int D, int U, int TI, int TD>
struct ap_axiu {
  ap_uint<D> data;
  ap_uint<(D + 7) / 8> keep;
  ap_uint<(D + 7) / 8> strb;
  ap_uint<U> user;
  ap_uint<1> last;
  ap_uint<TI> id;
  ap_uint<TD> dest;
};

#endif
