// A layer engine: one array of multipliers that runs a program of steps over values in memory (step.h). Every process reads or writes one port, and all
// of them work at once: values come in tiles (a port for each half of the pixel lanes), weights in jobs (a block of outputs of a tile), results leave as rows.
#ifndef QFX_SEQUENTIAL_ENGINE_H
#define QFX_SEQUENTIAL_ENGINE_H

#include "qfx/multiply.h"
#include "qfx/sequential/epilogue.h"
#include "qfx/sequential/step.h"

namespace qfx {
namespace sequential {

// The input of a side of every tile, block by block and row by row, without what lies outside of the value.
template <class E, int SIDE>
void fetch_x(const step s, const typename words<E>::x_word* x, hls::stream<typename words<E>::x_word>& xs) {
fetch_x_tile:
  for (int tile = 0; tile < s.tiles; tile++) {
    const tile_place place = lane_of(s, place_of<E>(s, tile), words<E>::first_lane(SIDE));
  fetch_x_input:
    for (int n = 0; n < s.inputs; n++) {
      const window w = s.in[n];
      const seen_place seen = seen_of(w, place);
      const int first = seen.top < 0 ? 0 : seen.top, first_line = first / w.zoom_h, first_phase = first - first_line * w.zoom_h;
    fetch_x_frame:
      for (int frame = place.frame; frame < place.frame + s.passes[SIDE]; frame++) {
      fetch_x_block:
        for (int block = 0; block < w.blocks; block++) {
          int line = first_line, phase = first_phase;
        fetch_x_row:
          for (int r = 0; r < w.in_rows[SIDE]; r++) {
            const int row = seen.top + r;
            if (row >= 0 && row < w.height && frame < s.frames) {
              const int begin = w.at + ((block * s.frames + frame) * w.lines + line) * w.line;
            fetch_x_word:
              for (int i = seen.line_from; i < seen.line_to; i++) {
#pragma HLS PIPELINE II=1
                QFX_ENGINE_TURN(FETCH_X0 + SIDE);
                xs.write(x[begin + i]);
              }
              phase++;
              if (phase == w.zoom_h) {
                phase = 0;
                line++;
              }
            }
          }
        }
      }
    }
  }
}

// A side of a tile into the memory of every pixel lane that needs it. A column that is seen several times comes once for each row.
template <class E, int SIDE, int COUNT>
void place_x(const step s, const int tile, hls::stream<typename words<E>::x_word>& xs, typename words<E>::x_memory::type (&kept)[COUNT][E::X_DEPTH]) {
  const tile_place place = lane_of(s, place_of<E>(s, tile), words<E>::first_lane(SIDE));
  const typename words<E>::x_raw fill = s.fill;
place_x_input:
  for (int n = 0; n < s.inputs; n++) {
    const window w = s.in[n];
    const seen_place seen = seen_of(w, place);
    const int turns = s.passes[SIDE] * w.blocks * w.in_rows[SIDE] * w.in_columns, first_phase = seen.from - seen.line_from * w.zoom_w;
    int pass = 0, block = 0, r = 0, i = 0, phase = 0;
    typename words<E>::x_word word = 0;
  place_x_word:
    for (int turn = 0; turn < turns; turn++) {
#pragma HLS PIPELINE II=1
      QFX_ENGINE_TURN(PLACE_X0 + SIDE);
      const int row = seen.top + r, column = seen.left + i;
      const bool inside = row >= 0 && row < w.height && column >= seen.from && column < seen.to && place.frame + pass < s.frames;
      vec<typename words<E>::x_raw, E::LANES> numbers;
      if (inside) {
        const int now = column == seen.from ? first_phase : phase;
        if (column == seen.from || now == 0) word = xs.read();
        phase = now + 1 == w.zoom_w ? 0 : now + 1;
        numbers = unpacked<typename words<E>::x_raw, E::LANES, E::X_BITS>(word);
      } else {
      place_x_fill:
        for (int lane = 0; lane < E::LANES; lane++) {
#pragma HLS UNROLL
          numbers[lane] = fill;
        }
      }
    place_x_lane:
      for (int k = 0; k < COUNT; k++) {
#pragma HLS UNROLL
        const int local = s.lane_frames != 0 ? r : r - k * s.rows * w.stride_h;
        const bool here = s.lane_frames != 0 ? pass == k : local >= 0 && local < w.lane_rows;
        if (here) kept[k][w.base + (local * w.in_columns + i) * w.blocks + block] = words<E>::x_memory::of(numbers);
      }
      i++;
      if (i == w.in_columns) {
        i = 0;
        r++;
        if (r == w.in_rows[SIDE]) {
          r = 0;
          block++;
          if (block == w.blocks) {
            block = 0;
            pass++;
          }
        }
      }
    }
  }
}

// What is kept for a pixel lane, of whichever side.
template <class E>
inline typename words<E>::x_memory::type kept_of(const typename words<E>::x_kept0& x0, const typename words<E>::x_kept1& x1, const int lane, const int at) {
#pragma HLS INLINE
  return lane < words<E>::LANES0 ? x0[lane][at] : x1[lane - words<E>::LANES0][at];
}

// Words of weights for each entry: those of all outputs; of single channels one tap, or all taps of a row.
template <class E>
inline int words_of_entry(const step& s) {
#pragma HLS INLINE
  return s.kind == MATRIX ? E::OUTPUTS / E::WIDE : s.sliding != 0 ? (TAPS + E::WIDE - 1) / E::WIDE : 1;
}

// The weights of a tile's jobs, the same for every tile: each read serves all pixels of the tile.
template <class E>
void fetch_weights(
    const step s, const typename words<E>::w_half* weights0, const typename words<E>::w_half* weights1, hls::stream<typename words<E>::w_word>& ws) {
  if (s.kind != MAXIMUM) {
    const int each = words_of_entry<E>(s);
    const int before = s.inputs > 1 ? s.in[0].entries : (s.segments - 1) * s.in[0].entries;
    const int words_of_tile = s.jobs * (before + s.last_entries) * each;
  fetch_weights_tile:
    for (int tile = 0; tile < s.tiles; tile++) {
    fetch_weights_word:
      for (int i = 0; i < words_of_tile; i++) {
#pragma HLS PIPELINE II=1
        QFX_ENGINE_TURN(FETCH_WEIGHTS);
        const typename words<E>::w_word low = weights0[s.weights_at + i], high = weights1[s.weights_at + i];
        ws.write(typename words<E>::w_word(high << (E::WIDE / 2 * E::LANES * E::W_BITS) | low));
      }
    }
  }
}

// The parts of a job are its inputs, or, of one input, the segments of its weights.
inline int entries_of(const step& s, const int part) {
#pragma HLS INLINE
  return (part + 1) % s.parts == 0 ? s.last_entries : s.in[0].entries;
}

template <class E>
void place_weights(const step s, const int part, hls::stream<typename words<E>::w_word>& ws, typename words<E>::w_memory::type (&kept)[E::OUTPUTS][E::W_DEPTH]) {
  if (s.kind != MAXIMUM) {
    const int each = words_of_entry<E>(s);
    const int turns = entries_of(s, part) * each;
    int entry = 0, output = 0;
  place_weights_word:
    for (int turn = 0; turn < turns; turn++) {
#pragma HLS PIPELINE II=1
      QFX_ENGINE_TURN(PLACE_WEIGHTS);
      const typename words<E>::w_word word = ws.read();
    place_weights_output:
      for (int o = 0; o < E::OUTPUTS; o++) {
#pragma HLS UNROLL
        if (o / E::WIDE == output) {
          const int low = o % E::WIDE * E::LANES * E::W_BITS;
          const uint<E::LANES * E::W_BITS> part = word.range(low + E::LANES * E::W_BITS - 1, low);
          kept[o][entry] = words<E>::w_memory::of(unpacked<typename words<E>::w_raw, E::LANES, E::W_BITS>(part));
        }
      }
      output++;
      if (output == each) {
        output = 0;
        entry++;
      }
    }
  }
}

// Weights as multipliers read them (multiply.h): lane s * OUTPUTS + output.
struct weight_lanes {
  template <class Row>
  static inline typename Row::number at(const Row& row, const int i) {
#pragma HLS INLINE
    return row.numbers[i];
  }
};

template <class T, int COUNT>
struct weight_row {
  typedef T number;
  T numbers[COUNT];
};

// Windows of single channels that slide along a row: each turn takes one vector of a row of the window, keeps it for the next columns, and adds (or
// compares) the taps of that row; so a tap is read once for all windows of the row that it lies in. The last of TAPS taps is the newest.
template <class E>
void slide(
    const step& s, const int job, const typename words<E>::x_kept0& x0, const typename words<E>::x_kept1& x1,
    const typename words<E>::w_memory::type (&weights)[E::OUTPUTS][E::W_DEPTH], hls::stream<typename words<E>::accs>& accs) {
#pragma HLS INLINE
  typedef typename words<E>::acc acc_t;
  typedef typename E::operand operand;
  static vec<operand, E::LANES> history[E::PIXELS][E::SLIDE_ROWS][TAPS - 1];
#pragma HLS ARRAY_PARTITION variable=history complete dim=0
  acc_t acc[E::PIXELS][E::LANES];
#pragma HLS ARRAY_PARTITION variable=acc complete dim=0
  const window w = s.in[0];
  const int row_step = w.dilation_h * w.in_columns * w.blocks, first_tap = TAPS - w.kernel_w;
  int ky = 0, i = 0, phase = 0, row = job, at = job;
  const int turns = s.rows * w.in_columns * w.kernel_h;
slide_turn:
  for (int turn = 0; turn < turns; turn++) {
#pragma HLS PIPELINE II=1
    QFX_ENGINE_TURN(MULTIPLY);
    vec<sint<E::WEIGHT_BITS>, E::LANES> weight[TAPS];
#pragma HLS ARRAY_PARTITION variable=weight complete
    if (s.kind == SUM) {
    slide_weight:
      for (int tap = 0; tap < TAPS; tap++) {
#pragma HLS UNROLL
        const vec<typename words<E>::w_raw, E::LANES> word = words<E>::w_memory::numbers(weights[tap][ky]);
      slide_weight_lane:
        for (int lane = 0; lane < E::LANES; lane++) {
#pragma HLS UNROLL
          weight[tap][lane] = sint<E::WEIGHT_BITS>(sint<E::W_BITS>(word[lane]));
        }
      }
    }
    const bool last = ky == w.kernel_h - 1;
    typename words<E>::accs result;
    QFX_PACK(result)
  slide_pixel:
    for (int k = 0; k < E::PIXELS; k++) {
#pragma HLS UNROLL
      const vec<typename words<E>::x_raw, E::LANES> raw = words<E>::x_memory::numbers(kept_of<E>(x0, x1, k, at + i * w.blocks));
      vec<operand, E::LANES> taps[TAPS];
    slide_operand:
      for (int lane = 0; lane < E::LANES; lane++) {
#pragma HLS UNROLL
        taps[TAPS - 1][lane] = w.is_signed != 0 ? operand(sint<E::X_BITS>(raw[lane])) : operand(raw[lane]);
      }
    slide_history:
      for (int tap = 0; tap < TAPS - 1; tap++) {
#pragma HLS UNROLL
        taps[tap] = history[k][ky][tap];
      }
    slide_keep:
      for (int tap = 0; tap < TAPS - 1; tap++) {
#pragma HLS UNROLL
        history[k][ky][tap] = taps[tap + 1];
      }
    slide_lane:
      for (int lane = 0; lane < E::LANES; lane++) {
#pragma HLS UNROLL
        acc_t sum = 0, most = taps[TAPS - 1][lane];
      slide_tap:
        for (int tap = 0; tap < TAPS; tap++) {
#pragma HLS UNROLL
          const acc_t plain = taps[tap][lane];
          if (tap >= first_tap) {
            sum += E::PRODUCTS ? qfx::product<acc_t>(weight[tap][lane], taps[tap][lane]) : plain;
            most = most < plain ? plain : most;
          }
        }
        if (s.kind == SUM) {
          acc[k][lane] = ky == 0 ? sum : acc_t(acc[k][lane] + sum);
        } else {
          acc[k][lane] = ky == 0 || acc[k][lane] < most ? most : acc[k][lane];
        }
        result[k * E::OUTPUTS + lane] = acc[k][lane];
      }
    }
    if (last && i >= w.kernel_w - 1 && phase == 0) accs.write(result);
    ky++;
    at += row_step;
    if (last) {
      ky = 0;
      at = row;
      if (i >= w.kernel_w - 1) phase = phase == w.stride_w - 1 ? 0 : phase + 1;
      i++;
      if (i == w.in_columns) {
        i = 0;
        phase = 0;
        row += w.stride_h * w.in_columns * w.blocks;
        at = row;
      }
    }
  }
}

// The sums of one part of a job: for every pixel the windows' vectors (kernel rows, kernel columns, blocks) times the weights.
template <class E>
void multiply(
    const step s, const int part, const typename words<E>::x_kept0& x0, const typename words<E>::x_kept1& x1,
    const typename words<E>::w_memory::type (&weights)[E::OUTPUTS][E::W_DEPTH], hls::stream<typename words<E>::accs>& accs) {
  typedef typename words<E>::acc acc_t;
  typedef typename E::operand operand;
  static acc_t acc[E::PIXELS][E::OUTPUTS];  // it waits for the next part
#pragma HLS ARRAY_PARTITION variable=acc complete dim=0
  if (E::SLIDES && s.sliding != 0) {
    slide<E>(s, part, x0, x1, weights, accs);
    return;
  }
  const int entries = entries_of(s, part);
  const int job = part / s.parts, of_job = part - job * s.parts;
  const int segment = s.inputs > 1 ? 0 : of_job;
  const window w = s.in[s.inputs > 1 ? of_job : 0];
  const int first = segment * w.entries;
  const bool matrix = s.kind == MATRIX;
  const int blocks = matrix ? w.blocks : 1;
  const int tap = first / blocks;
  int block = first - tap * blocks, ky = tap / w.kernel_w;
  int kx = tap - ky * w.kernel_w;
  const int column_step = w.dilation_w * w.blocks, row_step = w.dilation_h * w.in_columns * w.blocks;
  const int offset = matrix ? w.base : job;
  int pixel_row = offset, pixel = offset;  // where the window of the pixel begins
  int tap_row = ky * row_step, at = tap_row + kx * column_step;
  int px = 0, entry = 0;
  const int turns = s.pixels * entries;
multiply_turn:
  for (int turn = 0; turn < turns; turn++) {
#pragma HLS PIPELINE II=1
    QFX_ENGINE_TURN(MULTIPLY);
    const bool begins = entry == 0 && segment == 0;
    weight_row<sint<E::WEIGHT_BITS>, E::LANES * E::OUTPUTS> row;
#pragma HLS ARRAY_PARTITION variable=row.numbers complete
    if (s.kind != MAXIMUM) {
    multiply_weights:
      for (int o = 0; o < E::OUTPUTS; o++) {
#pragma HLS UNROLL
        const vec<typename words<E>::w_raw, E::LANES> word = words<E>::w_memory::numbers(weights[o][entry]);
      multiply_weight:
        for (int lane = 0; lane < E::LANES; lane++) {
#pragma HLS UNROLL
          row.numbers[lane * E::OUTPUTS + o] = sint<E::WEIGHT_BITS>(sint<E::W_BITS>(word[lane]));
        }
      }
    }
  multiply_lane:
    for (int k = 0; k < E::PIXELS; k++) {
#pragma HLS UNROLL
      const vec<typename words<E>::x_raw, E::LANES> raw = words<E>::x_memory::numbers(kept_of<E>(x0, x1, k, pixel + at + block));
      vec<operand, E::LANES> number;
    multiply_operand:
      for (int lane = 0; lane < E::LANES; lane++) {
#pragma HLS UNROLL
        number[lane] = w.is_signed != 0 ? operand(sint<E::X_BITS>(raw[lane])) : operand(raw[lane]);
      }
      if (matrix) {
        acc_t sum[E::OUTPUTS];
#pragma HLS ARRAY_PARTITION variable=sum complete
        if (k < E::PIXELS - E::LUT_PIXELS) {
          E::multiplier::template dot<E::OUTPUTS, E::LANES, weight_lanes>(row, number, sum);
        } else {
          mul_lut<typename E::product>::template dot<E::OUTPUTS, E::LANES, weight_lanes>(row, number, sum);
        }
      multiply_output:
        for (int o = 0; o < E::OUTPUTS; o++) {
#pragma HLS UNROLL
          acc[k][o] = begins ? sum[o] : acc_t(acc[k][o] + sum[o]);
        }
      } else {
      multiply_channel:
        for (int lane = 0; lane < E::LANES; lane++) {
#pragma HLS UNROLL
          const acc_t plain = number[lane];
          const acc_t term = E::PRODUCTS && s.kind == SUM ? qfx::product<acc_t>(row.numbers[lane * E::OUTPUTS], number[lane]) : plain;
          const acc_t before = begins ? (s.kind == SUM ? acc_t(0) : plain) : acc[k][lane];
          acc[k][lane] = s.kind == SUM ? acc_t(before + term) : (before < plain ? plain : before);
        }
      }
    }
    if (entry == entries - 1 && segment == s.segments - 1) {
      typename words<E>::accs result;
      QFX_PACK(result)
    multiply_result:
      for (int k = 0; k < E::PIXELS; k++) {
#pragma HLS UNROLL
      multiply_result_output:
        for (int o = 0; o < E::OUTPUTS; o++) {
#pragma HLS UNROLL
          result[k * E::OUTPUTS + o] = acc[k][o];
        }
      }
      accs.write(result);
    }
    // On to the next vector, tap, or pixel.
    block++;
    entry++;
    if (block == blocks) {
      block = 0;
      kx++;
      at += column_step;
      if (kx == w.kernel_w) {
        kx = 0;
        tap_row += row_step;
        at = tap_row;
      }
    }
    if (entry == entries) {
      entry = 0;
      block = 0;
      kx = 0;
      tap_row = 0;
      at = 0;
      px++;
      pixel += w.stride_w * w.blocks;
      if (px == s.columns) {
        px = 0;
        pixel_row += w.stride_h * w.in_columns * w.blocks;
        pixel = pixel_row;
      }
    }
  }
}

template <class E>
void tile_jobs(
    const step s, const int parts, const typename words<E>::x_kept0& x0, const typename words<E>::x_kept1& x1, hls::stream<typename words<E>::w_word>& ws,
    hls::stream<typename words<E>::accs>& accs) {
#pragma HLS INLINE off
tile_jobs_part:
  for (int part = 0; part < parts; part++) {
#pragma HLS DATAFLOW
    typename words<E>::w_memory::type weights[E::OUTPUTS][E::W_DEPTH];
#pragma HLS ARRAY_PARTITION variable=weights complete dim=1
    QFX_ENGINE_BIND_WEIGHTS(weights)
    place_weights<E>(s, part, ws, weights);
    multiply<E>(s, part, x0, x1, weights, accs);
  }
}

template <class E>
void array(
    const step s, const int tiles, hls::stream<typename words<E>::x_word>& xs0, hls::stream<typename words<E>::x_word>& xs1,
    hls::stream<typename words<E>::w_word>& ws, hls::stream<typename words<E>::accs>& accs) {
#pragma HLS INLINE off
array_tile:
  for (int tile = 0; tile < tiles; tile++) {
#pragma HLS DATAFLOW
#if defined(__SYNTHESIS__)
    typename words<E>::x_kept0 x0;
    typename words<E>::x_kept1 x1;
#else
    static typename words<E>::x_kept0 x0;  // too much for a stack
    static typename words<E>::x_kept1 x1;
#endif
#pragma HLS ARRAY_PARTITION variable=x0 complete dim=1
#pragma HLS ARRAY_PARTITION variable=x1 complete dim=1
    QFX_BIND(x0, RAM_S2P, BRAM)
    QFX_BIND(x1, RAM_S2P, BRAM)
    place_x<E, 0>(s, tile, xs0, x0);
    place_x<E, 1>(s, tile, xs1, x1);
    tile_jobs<E>(s, s.jobs * s.parts, x0, x1, ws, accs);
  }
}

// One step. What it reads is in memory, and what it writes is read by later steps alone.
template <class E>
void run(
    const step s, const typename words<E>::x_word* values0, const typename words<E>::x_word* values1, const typename words<E>::w_half* weights0,
    const typename words<E>::w_half* weights1, const typename words<E>::x_word* beside, const ap_uint<64>* parameters, typename words<E>::x_word* y) {
#pragma HLS INLINE off
#pragma HLS DATAFLOW
  hls::stream<typename words<E>::x_word> xs0("xs0"), xs1("xs1"), ys("ys");
  hls::stream<typename words<E>::w_word> ws("ws");
  hls::stream<typename words<E>::accs> accs("accs");
#pragma HLS STREAM variable=xs0 depth=64
#pragma HLS STREAM variable=xs1 depth=64
#pragma HLS STREAM variable=ws depth=64
#pragma HLS STREAM variable=accs depth=4
#pragma HLS STREAM variable=ys depth=64
  fetch_x<E, 0>(s, values0, xs0);
  fetch_x<E, 1>(s, values1, xs1);
  fetch_weights<E>(s, weights0, weights1, ws);
  array<E>(s, s.tiles, xs0, xs1, ws, accs);
  finish<E>(s, s.finished * s.inputs, accs, beside, parameters, ys);
  store<E>(s, s.finished, ys, y);
}

// The steps of a program, one after the other.
template <class E>
void run_program(
    const int steps, const ap_uint<64>* program, const typename words<E>::x_word* values0, const typename words<E>::x_word* values1,
    const typename words<E>::w_half* weights0, const typename words<E>::w_half* weights1, const typename words<E>::x_word* beside,
    const ap_uint<64>* parameters, typename words<E>::x_word* y) {
#pragma HLS INLINE
run_step:
  for (int index = 0; index < steps; index++) {
    const step s = read_step<E>(program, index);
    run<E>(s, values0, values1, weights0, weights1, beside, parameters, y);
  }
}

}  // namespace sequential
}  // namespace qfx

#endif
