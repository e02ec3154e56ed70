// Memory as a layer engine sees it, for test benches: files as words, and frames as values. Not synthesized.
#ifndef QFX_MEMORY_H
#define QFX_MEMORY_H

#include <stdint.h>

#include <fstream>
#include <iostream>
#include <string>
#include <vector>

#include <ap_int.h>

#include "harness.h"

namespace qfx_tb {

// A value in memory: where it begins, its shape, and how many containers a number takes. An input may be folded: channel k * channels + c of column x is
// channel c of column x * stride - before + k * dilation of the frame, or 0 beyond it. Any other value has one k, and as many columns as the frame.
struct place {
  int at, channels, height, width, columns, kernel, stride, before, dilation, planes;
  bool is_signed;
  size_t numbers() const { return static_cast<size_t>(channels) * height * width; }
};

inline bool is_there(const std::string& path) { return std::ifstream(path.c_str()).good(); }

// A file of `count` words; false, with a message, if it cannot be read, is not as long, or is not the one with this checksum. Without a checksum (0) any
// contents will do.
template <int BITS>
bool load_words(const std::string& path, const unsigned* crc, const size_t count, std::vector<ap_uint<BITS> >& into) {
  std::ifstream file(path.c_str(), std::ios::binary | std::ios::ate);
  std::vector<char> bytes;
  if (file) {
    bytes.resize(static_cast<size_t>(file.tellg()));
    file.seekg(0);
    if (!bytes.empty()) file.read(&bytes[0], static_cast<std::streamsize>(bytes.size()));
  }
  if (!file) {
    std::cerr << "error: cannot read " << path << std::endl;
    return false;
  }
  if (bytes.size() != count * (BITS / 8) || (crc != 0 && crc32(bytes) != *crc)) {
    std::cerr << "error: " << path << " holds " << bytes.size() << " bytes of another model, or is damaged: " << count * (BITS / 8)
              << " bytes with another checksum are expected; write the project again (qfx hls --force), or take its own tb/memory" << std::endl;
    return false;
  }
  into.resize(count);
  for (size_t i = 0; i < count; i++) {
    ap_uint<BITS> word = 0;
    for (int byte = 0; byte < BITS / 8; byte++) word.range(8 * byte + 7, 8 * byte) = static_cast<unsigned char>(bytes[i * (BITS / 8) + byte]);
    into[i] = word;
  }
  return true;
}

// Words as a file, the lowest byte of each first.
template <int BITS>
bool save_words(const std::string& path, const std::vector<ap_uint<BITS> >& from) {
  std::ofstream file(path.c_str(), std::ios::binary);
  for (size_t i = 0; i < from.size(); i++) {
    for (int byte = 0; byte < BITS / 8; byte++) {
      const ap_uint<8> part = from[i].range(8 * byte + 7, 8 * byte);
      file.put(static_cast<char>(part.to_int()));
    }
  }
  file.flush();
  return file.good();
}

// A frame of a batch of so many, which is listed channel by channel, into memory; returns what follows it in `x`.
template <class E>
const int64_t* put(const place& of, const int64_t* x, ap_uint<E::LANES * E::X_BITS>* memory, const int frame, const int frames) {
  for (int channel = 0; channel < of.kernel * of.channels; channel++) {
    const int block = channel / E::LANES, lane = channel % E::LANES, k = channel / of.channels, c = channel % of.channels;
    for (int row = 0; row < of.height; row++) {
      for (int column = 0; column < of.columns; column++) {
        const int from = column * of.stride - of.before + k * of.dilation;
        const int64_t number = from < 0 || from >= of.width ? 0 : x[(c * of.height + row) * of.width + from];
        for (int p = 0; p < of.planes; p++) {
          ap_uint<E::LANES * E::X_BITS>& word = memory[of.at + (((block * frames + frame) * of.height + row) * of.columns + column) * of.planes + p];
          if (lane == 0) word = 0;
          word.range(lane * E::X_BITS + E::X_BITS - 1, lane * E::X_BITS) = ap_uint<E::X_BITS>(number >> (p * E::X_BITS));
        }
      }
    }
  }
  return x + of.numbers();
}

// Likewise back; returns the place behind it in `y`.
template <class E>
int64_t* get(const place& of, const ap_uint<E::LANES * E::X_BITS>* memory, int64_t* y, const int frame, const int frames) {
  for (int c = 0; c < of.channels; c++) {
    const int block = c / E::LANES, lane = c % E::LANES;
    for (int i = 0; i < of.height * of.width; i++) {
      uint64_t bits = 0;
      for (int p = 0; p < of.planes; p++) {
        const ap_uint<E::LANES * E::X_BITS> word = memory[of.at + ((block * frames + frame) * of.height * of.width + i) * of.planes + p];
        const ap_uint<E::X_BITS> part = word.range(lane * E::X_BITS + E::X_BITS - 1, lane * E::X_BITS);
        if (p * E::X_BITS < 64) bits |= static_cast<uint64_t>(part.to_uint64()) << (p * E::X_BITS);
      }
      const int width = of.planes * E::X_BITS;
      if (of.is_signed && width < 64 && (bits >> (width - 1) & 1) != 0) bits |= ~static_cast<uint64_t>(0) << width;
      *y++ = static_cast<int64_t>(bits);
    }
  }
  return y;
}

}  // namespace qfx_tb

#endif
