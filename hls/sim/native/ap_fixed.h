// The names of the fixed-point modes for the fast emulator (UG1399, "Fixed-Point Identifier Summary"). There is no ap_fixed: qfx::cast is integer arithmetic.
#ifndef QFX_NATIVE_AP_FIXED_H
#define QFX_NATIVE_AP_FIXED_H

enum ap_q_mode { AP_RND, AP_RND_ZERO, AP_RND_MIN_INF, AP_RND_INF, AP_RND_CONV, AP_TRN, AP_TRN_ZERO };
enum ap_o_mode { AP_SAT, AP_SAT_ZERO, AP_SAT_SYM, AP_WRAP, AP_WRAP_SM };

template <int W, int I, ap_q_mode Q, ap_o_mode O, int N>
struct ap_fixed;
template <int W, int I, ap_q_mode Q, ap_o_mode O, int N>
struct ap_ufixed;

#endif
