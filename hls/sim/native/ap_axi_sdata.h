// The fast emulator has no ports: the name alone.
#ifndef QFX_NATIVE_AP_AXI_SDATA_H
#define QFX_NATIVE_AP_AXI_SDATA_H

template <int D, int U, int TI, int TD>
struct ap_axiu;

#endif
