// The frames of a DMA transfer: port words from and to files, byte by byte as they lie in memory. Not synthesized.
#ifndef QFX_DMA_H
#define QFX_DMA_H

#include <stdint.h>

#include <fstream>
#include <iostream>
#include <string>
#include <vector>

#include <ap_int.h>
#include <hls_stream.h>

#include "qfx/axi.h"

namespace qfx_tb {

typedef std::vector<char> bytes;

inline bool load_bytes(const std::string& path, bytes& into) {
  std::ifstream file(path.c_str(), std::ios::binary | std::ios::ate);
  if (!file) return false;
  into.resize(static_cast<size_t>(file.tellg()));
  file.seekg(0);
  if (!into.empty()) file.read(&into[0], static_cast<std::streamsize>(into.size()));
  return !file.fail();
}

inline bool save_bytes(const std::string& path, const bytes& from) {
  std::ofstream file(path.c_str(), std::ios::binary);
  if (!from.empty()) file.write(&from[0], static_cast<std::streamsize>(from.size()));
  file.flush();
  return file.good();
}

// One transfer to the top function, which runs once for each `batch` frames of it, and one back from it: TLAST comes with the last word of `in`, and `out` ends
// with the first word that has TLAST. Returns 0; 2 if `in` is no multiple of a frame; 3 if TLAST does not come back.
template <class In, class Out>
int transfer(void (*top)(hls::stream<typename In::word>&, hls::stream<typename Out::word>&), const bytes& in, bytes& out,
             const size_t batch = 1) {
  static const int in_bytes = In::slot * In::parallel / 8;
  static const int out_bytes = Out::slot * Out::parallel / 8;
  const size_t words = batch * In::pixels * In::channels / In::parallel;
  if (in.size() % (words * in_bytes)) {
    std::cerr << "error: " << in.size() << " bytes are no multiple of a frame of " << words / batch * in_bytes;
    if (batch > 1) std::cerr << ", of which a call takes " << batch;
    std::cerr << std::endl;
    return 2;
  }
  hls::stream<typename In::word> source("source");
  hls::stream<typename Out::word> sink("sink");
  bool open = true;
  for (size_t at = 0; at < in.size();) {
    for (size_t word = 0; word < words; word++) {
      ap_uint<In::slot * In::parallel> data = 0;
      for (int byte = 0; byte < in_bytes; byte++) data.range(8 * byte + 7, 8 * byte) = static_cast<unsigned char>(in[at++]);
      source.write(qfx::axi<In::slot * In::parallel>(data, at == in.size()));
    }
    top(source, sink);
    while (!sink.empty()) {
      const typename Out::word word = sink.read();
      if (!open) continue;
      for (int byte = 0; byte < out_bytes; byte++) {
        const ap_uint<8> data = word.data.range(8 * byte + 7, 8 * byte);
        out.push_back(static_cast<char>(data.to_int()));
      }
      if (word.last) open = false;
    }
  }
  return open ? 3 : 0;
}

// Of top functions with several streams: the bytes from `at` on, of one frame, into one of them; `last` goes into the TLAST of its last word.
template <int BITS>
void put_words(hls::stream<qfx::axi_word<BITS> >& in, const bytes& from, size_t at, const size_t frame_bytes, const bool last) {
  const size_t end = at + frame_bytes;
  while (at < end) {
    ap_uint<BITS> data = 0;
    for (int byte = 0; byte < BITS / 8; byte++) data.range(8 * byte + 7, 8 * byte) = static_cast<unsigned char>(from[at++]);
    in.write(qfx::axi<BITS>(data, last && at == end));
  }
}

// All words that an output has, behind those of `into`, up to the first with TLAST. `ended`: there has been one; returns whether there is one now.
template <int BITS>
bool get_words(hls::stream<qfx::axi_word<BITS> >& out, bytes& into, bool ended) {
  while (!out.empty()) {
    const qfx::axi_word<BITS> word = out.read();
    if (ended) continue;
    for (int byte = 0; byte < BITS / 8; byte++) {
      const ap_uint<8> data = word.data.range(8 * byte + 7, 8 * byte);
      into.push_back(static_cast<char>(data.to_int()));
    }
    ended = word.last != 0;
  }
  return ended;
}

// The constants into their port; none are left in `from`.
template <class Weights>
void feed_constants(hls::stream<typename Weights::word>& port, bytes& from) {
  for (size_t at = 0; at < from.size();) {
    ap_uint<Weights::slot> data = 0;
    for (int byte = 0; byte < Weights::slot / 8; byte++) data.range(8 * byte + 7, 8 * byte) = static_cast<unsigned char>(from[at++]);
    port.write(qfx::axi<Weights::slot>(data, at == from.size()));
  }
  from.clear();
}

}  // namespace qfx_tb

#endif
