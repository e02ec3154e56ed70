// What a layer engine makes of sums, and how results leave: one vector of channels a turn.
//
// A sum becomes sum * factor + added, then what lies beside it is added, then it is rectified, then cast: rounded, bounded and brought into its type. Factor,
// summand, shifts and bounds are those of the channel; rounding, overflow and type those of the step. qfx/hardware/sequential/steps.py shows that this is
// the arithmetic of the graph, and how wide every number is.
#ifndef QFX_SEQUENTIAL_EPILOGUE_H
#define QFX_SEQUENTIAL_EPILOGUE_H

#include "qfx/sequential/step.h"

namespace qfx {
namespace sequential {

// What the epilogue knows of a channel.
template <class E>
struct parameters {
  typename words<E>::value added, least, greatest;
  sint<E::SCALE_BITS> factor;
  uint<6> beside_up, down, up;
};

template <class E>
void fetch_parameters(const step s, const int job, const ap_uint<64>* memory, parameters<E> (&kept)[E::OUTPUTS]) {
  const int count = vectors<E>(s) * E::LANES;
  const int begin = s.parameters_at + job % (s.jobs * s.inputs) * count * PARAMETER_WORDS;
  parameters<E> one;
fetch_parameters_word:
  for (int i = 0; i < count * PARAMETER_WORDS; i++) {
#pragma HLS PIPELINE II=1
    QFX_ENGINE_TURN(FETCH_PARAMETERS);
    const ap_uint<64> word = memory[begin + i];
    const int field = i % PARAMETER_WORDS;
    if (field == 0) one.added = ap_int<64>(word);
    if (field == 1) {
      one.factor = ap_int<32>(word);
      one.beside_up = uint<6>(word >> 32);
      one.down = uint<6>(word >> 40);
      one.up = uint<6>(word >> 48);
    }
    if (field == 2) one.least = ap_int<64>(word);
    if (field == 3) {
      one.greatest = ap_int<64>(word);
      kept[i / PARAMETER_WORDS] = one;
    }
  }
}

// The place of a job's results: that of its tile, its first block of channels, and how many columns lie within the value.
struct job_place {
  tile_place tile;
  int block, columns;
};

template <class E>
inline job_place place_of_job(const step& s, const int job) {
#pragma HLS INLINE
  const int tile = job / s.jobs;
  job_place place;
  place.tile = place_of<E>(s, tile);
  place.block = (job - tile * s.jobs) * vectors<E>(s);
  const int rest = s.width - place.tile.left;
  place.columns = rest < s.columns ? rest : s.columns;
  return place;
}

// What is added to the results of a job.
template <class E>
void fetch_beside(
    const step s, const int job, const typename words<E>::x_word* beside,
    typename words<E>::x_memory::type (&kept)[E::BESIDE_PLANES][E::BESIDE_DEPTH]) {
  if (s.beside_planes > 0) {  // of one input: two have nothing beside them
    const job_place place = place_of_job<E>(s, job);
    const int count = vectors<E>(s);
  fetch_beside_lane:
    for (int k = 0; k < E::PIXELS; k++) {
      const tile_place lane = lane_of(s, place.tile, k);
    fetch_beside_vector:
      for (int j = 0; j < count; j++) {
      fetch_beside_row:
        for (int r = 0; r < s.rows; r++) {
          const int row = lane.top + r, block = place.block + j;
          if (row < s.height && block < s.blocks && lane.frame < s.frames) {
            const int begin = s.beside_at + (((block * s.frames + lane.frame) * s.height + row) * s.width + lane.left) * s.beside_planes;
            const int into = ((k * count + j) * s.rows + r) * s.columns;
            int plane = 0, i = 0;
          fetch_beside_word:
            for (int n = 0; n < place.columns * s.beside_planes; n++) {
#pragma HLS PIPELINE II=1
              QFX_ENGINE_TURN(FETCH_BESIDE);
              kept[plane][into + i] = words<E>::x_memory::of(unpacked<typename words<E>::x_raw, E::LANES, E::X_BITS>(beside[begin + n]));
              plane++;
              if (plane == s.beside_planes) {
                plane = 0;
                i++;
              }
            }
          }
        }
      }
    }
  }
}

// What rounding adds to a number before its last `down` bits fall away.
template <class E, class Value>
inline Value rounded_up(const Value& value, const int mode, const int down) {
#pragma HLS INLINE
  if (down == 0) return Value(0);
  const Value half = Value(1) << (down - 1), below = half - 1;
  const bool negative = value < 0;
  Value added = 0;
  if ((E::ROUNDING >> RND & 1) != 0 && mode == RND) added = half;
  if ((E::ROUNDING >> RND_MIN_INF & 1) != 0 && mode == RND_MIN_INF) added = below;
  if ((E::ROUNDING >> RND_ZERO & 1) != 0 && mode == RND_ZERO) added = negative ? half : below;
  if ((E::ROUNDING >> RND_INF & 1) != 0 && mode == RND_INF) added = negative ? below : half;
  if ((E::ROUNDING >> RND_CONV & 1) != 0 && mode == RND_CONV) added = (value >> down & Value(1)) != 0 ? half : below;
  if ((E::ROUNDING >> TRN_ZERO & 1) != 0 && mode == TRN_ZERO) added = negative ? Value(half + below) : Value(0);
  return added;
}

template <class E>
inline typename words<E>::value scaled(const typename words<E>::acc& sum, const parameters<E>& of) {
#pragma HLS INLINE
  typedef typename words<E>::value value_t;
  return (E::FACTORS ? product<value_t>(of.factor, sum) : value_t(sum)) + of.added;
}

template <class E>
inline typename words<E>::value finished(
    const step& s, const typename words<E>::value& own, const typename words<E>::value& beside, const parameters<E>& of) {
#pragma HLS INLINE
  typedef typename words<E>::value value_t;
  value_t value = own;
  if (E::BESIDE || E::JOINS) value += beside << of.beside_up.to_int();
  if (E::LEAK && value >= 0) {
    value <<= s.leak;
  } else if (E::SLOPE_BITS > 0) {
    value = product<value_t>(sint<(E::SLOPE_BITS > 0 ? E::SLOPE_BITS : 1)>(s.slope), value);
  }
  const int down = of.down.to_int();
  value = (value + rounded_up<E>(value, s.rounding, down)) >> down;
  const value_t least = of.least, greatest = of.greatest;
  if ((E::OVERFLOW >> ZERO & 1) != 0 && s.overflow == ZERO) {
    value = value < least || value > greatest ? value_t(0) : value;
  } else {
    value = value < least ? least : value > greatest ? greatest : value;
  }
  if ((E::OVERFLOW >> WRAP & 1) != 0 && s.overflow == WRAP) {
    const value_t mask = (value_t(1) << s.bits) - 1, top = value_t(1) << (s.bits - 1);
    value &= mask;
    if (s.is_signed != 0 && (value & top) != 0) value -= value_t(1) << s.bits;
  }
  if (E::UP) value <<= of.up.to_int();
  return value;
}

// Of a job of two inputs the first sums wait here, as they are but for factor and summand, until those of the second come.
template <class E>
void epilogue(
    const step s, const int job, hls::stream<typename words<E>::accs>& accs, const parameters<E> (&of)[E::OUTPUTS],
    const typename words<E>::x_memory::type (&beside)[E::BESIDE_PLANES][E::BESIDE_DEPTH], hls::stream<typename words<E>::x_word>& ys) {
  typedef typename words<E>::value value_t;
  typedef uint<E::VALUE_BITS> raw_t;
  static typename memory_word<raw_t, E::LANES>::type held[E::HELD_DEPTH];
#pragma HLS DEPENDENCE variable=held inter false
  const int count = vectors<E>(s);
  const bool waits = E::JOINS && s.inputs > 1 && job % s.inputs == 0, joins = E::JOINS && s.inputs > 1 && !waits;
  const int planes = waits ? 1 : s.planes;
  typename words<E>::accs sums;
  vec<value_t, E::LANES> result;
#pragma HLS ARRAY_PARTITION variable=result.data complete
  int pixel = 0, k = 0, j = 0, plane = 0;
  const int turns = s.pixels * E::PIXELS * count * planes;
epilogue_turn:
  for (int turn = 0; turn < turns; turn++) {
#pragma HLS PIPELINE II=1
    QFX_ENGINE_TURN(EPILOGUE);
    if (k == 0 && j == 0 && plane == 0) sums = accs.read();
    typename words<E>::x_word word = 0;
    const int at = (k * count + j) * s.pixels + pixel;
    vec<typename words<E>::x_raw, E::LANES> raw[E::BESIDE_PLANES];
#pragma HLS ARRAY_PARTITION variable=raw complete
    if (E::BESIDE && s.beside_planes > 0) {
    epilogue_plane:
      for (int p = 0; p < E::BESIDE_PLANES; p++) {
#pragma HLS UNROLL
        raw[p] = words<E>::x_memory::numbers(beside[p][at]);
      }
    }
    vec<raw_t, E::LANES> sooner;
    if (joins) sooner = memory_word<raw_t, E::LANES>::numbers(held[at]);
  epilogue_lane:
    for (int lane = 0; lane < E::LANES; lane++) {
#pragma HLS UNROLL
      if (plane == 0) {
        const value_t own = scaled<E>(sums[k * E::OUTPUTS + j * E::LANES + lane], of[j * E::LANES + lane]);
        value_t other = 0;
        if (joins) other = sooner[lane];
        if (E::BESIDE) {
          bool negative = false;
        epilogue_beside:
          for (int p = 0; p < E::BESIDE_PLANES; p++) {
#pragma HLS UNROLL
            if (p < s.beside_planes) {
              other += value_t(raw[p][lane]) << (p * E::X_BITS);
              negative = s.beside_signed != 0 && raw[p][lane][E::X_BITS - 1] != 0;
            }
          }
          if (negative) other -= value_t(1) << (s.beside_planes * E::X_BITS);
        }
        sooner[lane] = raw_t(own);
        result[lane] = finished<E>(s, own, other, of[j * E::LANES + lane]);
      }
      word.range(lane * E::X_BITS + E::X_BITS - 1, lane * E::X_BITS) = typename words<E>::x_raw(result[lane] >> (plane * E::X_BITS));
    }
    if (waits) {
      held[at] = memory_word<raw_t, E::LANES>::of(sooner);
    } else {
      ys.write(word);
    }
    plane++;
    if (plane == planes) {
      plane = 0;
      j++;
      if (j == count) {
        j = 0;
        k++;
        if (k == E::PIXELS) {
          k = 0;
          pixel++;
        }
      }
    }
  }
}

template <class E>
void finish(
    const step s, const int jobs, hls::stream<typename words<E>::accs>& accs, const typename words<E>::x_word* beside, const ap_uint<64>* memory,
    hls::stream<typename words<E>::x_word>& ys) {
#pragma HLS INLINE off
finish_job:
  for (int job = 0; job < jobs; job++) {
#pragma HLS DATAFLOW
    parameters<E> of[E::OUTPUTS];
#pragma HLS ARRAY_PARTITION variable=of complete
    typename words<E>::x_memory::type kept[E::BESIDE_PLANES][E::BESIDE_DEPTH];
#pragma HLS ARRAY_PARTITION variable=kept complete dim=1
    fetch_parameters<E>(s, job, memory, of);
    fetch_beside<E>(s, job, beside, kept);
    epilogue<E>(s, job, accs, of, kept, ys);
  }
}

// The results of a job, which come pixel by pixel.
template <class E>
void gather(const step s, hls::stream<typename words<E>::x_word>& ys, typename words<E>::x_word (&kept)[E::Y_DEPTH]) {
  const int each = E::PIXELS * vectors<E>(s), turns = s.pixels * each * s.planes;
  int pixel = 0, vector = 0, plane = 0;
gather_turn:
  for (int turn = 0; turn < turns; turn++) {
#pragma HLS PIPELINE II=1
    QFX_ENGINE_TURN(GATHER);
    kept[(vector * s.pixels + pixel) * s.planes + plane] = ys.read();
    plane++;
    if (plane == s.planes) {
      plane = 0;
      vector++;
      if (vector == each) {
        vector = 0;
        pixel++;
      }
    }
  }
}

// They leave row by row, without what lies beyond the value.
template <class E>
void write(const step s, const int job, const typename words<E>::x_word (&kept)[E::Y_DEPTH], typename words<E>::x_word* y) {
  const job_place place = place_of_job<E>(s, job);
  const int count = vectors<E>(s);
write_lane:
  for (int k = 0; k < E::PIXELS; k++) {
    const tile_place lane = lane_of(s, place.tile, k);
  write_vector:
    for (int j = 0; j < count; j++) {
    write_row:
      for (int r = 0; r < s.rows; r++) {
        const int row = lane.top + r, block = place.block + j;
        if (row < s.height && block < s.blocks && lane.frame < s.frames) {
          const int begin = s.y_at + (((block * s.frames + lane.frame) * s.height + row) * s.width + lane.left) * s.planes;
          const int from = ((k * count + j) * s.rows + r) * s.columns * s.planes;
        write_word:
          for (int n = 0; n < place.columns * s.planes; n++) {
#pragma HLS PIPELINE II=1
            QFX_ENGINE_TURN(WRITE);
            y[begin + n] = kept[from + n];
          }
        }
      }
    }
  }
}

template <class E>
void store(const step s, const int jobs, hls::stream<typename words<E>::x_word>& ys, typename words<E>::x_word* y) {
#pragma HLS INLINE off
store_job:
  for (int job = 0; job < jobs; job++) {
#pragma HLS DATAFLOW
    typename words<E>::x_word kept[E::Y_DEPTH];
    gather<E>(s, ys, kept);
    write<E>(s, job, kept, y);
  }
}

}  // namespace sequential
}  // namespace qfx

#endif
