// Mean and biased variance per channel in one pass, summed in double. Compiled on demand by native.py with QFX_X, the element type: float or double.
// Numbers are taken relative to the first one of their channel: it lies within sqrt(count) standard deviations of the mean, so that the subtraction
// of squares loses at most log2(count) of the 53 bits. The order of the sums depends on the shape alone, not on the number of threads.
#include <stdint.h>

#include "ieee.h"

typedef QFX_X X;

static const int64_t TILE = 64;  // channels that one thread takes at a time where neighbours are channels

static void finish(double pivot, double sum, double squares, double count, double* mean, double* variance) {
    double offset = sum / count, spread = squares / count - offset * offset;
    *mean = pivot + offset;
    *variance = spread > 0 ? spread : spread == spread ? 0 : spread;
}

static void one_channel(const X* x, int64_t outer, int64_t step, int64_t inner, double* mean, double* variance) {
    const double pivot = x[0];
    double sum = 0, squares = 0;
    for (int64_t o = 0; o < outer; o++) {
        const X* row = x + o * step;
#pragma omp simd reduction(+ : sum, squares)
        for (int64_t i = 0; i < inner; i++) {
            double d = (double)row[i] - pivot;
            sum += d;
            squares += d * d;
        }
    }
    finish(pivot, sum, squares, (double)outer * inner, mean, variance);
}

static void some_channels(const X* x, int64_t outer, int64_t step, int64_t channels, double* mean, double* variance) {
    double pivot[TILE], sum[TILE], squares[TILE];
    for (int64_t c = 0; c < channels; c++) {
        pivot[c] = x[c];
        sum[c] = squares[c] = 0;
    }
    for (int64_t o = 0; o < outer; o++) {
        const X* row = x + o * step;
#pragma omp simd
        for (int64_t c = 0; c < channels; c++) {
            double d = (double)row[c] - pivot[c];
            sum[c] += d;
            squares[c] += d * d;
        }
    }
    for (int64_t c = 0; c < channels; c++) finish(pivot[c], sum[c], squares[c], (double)outer, mean + c, variance + c);
}

// Element (o, c, i) lies at (o * channels + c) * inner + i; there is at least one.
extern "C" void qfx_moments(const void* data, int64_t outer, int64_t channels, int64_t inner, double* mean, double* variance, int threads) {
    const X* x = (const X*)data;
    const int64_t tile = inner == 1 ? TILE : 1, tiles = (channels + tile - 1) / tile;
#pragma omp parallel for num_threads(threads) schedule(static) if (threads > 1)
    for (int64_t t = 0; t < tiles; t++) {
        int64_t first = t * tile, count = channels - first < tile ? channels - first : tile;
        if (inner == 1)
            some_channels(x + first, outer, channels, count, mean + first, variance + first);
        else
            one_channel(x + first * inner, outer, channels * inner, inner, mean + first, variance + first);
    }
}
