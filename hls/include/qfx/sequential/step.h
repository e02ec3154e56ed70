// The instructions of a layer engine, and what they mean for its places in memory.
//
// A step is one fused layer: a window over a value in memory, sums of products (or a sum or the greatest of each channel), and an epilogue. It is a row of
// the program: STEP_WORDS words of 64 bits, a field each, in the order of `read_step` (FIELDS of qfx/hardware/sequential/program.py). A step of two inputs
// makes sums of products of both, each with windows and weights of its own, and adds them: what the first gives stays in the engine.
//
// A value lies in memory as vectors of LANES neighbouring channels: block by block, frame by frame of a batch, row by row, pixel by pixel. A number is a
// container of X_BITS bits; one that is wider takes several, its planes, the lowest first: a vector each, side by side. Channels are filled up to whole
// blocks. What a window sees of a value may be larger than what lies in memory: each row and column of it is seen `zoom` times.
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

// What the memories of weights are built of: the engine's header says where, if they are shallow.
#ifndef QFX_ENGINE_BIND_WEIGHTS
#define QFX_ENGINE_BIND_WEIGHTS(name) QFX_BIND(name, RAM_S2P, BRAM)
#endif

namespace qfx {
namespace sequential {

enum process {
  FETCH_X0, FETCH_X1, PLACE_X0, PLACE_X1, FETCH_WEIGHTS, PLACE_WEIGHTS, MULTIPLY, FETCH_PARAMETERS, FETCH_BESIDE, EPILOGUE, GATHER, WRITE, PROCESSES
};
enum kind { MATRIX, SUM, MAXIMUM };
enum overflow { CLAMP, WRAP, ZERO };
enum rounding { TRN, RND, RND_MIN_INF, RND_ZERO, RND_INF, RND_CONV, TRN_ZERO };  // of qfx.fixed.type.QMode

static const int TAPS = 3;  // the most columns of a window that slides
static const int STEP_WORDS = 72;
static const int INPUTS = 2;  // the most of a step
static const int SIDES = 2;  // values come through a port for each: the first half of the pixel lanes and the other one
static const int PARAMETER_WORDS = 4;  // of a channel: what is added; the factor and three shifts; the least result; the greatest

// What a step reads: a value and the windows over it, and how many words each multiplier has of its weights.
struct window {
  int at, blocks, height, width, is_signed;
  int zoom_h, zoom_w, lines, line;  // rows and columns seen of each; rows and columns in memory
  int kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
  int entries;                      // words of each multiplier's weights in a part
  // What follows from these.
  int in_rows[SIDES], in_columns;   // of a side of a tile, or of one frame of it
  int lane_rows;                    // of one pixel lane
  int base;                         // where it begins in the memory of a lane
};

struct step {
  int kind, inputs;
  int fill;
  int height, width, blocks, frames;  // of the result
  int lane_frames;                // pixel lanes are frames: else rows of a frame
  int rows, columns;              // of a tile: rows of each pixel lane
  int tiles_h, tiles_w;
  int jobs, segments;             // of a tile: blocks of outputs, and the parts in which the weights of one come, if there is one input
  int last_entries;               // in the last part
  int weights_at, parameters_at;
  int y_at, planes;
  int beside_at, beside_planes, beside_signed;  // no planes: nothing is added
  int sliding;                    // one channel at a time: the taps of a row at once (engine.h)
  int leak, slope;                // what is not below 0 is shifted so much, what is below is multiplied by this
  int rounding, overflow, bits, is_signed;
  window in[INPUTS];
  // What follows from these.
  int tiles, finished;            // jobs that give results
  int parts;                      // of a job
  int passes[SIDES];              // frames of a side of a tile
  int pixels;                     // of a pixel lane of a tile
};

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
  // The pixel lanes of a side, and what is kept for them; an engine of one pixel has none on the second side.
  static const int LANES0 = (E::PIXELS + 1) / 2, LANES1 = E::PIXELS - LANES0;
  typedef typename x_memory::type x_kept0[LANES0][E::X_DEPTH];
  typedef typename x_memory::type x_kept1[LANES1 > 0 ? LANES1 : 1][E::X_DEPTH];
  static inline int lanes_of(const int side) {
#pragma HLS INLINE
    return side == 0 ? LANES0 : LANES1;
  }
  static inline int first_lane(const int side) {
#pragma HLS INLINE
    return side == 0 ? 0 : LANES0;
  }
};

inline int read_window(const int (&field)[STEP_WORDS], const int from, window& w) {
#pragma HLS INLINE
  int i = from;
  w.at = field[i++];
  w.blocks = field[i++];
  w.height = field[i++];
  w.width = field[i++];
  w.is_signed = field[i++];
  w.zoom_h = field[i++];
  w.zoom_w = field[i++];
  w.lines = field[i++];
  w.line = field[i++];
  w.kernel_h = field[i++];
  w.kernel_w = field[i++];
  w.stride_h = field[i++];
  w.stride_w = field[i++];
  w.pad_h = field[i++];
  w.pad_w = field[i++];
  w.dilation_h = field[i++];
  w.dilation_w = field[i++];
  w.entries = field[i++];
  return i;
}

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
  s.inputs = field[i++];
  s.fill = field[i++];
  s.height = field[i++];
  s.width = field[i++];
  s.blocks = field[i++];
  s.frames = field[i++];
  s.lane_frames = field[i++];
  s.rows = field[i++];
  s.columns = field[i++];
  s.tiles_h = field[i++];
  s.tiles_w = field[i++];
  s.jobs = field[i++];
  s.segments = field[i++];
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
  s.slope = field[i++];
  s.rounding = field[i++];
  s.overflow = field[i++];
  s.bits = field[i++];
  s.is_signed = field[i++];
  const bool frames = s.lane_frames != 0;
  const int groups = frames ? (s.frames + E::PIXELS - 1) / E::PIXELS : s.frames;
  s.tiles = groups * s.tiles_h * s.tiles_w;
  s.finished = s.tiles * s.jobs;
  s.parts = s.inputs * s.segments;
  s.pixels = s.rows * s.columns;
  int side_rows[SIDES];  // of the result
read_step_side:
  for (int side = 0; side < SIDES; side++) {
    const int lanes = words<E>::lanes_of(side), begin = words<E>::first_lane(side) * s.rows, end = begin + lanes * s.rows;
    side_rows[side] = (end < s.height ? end : s.height) - begin;
    s.passes[side] = frames ? lanes : 1;
  }
  int base = 0;
read_step_input:
  for (int n = 0; n < INPUTS; n++) {
    window& w = s.in[n];
    i = read_window(field, i, w);
    w.lane_rows = (s.rows - 1) * w.stride_h + (w.kernel_h - 1) * w.dilation_h + 1;
  read_step_rows:
    for (int side = 0; side < SIDES; side++) {
      const int seen = side_rows[side] > 0 ? (side_rows[side] - 1) * w.stride_h + (w.kernel_h - 1) * w.dilation_h + 1 : 0;
      w.in_rows[side] = frames ? w.lane_rows : seen;
    }
    w.in_columns = (s.columns - 1) * w.stride_w + (w.kernel_w - 1) * w.dilation_w + 1;
    w.base = base;
    base += w.lane_rows * w.in_columns * w.blocks;
  }
  return s;
}

// The frame, the first row and the first column of a tile.
struct tile_place {
  int frame, top, left;
};

template <class E>
inline tile_place place_of(const step& s, const int tile) {
#pragma HLS INLINE
  const int group = tile / (s.tiles_h * s.tiles_w), rest = tile - group * (s.tiles_h * s.tiles_w);
  const int tile_y = rest / s.tiles_w, tile_x = rest - tile_y * s.tiles_w;
  tile_place place;
  place.frame = group * (s.lane_frames != 0 ? E::PIXELS : 1);
  place.top = tile_y * (s.lane_frames != 0 ? 1 : E::PIXELS) * s.rows;
  place.left = tile_x * s.columns;
  return place;
}

// The frame and the row that the rows of a pixel lane begin at.
inline tile_place lane_of(const step& s, const tile_place& tile, const int lane) {
#pragma HLS INLINE
  tile_place place = tile;
  if (s.lane_frames != 0) {
    place.frame += lane;
  } else {
    place.top += lane * s.rows;
  }
  return place;
}

// Where the rows and columns of a tile begin in what the windows see, which columns lie within it, and those in memory.
struct seen_place {
  int top, left, from, to, line_from, line_to;
};

inline seen_place seen_of(const window& w, const tile_place& tile) {
#pragma HLS INLINE
  seen_place place;
  place.top = tile.top * w.stride_h - w.pad_h;
  place.left = tile.left * w.stride_w - w.pad_w;
  place.from = place.left < 0 ? 0 : place.left;
  const int end = place.left + w.in_columns;
  place.to = end < w.width ? end : w.width;
  place.line_from = place.from / w.zoom_w;
  place.line_to = (place.to + w.zoom_w - 1) / w.zoom_w;
  return place;
}

// The vectors of a result that one job gives of a pixel: all multipliers', or one block of channels.
template <class E>
inline int vectors(const step& s) {
#pragma HLS INLINE
  return s.kind == MATRIX ? E::VECTORS : 1;
}

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
