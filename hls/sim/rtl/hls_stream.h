// Streams and turns as calls that the translation to RTL knows: bits `low` .. `low + width - 1` of the word that a stream gives or takes in this turn, and
// the beginning of a turn, which no compiler may copy. So it unrolls all loops but those that have turns.
#ifndef QFX_RTL_HLS_STREAM_H
#define QFX_RTL_HLS_STREAM_H

#include "ap_axi_sdata.h"
#include "ap_int.h"

extern "C" {
void qfx_rtl_turn() __attribute__((noduplicate, nothrow));
uint64_t qfx_rtl_read(const void* stream, int low, int width) __attribute__((nothrow));
void qfx_rtl_write(const void* stream, int low, int width, uint64_t bits) __attribute__((nothrow));
}

#define QFX_TURN() qfx_rtl_turn()

namespace qfx {
template <class T, int P>
struct vec;
}

namespace qfx_rtl {

template <class T>
struct wire;

template <int W, bool S>
struct wire<ap_bits<W, S> > {
  static const int width = W;
  typedef typename ap_bits<W, false>::number word;
  static void read(const void* stream, const int low, ap_bits<W, S>& into) {
    word found = 0;
    for (int at = 0; at < W; at += 64) found = word(found | word(word(qfx_rtl_read(stream, low + at, W - at < 64 ? W - at : 64)) << at));
    into = ap_bits<W, S>::made(typename ap_bits<W, S>::number(found));
  }
  static void write(const void* stream, const int low, const ap_bits<W, S>& from) {
    for (int at = 0; at < W; at += 64) qfx_rtl_write(stream, low + at, W - at < 64 ? W - at : 64, uint64_t(word(word(from.value) >> at)));
  }
};

template <class T, int P>
struct wire<qfx::vec<T, P> > {
  static const int width = P * wire<T>::width;
  static void read(const void* stream, const int low, qfx::vec<T, P>& into) {
    for (int p = 0; p < P; p++) wire<T>::read(stream, low + p * wire<T>::width, into.data[p]);
  }
  static void write(const void* stream, const int low, const qfx::vec<T, P>& from) {
    for (int p = 0; p < P; p++) wire<T>::write(stream, low + p * wire<T>::width, from.data[p]);
  }
};

template <int D, int U, int TI, int TD>
struct wire<ap_axiu<D, U, TI, TD> > {
  static const int width = D + 1;
  static void read(const void* stream, const int low, ap_axiu<D, U, TI, TD>& into) {
    wire<ap_uint<D> >::read(stream, low, into.data);
    wire<ap_uint<1> >::read(stream, low + D, into.last);
  }
  static void write(const void* stream, const int low, const ap_axiu<D, U, TI, TD>& from) {
    wire<ap_uint<D> >::write(stream, low, from.data);
    wire<ap_uint<1> >::write(stream, low + D, from.last);
  }
};

}  // namespace qfx_rtl

namespace hls {

template <class T>
class stream {
 public:
  explicit stream(const char*) {}
  T read() {
    T word;
    qfx_rtl::wire<T>::read(this, 0, word);
    return word;
  }
  void write(const T& word) { qfx_rtl::wire<T>::write(this, 0, word); }

 private:
  stream(const stream&);
  stream& operator=(const stream&);
  char name;
};

}  // namespace hls

#endif
