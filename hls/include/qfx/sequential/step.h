// The instructions of a layer engine, and what they mean for its places in memory.
//
// A step is one fused layer: a window over a value in memory, sums of products (or a sum or the greatest of each channel), and an epilogue. It is a row of
// the program: STEP_WORDS words of 64 bits, a field each, in the order of `read_step` (FIELDS of qfx/hardware/sequential/program.py).
//
// A value lies in memory as vectors of LANES neighbouring channels: block by block, row by row, pixel by pixel. A number is a container of X_BITS bits; one
// that is wider takes several, its planes, the lowest first: a vector each, side by side. Channels are filled up to whole blocks.
#ifndef QFX_SEQUENTIAL_STEP_H
#define QFX_SEQUENTIAL_STEP_H

#include "qfx/storage.h"
#include "qfx/types.h"

// The first statement of every pipelined loop: a turn of the process `who`, one of qfx::sequential::process. Simulations may count them.
#ifdef QFX_ENGINE_COUNT
extern long long qfx_engine_turns[];
#ifndef QFX_ENGINE_TURN
#define QFX_ENGINE_TURN(who) qfx_engine_turns[who]++
#endif
#else
#define QFX_ENGINE_TURN(who)
#endif

namespace qfx {
namespace sequential {

enum process { FETCH_X, PLACE_X, FETCH_WEIGHTS, PLACE_WEIGHTS, MULTIPLY, FETCH_PARAMETERS, FETCH_BESIDE, EPILOGUE, GATHER, WRITE, PROCESSES };
enum kind { MATRIX, SUM, MAXIMUM };
enum overflow { CLAMP, WRAP, ZERO };
enum rounding { TRN, RND, RND_MIN_INF, RND_ZERO, RND_INF, RND_CONV, TRN_ZERO };  // of qfx.fixed.type.QMode

static const int TAPS = 3;  // the most columns of a window that slides
static const int STEP_WORDS = 48;
static const int PARAMETER_WORDS = 4;  // of a channel: what is added; the factor and three shifts; the least result; the greatest

struct step {
  int kind;
  int x_at, x_blocks, x_height, x_width, x_signed, fill;
  int kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
  int height, width, blocks;      // of the result
  int rows, columns;              // of a tile: rows of each pixel lane
  int tiles_h, tiles_w;
  int jobs, segments;             // of a tile: blocks of outputs, and the parts in which the weights of one come
  int entries, last_entries;      // words of each multiplier's weights in a part, and in the last one
  int weights_at, parameters_at;
  int y_at, planes;
  int beside_at, beside_planes, beside_signed;  // no planes: nothing is added
  int sliding;                    // one channel at a time: the taps of a row at once (engine.h)
  int leak;                       // what is below 0 is shifted so much less
  int rounding, overflow, bits, is_signed;
  // What follows from these.
  int tiles, finished;            // jobs that give results
  int in_rows, in_columns;        // of a tile
  int lane_rows;                  // of one pixel lane
  int pixels;                     // of a pixel lane of a tile
};

template <class E>
inline step read_step(const ap_uint<64>* program, const int index) {
#pragma HLS INLINE off
  int field[STEP_WORDS];
read_step_word:
  for (int i = 0; i < STEP_WORDS; i++) {
#pragma HLS PIPELINE II=1
    field[i] = ap_int<32>(program[index * STEP_WORDS + i]).to_int();
  }
  step s;
  int i = 0;
  s.kind = field[i++];
  s.x_at = field[i++];
  s.x_blocks = field[i++];
  s.x_height = field[i++];
  s.x_width = field[i++];
  s.x_signed = field[i++];
  s.fill = field[i++];
  s.kernel_h = field[i++];
  s.kernel_w = field[i++];
  s.stride_h = field[i++];
  s.stride_w = field[i++];
  s.pad_h = field[i++];
  s.pad_w = field[i++];
  s.dilation_h = field[i++];
  s.dilation_w = field[i++];
  s.height = field[i++];
  s.width = field[i++];
  s.blocks = field[i++];
  s.rows = field[i++];
  s.columns = field[i++];
  s.tiles_h = field[i++];
  s.tiles_w = field[i++];
  s.jobs = field[i++];
  s.segments = field[i++];
  s.entries = field[i++];
  s.last_entries = field[i++];
  s.weights_at = field[i++];
  s.parameters_at = field[i++];
  s.y_at = field[i++];
  s.planes = field[i++];
  s.beside_at = field[i++];
  s.beside_planes = field[i++];
  s.beside_signed = field[i++];
  s.sliding = field[i++];
  s.leak = field[i++];
  s.rounding = field[i++];
  s.overflow = field[i++];
  s.bits = field[i++];
  s.is_signed = field[i++];
  s.tiles = s.tiles_h * s.tiles_w;
  s.finished = s.tiles * s.jobs;
  s.in_rows = (E::PIXELS * s.rows - 1) * s.stride_h + (s.kernel_h - 1) * s.dilation_h + 1;
  s.lane_rows = (s.rows - 1) * s.stride_h + (s.kernel_h - 1) * s.dilation_h + 1;
  s.in_columns = (s.columns - 1) * s.stride_w + (s.kernel_w - 1) * s.dilation_w + 1;
  s.pixels = s.rows * s.columns;
  return s;
}

// The vectors of a result that one job gives of a pixel: all multipliers', or one block of channels.
template <class E>
inline int vectors(const step& s) {
#pragma HLS INLINE
  return s.kind == MATRIX ? E::VECTORS : 1;
}

// What memory holds, and what the engine keeps of it.
template <class E>
struct words {
  typedef uint<E::X_BITS> x_raw;
  typedef uint<E::W_BITS> w_raw;
  typedef uint<E::LANES * E::X_BITS> x_word;
  typedef uint<E::WIDE / 2 * E::LANES * E::W_BITS> w_half;  // what one of the two ports for weights brings
  typedef uint<E::WIDE * E::LANES * E::W_BITS> w_word;      // the weights of WIDE neighbouring outputs, the first of them from the first port
  typedef memory_word<x_raw, E::LANES> x_memory;
  typedef memory_word<w_raw, E::LANES> w_memory;
  typedef sint<E::ACC_BITS> acc;
  typedef sint<E::VALUE_BITS> value;
  typedef vec<acc, E::PIXELS * E::OUTPUTS> accs;
};

// A word of memory as numbers.
template <class T, int P, int WIDTH>
inline vec<T, P> unpacked(const uint<P * WIDTH>& word) {
#pragma HLS INLINE
  vec<T, P> result;
  QFX_PACK(result)
unpacked_lane:
  for (int p = 0; p < P; p++) {
#pragma HLS UNROLL
    result[p] = T(uint<WIDTH>(word.range(p * WIDTH + WIDTH - 1, p * WIDTH)));
  }
  return result;
}

}  // namespace sequential
}  // namespace qfx

#endif
