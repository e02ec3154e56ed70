// What follows from learned word lengths, in one pass over the positions of a tensor. Compiled by native.py with QFX_X: float or double.
#include <stdint.h>

#include "ieee.h"

typedef QFX_X X;

static inline X between(X value, X low, X high) {  // NaN stays
    value = value < low ? low : value;
    return value > high ? high : value;
}

// Positions lie as (channels, each). First they are put back into their bounds, as word_length.py says: frac within start + reach, if `start` is there
// and as far as it is learned (1: frac, 2: integer). Then `finest` and `widest` of each channel get the most fractional and integer bits of its
// positions that have bits at all, -1e9 where none has. Returns the greatest word length, or -1 for NaN.
extern "C" int qfx_words(X* frac, X* integer, const X* start, int64_t channels, int64_t each, double reach, double most, int learned, double* finest,
                         double* widest) {
    double greatest = 0;
    int bad = 0;
    for (int64_t c = 0; c < channels; c++) {
        double fine = -1e9, wide = -1e9;
#pragma omp simd reduction(max : fine, wide, greatest) reduction(| : bad)
        for (int64_t e = 0; e < each; e++) {
            int64_t i = c * each + e;
            X f = frac[i], n = integer[i];
            if (start) {
                X s = start[i];
                n = learned & 2 ? between(n, -s - X(1), X(most) - s) : n;
                f = learned & 1 ? between(f, -n - X(1), s + X(reach)) : f;
                integer[i] = n;
                frac[i] = f;
            }
            double bits = __builtin_rint((double)f), width = bits + __builtin_rint((double)n);
            bad |= !(width == width);
            width = width < most ? width : most;
            bool some = width > 0;
            fine = some && bits > fine ? bits : fine;
            wide = some && width - bits > wide ? width - bits : wide;
            greatest = width > greatest ? width : greatest;
        }
        finest[c] = fine;
        widest[c] = wide;
    }
    return bad ? -1 : (int)greatest;
}
