// The product of two matrices that both travel, folded by PE (outputs in parallel) and SIMD (terms of a sum in parallel).
#ifndef QFX_MATMUL_H
#define QFX_MATMUL_H

#include "qfx/multiply.h"
#include "qfx/rom.h"
#include "qfx/types.h"

namespace qfx {

// MATRICES products of (ROWS, INPUTS) by (INPUTS, OUTPUTS). Multiplier, Sum and Total are as in matvec.h.
template <int MATRICES_, int ROWS_, int OUTPUTS_, int INPUTS_, int PE_, int SIMD_, class Acc_, class Multiplier_ = mul_auto, class Sum_ = Acc_,
          class Total_ = Acc_>
struct matmul_shape {
  static const int MATRICES = MATRICES_;
  static const int ROWS = ROWS_;
  static const int OUTPUTS = OUTPUTS_;
  static const int INPUTS = INPUTS_;
  static const int PE = PE_;
  static const int SIMD = SIMD_;
  static const int OUTPUT_FOLD = OUTPUTS_ / PE_;
  static const int INPUT_FOLD = INPUTS_ / SIMD_;
  static const int FOLD = OUTPUT_FOLD * INPUT_FOLD;
  typedef Acc_ acc;
  typedef Multiplier_ multiplier;
  typedef Sum_ sum;
  typedef Total_ total;
};

// First a matrix of b, column by column, then the rows of a that meet it; both in words of SIMD terms. Entry (first output / PE) * INPUT_FOLD + (first
// input / SIMD) of `matrix` holds SIMD * PE numbers, the PEs innermost; `kept` holds a row. Both belong to the layer's function, each number of an entry
// with a memory of its own. The result leaves row by row.
template <class S, class Epilogue, class A, class B>
void matmul(hls::stream<vec<A, S::SIMD> >& a, hls::stream<vec<B, S::SIMD> >& b, hls::stream<vec<typename Epilogue::out, S::PE> >& out,
            B (&matrix)[S::FOLD][S::SIMD * S::PE], A (&kept)[S::INPUT_FOLD][S::SIMD]) {
#pragma HLS INLINE
  typedef typename upto<S::FOLD - 1>::type place_t;
  typename S::total acc[S::PE];
#pragma HLS ARRAY_PARTITION variable=acc complete dim=1

matmul_matrix:
  for (int index = 0; index < S::MATRICES; index++) {
  matmul_load_output:
    for (int output = 0; output < S::OUTPUT_FOLD; output++) {
    matmul_load_lane:
      for (int lane = 0; lane < S::PE; lane++) {
      matmul_load_input:
        for (int input = 0; input < S::INPUT_FOLD; input++) {
          QFX_PIPELINE
          QFX_TURN();
          const vec<B, S::SIMD> word = b.read();
        matmul_store_pe:
          for (int pe = 0; pe < S::PE; pe++) {
#pragma HLS UNROLL
            if (pe == lane) {
            matmul_store_simd:
              for (int s = 0; s < S::SIMD; s++) {
#pragma HLS UNROLL
                matrix[output * S::INPUT_FOLD + input][s * S::PE + pe] = word[s];
              }
            }
          }
        }
      }
    }
    place_t place = 0;
  matmul_row:
    for (int row = 0; row < S::ROWS; row++) {
    matmul_output:
      for (int output = 0; output < S::OUTPUT_FOLD; output++) {
      matmul_input:
        for (int input = 0; input < S::INPUT_FOLD; input++) {
          QFX_PIPELINE
          QFX_TURN();
          vec<A, S::SIMD> word;
          if (output == 0) {
            word = a.read();
          matmul_keep:
            for (int s = 0; s < S::SIMD; s++) {
#pragma HLS UNROLL
              kept[input][s] = word[s];
            }
          } else {
          matmul_recall:
            for (int s = 0; s < S::SIMD; s++) {
#pragma HLS UNROLL
              word[s] = kept[input][s];
            }
          }
          typename S::sum sum[S::PE];
#pragma HLS ARRAY_PARTITION variable=sum complete dim=1
          S::multiplier::template dot<S::PE, S::SIMD, plain<B> >(matrix[place], word, sum);
        matmul_pe:
          for (int pe = 0; pe < S::PE; pe++) {
#pragma HLS UNROLL
            go_on(acc[pe], typename S::total(sum[pe]), input == 0);
          }
          place = place == S::FOLD - 1 ? place_t(0) : place_t(place + 1);
          if (input == S::INPUT_FOLD - 1) {
            vec<typename Epilogue::out, S::PE> result;
            QFX_PACK(result)
          matmul_epilogue:
            for (int pe = 0; pe < S::PE; pe++) {
#pragma HLS UNROLL
              result[pe] = Epilogue::apply(typename S::acc(acc[pe]), index * S::ROWS + row, output * S::PE + pe);
            }
            out.write(result);
          }
        }
      }
    }
  }
}

}  // namespace qfx

#endif
