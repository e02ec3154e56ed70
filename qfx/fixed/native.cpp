// One fused forward pass and one fused backward pass of Cast, for one mode and one set of element types. Compiled on demand by native.py with
//   QFX_Q, QFX_O       rounding and overflow mode (numbers below); QFX_N: 0, 1 or 2 for N = 0, N = 1, N > 1 (AP_WRAP: 1 for any N > 0)
//   QFX_X, QFX_R       element type of x and the addend, and of the result: float or double
//   QFX_ACTIVATION     1 if v passes a leaky ReLU and an upper bound before the Cast
//   QFX_AFFINE         1 if v = x * scale + shift (implies QFX_ACTIVATION); QFX_ADDEND: 1 if v has an addend as well (implies QFX_AFFINE)
//   QFX_WORDS          1 if each binary point has a word length of its own, from integer bits that are learned (AP_SAT, AP_SAT_SYM, AP_WRAP with N = 0)
// The forward is exact under IEEE rules: no -ffast-math, no flush to zero. Sums in the backward are taken over fixed blocks in a fixed order, so
// that no result depends on the number of threads.
#include <stdlib.h>

#include "native_cast.h"

struct Shape {  // element (o, c, i) lies at (o * channels + c) * inner + i; parameters belong to c
    int64_t outer, channels, inner;
};

enum { FRAC_DOUBLE = 1, FRAC_PER_CHANNEL = 2, SCALE_PER_CHANNEL = 4, SHIFT_PER_CHANNEL = 8, THREADS_SHIFT = 8 };
enum { OK = 0, BAD_FRAC_BITS = 1, NO_MEMORY = 2 };

static const int64_t BLOCK = 16384;  // elements that one thread takes at a time, at least
static const int64_t MAX_BLOCKS = 64;

// ---- parameters of many channels ------------------------------------------------------------------------------------

static inline T power_of_two(double f) {  // f was checked, so the exponent is that of a normal number
    union {
        uint64_t bits;
        double number;
    } u;
    u.bits = (uint64_t)((int64_t)f + 1023) << 52;
    return (T)u.number;
}

static const int64_t TILE = 256;  // channels whose tables fit the stack

struct Table {
    T *up, *down, *lo, *hi;  // the last two with QFX_WORDS
    double *scale, *shift;

    Table from(int64_t c) const {
        Table t = {up + c, down + c, lo + c, hi + c, scale + c, shift + c};
        return t;
    }
    static int64_t bytes(int64_t channels) { return channels * (int64_t)(2 * sizeof(double) + 4 * sizeof(T)); }
    static Table in(void* memory, int64_t channels) {
        double* scale = (double*)memory;
        T* up = (T*)(scale + 2 * channels);
        Table t = {up, up + channels, up + 2 * channels, up + 3 * channels, scale, scale + channels};
        return t;
    }
};

struct Source {  // the parameter tensors
    const void *frac, *words;  // words: the integer bits, with QFX_WORDS; the type is that of frac
    const double *scale, *shift;
    int flags;

    template <class F> static bool fill_range(const Plan& plan, const F* f, const F* integer, Table t, int64_t count) {
        T *__restrict lo = t.lo, *__restrict hi = t.hi;
        const double greatest = plan.width, sign = plan.is_signed, symmetric = plan.is_symmetric;
        int bad = 0;
#pragma omp simd reduction(| : bad)
        for (int64_t c = 0; c < count; c++) {
            double width = __builtin_rint((double)f[c]) + __builtin_rint((double)integer[c]);
            bad |= !(width == width);
            width = width > 0.0 ? width : 0.0;
            width = width < greatest ? width : greatest;
            double above = (double)power_of_two(width > 0.0 ? width - sign : 0.0);
            lo[c] = (T)(width > 0.0 ? sign * ((width > 1.0 ? symmetric : 0.0) - above) : 0.0);
            hi[c] = (T)(above - 1.0);
        }
        return !bad;
    }
    template <class F> static bool fill_frac(const Plan& plan, const F* f, Table t, int64_t count) {
        T *__restrict up = t.up, *__restrict lsb = t.down;
        const double least = plan.least_frac_bits, greatest = plan.greatest_frac_bits;
        int bad = 0;
#pragma omp simd reduction(| : bad)
        for (int64_t c = 0; c < count; c++) {
            double to_int = __builtin_rint((double)f[c]);
            bool good = (to_int >= least) & (to_int <= greatest);  // false for NaN
            bad |= !good;
            to_int = good ? to_int : 0.0;
            up[c] = power_of_two(to_int);
            lsb[c] = power_of_two(-to_int);
        }
        return !bad;
    }
    static void fill_affine(double* __restrict to, const double* from, bool per_channel, double otherwise, int64_t first, int64_t count) {
        for (int64_t c = 0; c < count; c++) to[c] = !from ? otherwise : per_channel ? from[first + c] : *from;
    }
    bool fill(const Plan& plan, Table t, int64_t first, int64_t count) const {
        if (QFX_AFFINE) {
            fill_affine(t.scale, scale, flags & SCALE_PER_CHANNEL, 1.0, first, count);
            fill_affine(t.shift, shift, flags & SHIFT_PER_CHANNEL, 0.0, first, count);
        }
        bool many = flags & FRAC_PER_CHANNEL;
        int64_t offset = many ? first : 0, distinct = many ? count : 1;
        bool good = flags & FRAC_DOUBLE ? fill_frac(plan, (const double*)frac + offset, t, distinct)
                                        : fill_frac(plan, (const float*)frac + offset, t, distinct);
#if QFX_WORDS
        good &= flags & FRAC_DOUBLE ? fill_range(plan, (const double*)frac + offset, (const double*)words + offset, t, distinct)
                                    : fill_range(plan, (const float*)frac + offset, (const float*)words + offset, t, distinct);
#endif
        for (int64_t c = distinct; c < count; c++) {
            t.up[c] = t.up[0];
            t.down[c] = t.down[0];
            if (QFX_WORDS) t.lo[c] = t.lo[0], t.hi[c] = t.hi[0];
        }
        return good;
    }
};

struct Sums {  // of each channel, without constant factors
    double *frac, *range, *scale, *shift;

    Sums from(int64_t c) const {
        Sums s = {frac + c, range + c, scale + c, shift + c};
        return s;
    }
    static Sums in(double* memory, int64_t channels) {
        Sums s = {memory, memory + channels, memory + 2 * channels, memory + 3 * channels};
        return s;
    }
};

// ---- passes over one run of elements --------------------------------------------------------------------------------

#define NOINLINE __attribute__((noinline))  // one copy of each vectorized loop
#define AT(pointer, index) (QFX_ADDEND ? (pointer)[index] : X(0))
#define LEAST(c) (QFX_WORDS ? lo[c] : k.lo)
#define MOST(c) (QFX_WORDS ? hi[c] : k.hi)

static NOINLINE void forward_row(const Constants k, R* __restrict out, const X* __restrict x, const X* __restrict addend, int64_t count,
                                 const Table t) {
    const T up = *t.up, down = *t.down;
    const double scale = *t.scale, shift = *t.shift;
    const T lo = QFX_WORDS ? *t.lo : k.lo, hi = QFX_WORDS ? *t.hi : k.hi;
#pragma omp simd
    for (int64_t i = 0; i < count; i++) out[i] = value(k, lo, hi, x[i], AT(addend, i), up, down, scale, shift);
}

static NOINLINE void forward_columns(const Constants k, R* __restrict out, const X* __restrict x, const X* __restrict addend, int64_t rows,
                                     int64_t count, const Table t) {
    const T *__restrict up = t.up, *__restrict down = t.down, *__restrict lo = t.lo, *__restrict hi = t.hi;
    const double *__restrict scale = t.scale, *__restrict shift = t.shift;
    for (int64_t r = 0; r < rows; r++, out += count, x += count, addend += QFX_ADDEND ? count : 0)
#pragma omp simd
        for (int64_t c = 0; c < count; c++)
            out[c] = value(k, LEAST(c), MOST(c), x[c], AT(addend, c), up[c], down[c], QFX_AFFINE ? scale[c] : 1.0, QFX_AFFINE ? shift[c] : 0.0);
}

static NOINLINE void backward_row(const Constants k, X* __restrict grad_x, X* __restrict grad_addend, const R* __restrict g,
                                  const X* __restrict x, const X* __restrict addend, int64_t count, const Table t, const Sums sums) {
    const T up = *t.up, down = *t.down;
    const double scale = *t.scale, shift = *t.shift;
    const T lo = QFX_WORDS ? *t.lo : k.lo, hi = QFX_WORDS ? *t.hi : k.hi;
    double by_frac = 0, by_range = 0, by_scale = 0, by_shift = 0;
#pragma omp simd reduction(+ : by_frac, by_range, by_scale, by_shift)
    for (int64_t i = 0; i < count; i++) {
        Gradient d = gradient(k, lo, hi, g[i], x[i], AT(addend, i), up, down, scale, shift);
        grad_x[i] = (X)(QFX_AFFINE ? (T)(d.input * scale) : d.input);
        if (QFX_ADDEND) grad_addend[i] = (X)d.input;
        by_frac += (double)d.frac;
        if (QFX_AFFINE) {
            by_scale += (double)d.input * (double)x[i];
            by_shift += (double)d.input;
        }
        if (QFX_WORDS) by_range += (double)d.range;
    }
    *sums.frac += by_frac * FRAC_UNIT((double)down);
    *sums.range += by_range;
    *sums.scale += by_scale;
    *sums.shift += by_shift;
}

static NOINLINE void backward_columns(const Constants k, X* __restrict grad_x, X* __restrict grad_addend, const R* __restrict g,
                                      const X* __restrict x, const X* __restrict addend, int64_t rows, int64_t count, const Table t,
                                      const Sums sums) {
    const T *__restrict up = t.up, *__restrict down = t.down, *__restrict lo = t.lo, *__restrict hi = t.hi;
    const double *__restrict scale = t.scale, *__restrict shift = t.shift;
    double *__restrict by_frac = sums.frac, *__restrict by_range = sums.range, *__restrict by_scale = sums.scale, *__restrict by_shift = sums.shift;
    for (int64_t r = 0; r < rows; r++) {
#pragma omp simd
        for (int64_t c = 0; c < count; c++) {
            const double by = QFX_AFFINE ? scale[c] : 1.0, moved = QFX_AFFINE ? shift[c] : 0.0;
            Gradient d = gradient(k, LEAST(c), MOST(c), g[c], x[c], AT(addend, c), up[c], down[c], by, moved);
            grad_x[c] = (X)(QFX_AFFINE ? (T)(d.input * scale[c]) : d.input);
            if (QFX_ADDEND) grad_addend[c] = (X)d.input;
            by_frac[c] += (double)d.frac * FRAC_UNIT((double)down[c]);
            if (QFX_WORDS) by_range[c] += (double)d.range;
            if (QFX_AFFINE) {
                by_scale[c] += (double)d.input * (double)x[c];
                by_shift[c] += (double)d.input;
            }
        }
        grad_x += count, g += count, x += count;
        if (QFX_ADDEND) grad_addend += count, addend += count;
    }
}

// ---- whole tensors --------------------------------------------------------------------------------------------------

struct Blocks {  // how a tensor is cut; depends on its shape alone
    int64_t count, size, total;

    Blocks(const Shape& s, bool sums_per_channel) : total(s.outer * s.channels * s.inner) {
        count = total / BLOCK;
        if (sums_per_channel && count > total / (8 * s.channels)) count = total / (8 * s.channels);  // keep the tables of sums small
        if (count > MAX_BLOCKS) count = MAX_BLOCKS;
        if (count < 1) count = 1;
        size = (total / count + 63) / 64 * 64;
        count = (total + size - 1) / size;
    }
};

struct Tensors {
    R* out;
    X *grad_x, *grad_addend;
    const R* g;
    const X *x, *addend;

    const X* addend_from(int64_t i) const { return QFX_ADDEND ? addend + i : 0; }
    X* grad_addend_from(int64_t i) const { return QFX_ADDEND ? grad_addend + i : 0; }
};

struct Job {
    const Plan& plan;
    Constants k;
    Shape shape;
    Blocks blocks;
    Tensors t;
    Source source;
    Table table;
    Sums sums;  // one table for each block, `stride` apart
    int64_t stride;
    bool backward;

    Job(const Plan& plan_, const Shape& shape_, const Tensors& t_, const Source& source_, bool backward_)
        : plan(plan_), k(plan_), shape(shape_), blocks(shape_, backward_ && shape_.channels > 1), t(t_), source(source_), table(), sums(), stride(0),
          backward(backward_) {}

    void run(int64_t begin, int64_t end, const Table& p, const Sums& s) const {  // one row's run: inner > 1 or one channel
        if (!backward)
            forward_row(k, t.out + begin, t.x + begin, t.addend_from(begin), end - begin, p);
        else
            backward_row(k, t.grad_x + begin, t.grad_addend_from(begin), t.g + begin, t.x + begin, t.addend_from(begin), end - begin, p, s);
    }
    void run_columns(int64_t begin, int64_t rows, int64_t count, const Table& p, const Sums& s) const {
        if (!backward)
            forward_columns(k, t.out + begin, t.x + begin, t.addend_from(begin), rows, count, p);
        else
            backward_columns(k, t.grad_x + begin, t.grad_addend_from(begin), t.g + begin, t.x + begin, t.addend_from(begin), rows, count, p, s);
    }
    void block(int64_t b) const {
        const bool columns = shape.inner == 1 && shape.channels > 1;
        const int64_t row = columns ? shape.channels : shape.inner;
        int64_t begin = b * blocks.size, end = b + 1 == blocks.count ? blocks.total : begin + blocks.size;
        const Sums mine = backward ? sums.from(b * stride) : sums;
        while (begin < end) {
            int64_t offset = begin % row, rows = 1, count = row - offset < end - begin ? row - offset : end - begin;
            if (columns) {
                if (count == row) rows = (end - begin) / row;
                run_columns(begin, rows, count, table.from(offset), backward ? mine.from(offset) : mine);
            } else {
                int64_t c = begin / row % shape.channels;
                run(begin, begin + count, table.from(c), backward ? mine.from(c) : mine);
            }
            begin += rows * count;
        }
    }
    void run_blocks(int threads) const {
        if (threads <= 1 || blocks.count == 1) {
            for (int64_t b = 0; b < blocks.count; b++) block(b);
            return;
        }
#pragma omp parallel for num_threads(threads) schedule(static)
        for (int64_t b = 0; b < blocks.count; b++) block(b);
    }
};

struct Results {  // where the gradients of the parameters go; each may be null
    void *frac, *range;
    double *scale, *shift;
    double frac_grad_scale;
    int flags;

    void put_in(void* to, double factor, const double* sums, int64_t first, int64_t count) const {
        if (flags & FRAC_DOUBLE)
            for (int64_t c = 0; c < count; c++) ((double*)to)[first + c] = factor * sums[c];
        else
            for (int64_t c = 0; c < count; c++) ((float*)to)[first + c] = (float)(factor * sums[c]);
    }
    void put_bits(const double* fracs, const double* ranges, int64_t first, int64_t count) const {
        if (frac) put_in(frac, -LN2 * frac_grad_scale, fracs, first, count);
        if (range) put_in(range, LN2 * frac_grad_scale, ranges, first, count);
    }
    // Sums of channels first .. first + count - 1; what belongs to no channel is added up in `all`.
    void put(const Sums& s, int64_t first, int64_t count, double all[4]) const {
        if (flags & FRAC_PER_CHANNEL) put_bits(s.frac, s.range, first, count);
        for (int64_t c = 0; scale && flags & SCALE_PER_CHANNEL && c < count; c++) scale[first + c] = s.scale[c];
        for (int64_t c = 0; shift && flags & SHIFT_PER_CHANNEL && c < count; c++) shift[first + c] = s.shift[c];
        if (!(flags & FRAC_PER_CHANNEL)) all[0] += total(s.frac, count), all[1] += QFX_WORDS ? total(s.range, count) : 0.0;
        if (scale) all[2] += total(s.scale, count);
        if (shift) all[3] += total(s.shift, count);
    }
    static double total(const double* sums, int64_t count) {
        double all = 0;
        for (int64_t c = 0; c < count; c++) all += sums[c];
        return all;
    }
    void put_all(const double all[4]) const {
        if (!(flags & FRAC_PER_CHANNEL)) put_bits(all, all + 1, 0, 1);
        if (scale && !(flags & SCALE_PER_CHANNEL)) *scale = all[2];
        if (shift && !(flags & SHIFT_PER_CHANNEL)) *shift = all[3];
    }
};

// One element per channel: tile by tile, so that the tables stay in the cache however many channels there are. One thread.
static int run_elements(const Job& job, const Results* results) {
    double memory[TILE * 10];
    int64_t channels = job.shape.channels;
    double all[4] = {0, 0, 0, 0};
    const Table table = Table::in(memory, TILE);
    const Sums sums = Sums::in(memory + TILE * 6, TILE);
    for (int64_t first = 0; first < channels; first += TILE) {
        int64_t count = channels - first < TILE ? channels - first : TILE;
        if (!job.source.fill(job.plan, table, first, count)) return BAD_FRAC_BITS;
        if (results)
            for (int64_t i = TILE * 6; i < TILE * 10; i++) memory[i] = 0;
        job.run_columns(first, 1, count, table, sums);
        if (results) results->put(sums, first, count, all);
    }
    if (results) results->put_all(all);
    return OK;
}

static int run_channels(Job& job, const Results* results) {
    int64_t channels = job.shape.channels, tables = results ? job.blocks.count : 0;
    job.stride = 4 * channels;
    int64_t bytes = Table::bytes(channels) + tables * job.stride * (int64_t)sizeof(double);
    double small[512];
    double* memory = bytes <= (int64_t)sizeof(small) ? small : (double*)malloc(bytes);
    if (!memory) return NO_MEMORY;
    job.sums = Sums::in(memory, channels);
    for (int64_t i = 0; i < tables * job.stride; i++) memory[i] = 0;
    job.table = Table::in(memory + tables * job.stride, channels);
    int status = BAD_FRAC_BITS;
    if (job.source.fill(job.plan, job.table, 0, channels)) {
        status = OK;
        job.run_blocks(job.source.flags >> THREADS_SHIFT);
        if (results) {
            for (int64_t i = job.stride; i < tables * job.stride; i++) memory[i % job.stride] += memory[i];
            double all[4] = {0, 0, 0, 0};
            results->put(job.sums, 0, channels, all);
            results->put_all(all);
        }
    }
    if (memory != small) free(memory);
    return status;
}

static int run(Job& job, const Results* results) {
    bool elements = job.shape.outer == 1 && job.shape.inner == 1 && job.shape.channels > 1;
    return elements ? run_elements(job, results) : run_channels(job, results);
}

// ---- the two entries; every tensor has at least one element ---------------------------------------------------------

extern "C" int qfx_forward(const Plan* plan, void* out, const void* x, const void* addend, const void* frac, const void* words, const double* scale,
                           const double* shift, int64_t outer, int64_t channels, int64_t inner, int flags) {
    Shape shape = {outer, channels, inner};
    Tensors tensors = {(R*)out, 0, 0, 0, (const X*)x, (const X*)addend};
    Source source = {frac, words, scale, shift, flags};
    Job job(*plan, shape, tensors, source, false);
    return run(job, 0);
}

// The same with one binary point and nothing before the Cast: fewer arguments, since a call on a small tensor costs no more than its arguments do.
extern "C" int qfx_forward_flat(const Plan* plan, void* out, const void* x, const void* frac, int64_t count, int flags) {
    return qfx_forward(plan, out, x, 0, frac, 0, 0, 0, 1, 1, count, flags);
}

// grad_frac and grad_words have the type and count of frac, grad_scale and grad_shift are doubles, as many as given; each may be null.
extern "C" int qfx_backward(const Plan* plan, void* grad_x, void* grad_addend, const void* g, const void* x, const void* addend, const void* frac,
                            const void* words, const double* scale, const double* shift, int64_t outer, int64_t channels, int64_t inner, int flags,
                            double frac_grad_scale, void* grad_frac, void* grad_words, double* grad_scale, double* grad_shift) {
    Shape shape = {outer, channels, inner};
    Tensors tensors = {0, (X*)grad_x, (X*)grad_addend, (const R*)g, (const X*)x, (const X*)addend};
    Source source = {frac, words, scale, shift, flags};
    Job job(*plan, shape, tensors, source, true);
    Results results = {grad_frac, grad_words, grad_scale, grad_shift, frac_grad_scale, flags};
    return run(job, &results);
}

extern "C" int qfx_backward_flat(const Plan* plan, void* grad_x, const void* g, const void* x, const void* frac, int64_t count, int flags,
                                 double frac_grad_scale, void* grad_frac) {
    return qfx_backward(plan, grad_x, 0, g, x, 0, frac, 0, 0, 0, 1, 1, count, flags, frac_grad_scale, grad_frac, 0, 0, 0);
}
