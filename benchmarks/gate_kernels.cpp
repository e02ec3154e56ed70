// Runs one build of native.cpp (included by the gate, which defines its macros) over fixed numbers, as often as asked: under valgrind its instructions
// are counted, the same from run to run.
#include QFX_KERNEL

#include <stdio.h>

int main(int argc, char** argv) {
    const int64_t outer = 8, channels = 16, inner = 256, count = outer * channels * inner;
    const int rounds = argc > 1 ? atoi(argv[1]) : 1;
    X *x = (X*)malloc(count * sizeof(X)), *grad_x = (X*)malloc(count * sizeof(X)), *addend = (X*)malloc(count * sizeof(X)),
      *grad_addend = (X*)malloc(count * sizeof(X));
    R *out = (R*)malloc(count * sizeof(R)), *g = (R*)malloc(count * sizeof(R));
    uint32_t state = 1;
    for (int64_t i = 0; i < count; i++) {
        state = state * 1664525u + 1013904223u;
        x[i] = (X)((double)(state >> 8) / (1 << 21) - 4.0);
        addend[i] = (X)(0.5 * (double)x[count - 1 - i < i ? i : 0]);
        g[i] = (R)(1 + i % 3);
    }
    float frac[16], words[16], grad_frac[16], grad_words[16];
    double scale[16], shift[16], grad_scale[16], grad_shift[16];
    for (int c = 0; c < 16; c++) frac[c] = 4, words[c] = 3, scale[c] = 1.0 + c * 0.125, shift[c] = 0.25 * c;
    Plan plan = {-128, 127, 0, INFINITY, 8, 0, 1, 0, -100, 120};
    const int flags = 1 << THREADS_SHIFT | FRAC_PER_CHANNEL | (QFX_AFFINE ? SCALE_PER_CHANNEL | SHIFT_PER_CHANNEL : 0);
    int status = 0;
    for (int i = 0; i < rounds; i++) {
        status |= qfx_forward(&plan, out, x, QFX_ADDEND ? addend : 0, frac, QFX_WORDS ? words : 0, QFX_AFFINE ? scale : 0, QFX_AFFINE ? shift : 0, outer,
                              channels, inner, flags);
        status |= qfx_backward(&plan, grad_x, QFX_ADDEND ? grad_addend : 0, g, x, QFX_ADDEND ? addend : 0, frac, QFX_WORDS ? words : 0,
                               QFX_AFFINE ? scale : 0, QFX_AFFINE ? shift : 0, outer, channels, inner, flags, 1.0, grad_frac, QFX_WORDS ? grad_words : 0,
                               QFX_AFFINE ? grad_scale : 0, QFX_AFFINE ? grad_shift : 0);
    }
    printf("%d %g %g\n", status, (double)out[count / 3], (double)grad_frac[3]);
    return status;
}
