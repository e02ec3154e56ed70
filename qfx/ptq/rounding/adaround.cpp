// What adaround.py does to every weight in an iteration, in one pass over memory in place of seventeen; descent.py builds and calls it.
#include <math.h>
#include <stdint.h>

namespace {

const float ZETA = 1.1f, GAMMA = -0.1f;  // the stretch of the rectified sigmoid
const float FORGOTTEN = 1e-20f, LOST = 1e-36f;  // means and squares that would end in subnormal numbers, which many processors are slow with

union Bits {
    float number;
    int32_t bits;
};

inline float plus(float a, float b, float c) {  // a * b + c, in one instruction where there is one
#ifdef __FMA__
    return __builtin_fmaf(a, b, c);
#else
    return a * b + c;
#endif
}

// e**x for |x| <= 87, to two units in the last place: 2**n times the series of the rest, |rest| <= ln(2) / 2.
inline float exponential(float x) {
    const float n = __builtin_rintf(x * 1.44269504089f);
    const float r = plus(n, 2.12194440055e-4f, plus(n, -0.693359375f, x));  // ln(2) in two parts, the first of few bits
    float p = 1.0f / 5040.0f;
    p = plus(p, r, 1.0f / 720.0f);
    p = plus(p, r, 1.0f / 120.0f);
    p = plus(p, r, 1.0f / 24.0f);
    p = plus(p, r, 1.0f / 6.0f);
    p = plus(p, r, 0.5f);
    Bits power;
    power.bits = ((int32_t)n + 127) << 23;
    return plus(plus(p, r, 1.0f), r, 1.0f) * power.number;
}

// ln(x) for normal x > 0, to a few units in the last place: beside the exponent ln(1 + z) = z - z*z / 2 + z*z*z * p(z), 1 + z in [sqrt(1/2), sqrt(2)),
// where p meets the function in nine Chebyshev nodes.
inline float logarithm(float x) {
    Bits u;
    u.number = x;
    const int32_t e = (u.bits - 0x3f3504f3) >> 23;  // of sqrt(1/2)
    u.bits -= e << 23;
    const float z = u.number - 1.0f;
    float p = 6.971611459e-2f;
    p = plus(p, z, -1.147973384e-1f);
    p = plus(p, z, 1.168541992e-1f);
    p = plus(p, z, -1.242568733e-1f);
    p = plus(p, z, 1.424905765e-1f);
    p = plus(p, z, -1.666780232e-1f);
    p = plus(p, z, 2.000071575e-1f);
    p = plus(p, z, -2.499999696e-1f);
    p = plus(p, z, 3.333333118e-1f);
    return plus((float)e, 0.69314718056f, plus(z * z, plus(p, z, -0.5f), z));
}

inline float within(float x, float lo, float hi) {
    const float least = x < lo ? lo : x;
    return least > hi ? hi : least;
}

inline float sigmoid_of(float x) { return 1.0f / (1.0f + exponential(-within(x, -80.0f, 80.0f))); }

}  // namespace

// up = sigmoid of choice; moved = base + gain * clamp(stretched up)
extern "C" void qfx_soften(float* __restrict moved, float* __restrict up, const float* __restrict choice, const float* __restrict base,
                           const float* __restrict gain, int64_t count) {
#pragma omp simd
    for (int64_t i = 0; i < count; i++) {
        up[i] = sigmoid_of(choice[i]);
        moved[i] = base[i] + gain[i] * within(up[i] * (ZETA - GAMMA) + GAMMA, 0.0f, 1.0f);
    }
}

// before = (act(before) - goal) * act'(before), group by group; `apart`: from a group's goals to the next one's.
extern "C" void qfx_behind(float* __restrict before, const float* __restrict goal, float slope, int64_t groups, int64_t count, int64_t apart) {
    for (int64_t g = 0; g < groups; g++, before += count, goal += apart) {
#pragma omp simd
        for (int64_t i = 0; i < count; i++) {
            const float b = before[i], by = b > 0.0f ? 1.0f : slope;
            before[i] = (b * by - goal[i]) * by;
        }
    }
}

struct Rate {  // of an iteration
    float power, pull;            // of the regularizer: its exponent, and twice that times its weight; a pull of 0: there is none
    float beta1, beta2, epsilon;  // Adam's
    float size, root;             // rate / (1 - beta1**t), 1 / sqrt(1 - beta2**t)
};

template <bool PULLED>
static void descend(float* __restrict choice, float* __restrict up, float* __restrict moved, float* __restrict mean, float* __restrict square,
                    const float* __restrict by_moved, const float* __restrict base, const float* __restrict gain, int64_t count, const Rate r) {
#pragma omp simd
    for (int64_t i = 0; i < count; i++) {
        const float s = up[i], stretched = s * (ZETA - GAMMA) + GAMMA;
        float g = by_moved[i] * gain[i];
        if (PULLED) {
            const float tilt = 2.0f * within(stretched, 0.0f, 1.0f) - 1.0f, size = __builtin_fabsf(tilt);
            const float steep = exponential(within(logarithm(size < 1e-37f ? 1e-37f : size) * (r.power - 1.0f), -80.0f, 0.0f));
            g -= r.pull * __builtin_copysignf(steep, tilt);
        }
        const bool inside = (stretched > 0.0f) & (stretched < 1.0f);
        g *= inside ? (ZETA - GAMMA) * s * (1.0f - s) : 0.0f;
        float m = mean[i] * r.beta1 + g * (1.0f - r.beta1), v = square[i] * r.beta2 + g * g * (1.0f - r.beta2);
        m = __builtin_fabsf(m) < FORGOTTEN ? 0.0f : m;
        v = v < LOST ? 0.0f : v;
        const float to = choice[i] - r.size * m / (__builtin_sqrtf(v) * r.root + r.epsilon), now = sigmoid_of(to);
        mean[i] = m;
        square[i] = v;
        choice[i] = to;
        up[i] = now;
        moved[i] = base[i] + gain[i] * within(now * (ZETA - GAMMA) + GAMMA, 0.0f, 1.0f);
    }
}

// One step of Adam: `by_moved` is the gradient by `moved`, which becomes that of the new choice, and so does `up`.
extern "C" void qfx_descend(float* choice, float* up, float* moved, float* mean, float* square, const float* by_moved, const float* base,
                            const float* gain, int64_t count, const Rate* rate) {
    (rate->pull != 0.0f ? descend<true> : descend<false>)(choice, up, moved, mean, square, by_moved, base, gain, count, *rate);
}
