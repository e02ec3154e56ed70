// Test bench support: raw integers from and to files, one frame through a design. Not synthesized.
//
// A frame is listed in the model's own order, channel by channel (row-major over the shape); a design reads and writes pixel by pixel.
// Files ending in .bin hold 64-bit little-endian integers; all others decimal numbers, one frame a line.
#ifndef QFX_HARNESS_H
#define QFX_HARNESS_H

#include <stdint.h>

#include <fstream>
#include <iostream>
#include <string>
#include <vector>

#include <ap_int.h>
#include <hls_stream.h>

#include "qfx/axi.h"

namespace qfx_tb {

typedef std::vector<int64_t> numbers;

inline bool is_binary(const std::string& path) { return path.size() > 4 && path.substr(path.size() - 4) == ".bin"; }

// CRC-32 as of zlib.
inline unsigned crc32(const std::vector<char>& bytes) {
  static unsigned table[256];
  if (table[1] == 0) {
    for (unsigned i = 0; i < 256; i++) {
      unsigned entry = i;
      for (int bit = 0; bit < 8; bit++) entry = (entry & 1) != 0 ? 0xEDB88320u ^ (entry >> 1) : entry >> 1;
      table[i] = entry;
    }
  }
  unsigned crc = 0xFFFFFFFFu;
  for (size_t i = 0; i < bytes.size(); i++) crc = table[(crc ^ static_cast<unsigned char>(bytes[i])) & 255] ^ (crc >> 8);
  return crc ^ 0xFFFFFFFFu;
}

// All numbers of a file; false if it cannot be read to its end.
inline bool load(const std::string& path, numbers& into) {
  if (is_binary(path)) {
    std::ifstream file(path.c_str(), std::ios::binary | std::ios::ate);
    if (!file) return false;
    into.resize(static_cast<size_t>(file.tellg()) / sizeof(int64_t));
    file.seekg(0);
    if (!into.empty()) file.read(reinterpret_cast<char*>(&into[0]), static_cast<std::streamsize>(into.size() * sizeof(int64_t)));
    return !file.fail();
  }
  std::ifstream file(path.c_str());
  if (!file) return false;
  int64_t number;
  while (file >> number) into.push_back(number);
  return file.eof();
}

inline bool save(const std::string& path, const numbers& from, const size_t frame) {
  std::ofstream file(path.c_str(), std::ios::binary);
  if (is_binary(path)) {
    if (!from.empty()) file.write(reinterpret_cast<const char*>(&from[0]), static_cast<std::streamsize>(from.size() * sizeof(int64_t)));
  } else {
    for (size_t i = 0; i < from.size(); i++) file << from[i] << ((i + 1) % frame ? ' ' : '\n');
  }
  file.flush();
  return file.good();
}

// A frame into an input; `last` goes into the TLAST of its last word. Returns what follows it in `x`.
template <class In>
const int64_t* put(hls::stream<typename In::word>& in, const int64_t* x, const bool last) {
  for (int i = 0; i < In::pixels * In::channels; i += In::parallel) {
    ap_uint<In::slot * In::parallel> word = 0;
    for (int p = 0; p < In::parallel; p++) {
      const int pixel = (i + p) / In::channels, channel = (i + p) % In::channels;
      word.range(p * In::slot + In::slot - 1, p * In::slot) = ap_uint<In::slot>(x[channel * In::pixels + pixel]);
    }
    const bool final = i == In::pixels * In::channels - In::parallel;
    in.write(qfx::axi<In::slot * In::parallel>(word, last && final));
  }
  return x + In::pixels * In::channels;
}

// A frame from an output. Returns the place behind it in `y`; `right` becomes false if its TLAST is not `last`.
template <class Out>
int64_t* get(hls::stream<typename Out::word>& out, int64_t* y, const bool last, bool& right) {
  for (int i = 0; i < Out::pixels * Out::channels; i += Out::parallel) {
    const typename Out::word word = out.read();
    for (int p = 0; p < Out::parallel; p++) {
      const int pixel = (i + p) / Out::channels, channel = (i + p) % Out::channels;
      const ap_uint<Out::slot> slot = word.data.range(p * Out::slot + Out::slot - 1, p * Out::slot);
      y[channel * Out::pixels + pixel] = Out::is_signed ? ap_int<Out::slot>(slot).to_int64() : slot.to_int64();
    }
    const bool final = i == Out::pixels * Out::channels - Out::parallel;
    right = right && (word.last != 0) == (last && final);
  }
  return y + Out::pixels * Out::channels;
}

// Of streams that carry several ports: a frame of one of them behind `words`, dense, from a word of its own on. Returns what follows it in `x`.
template <class In, int BITS>
const int64_t* lay(const int64_t* x, std::vector<ap_uint<BITS> >& words) {
  for (int i = 0; i < In::pixels * In::channels; i++) {
    const int at = i % (BITS / In::slot) * In::slot;
    if (at == 0) words.push_back(0);
    words.back().range(at + In::slot - 1, at) = ap_uint<In::slot>(x[i % In::channels * In::pixels + i / In::channels]);
  }
  return x + In::pixels * In::channels;
}

// Likewise back: the frame that begins with the word `at`, which becomes the place of the next. Returns the place behind it in `y`.
template <class Out, int BITS>
int64_t* pick(const std::vector<ap_uint<BITS> >& words, size_t& at, int64_t* y) {
  const int count = Out::pixels * Out::channels, dense = BITS / Out::slot;
  for (int i = 0; i < count; i++) {
    const ap_uint<Out::slot> slot = words[at + i / dense].range(i % dense * Out::slot + Out::slot - 1, i % dense * Out::slot);
    y[i % Out::channels * Out::pixels + i / Out::channels] = Out::is_signed ? ap_int<Out::slot>(slot).to_int64() : slot.to_int64();
  }
  at += (count + dense - 1) / dense;
  return y + count;
}

// One call of the top function, which takes `batch` frames. `last` goes into the TLAST of their last word; false if the results' TLAST is not the same.
template <class In, class Out>
bool call(void (*top)(hls::stream<typename In::word>&, hls::stream<typename Out::word>&), const int64_t* x, int64_t* y, const bool last,
          const size_t batch = 1) {
  hls::stream<typename In::word> in("in");
  hls::stream<typename Out::word> out("out");
  for (size_t frame = 0; frame < batch; frame++) x = put<In>(in, x, last && frame + 1 == batch);
  top(in, out);
  bool right = true;
  for (size_t frame = 0; frame < batch; frame++) y = get<Out>(out, y, last && frame + 1 == batch, right);
  return right;
}

// All frames of `in`, one TLAST at the very end, as a DMA transfer of them all would have it; false if the length of `in` is no multiple of a frame or
// TLAST comes back anywhere else. Behind the last of them come frames of zeros until a call has `batch`; what they give is dropped.
template <class In, class Out>
bool run(void (*top)(hls::stream<typename In::word>&, hls::stream<typename Out::word>&), const numbers& in, numbers& out, const size_t batch = 1) {
  const size_t in_frame = static_cast<size_t>(In::pixels) * In::channels;
  const size_t out_frame = static_cast<size_t>(Out::pixels) * Out::channels;
  if (in.size() % in_frame) {
    std::cerr << "error: " << in.size() << " numbers are no multiple of a frame of " << in_frame << std::endl;
    return false;
  }
  const size_t frames = in.size() / in_frame, whole = (frames + batch - 1) / batch * batch;
  numbers filled;
  if (whole > frames) {
    filled = in;
    filled.resize(whole * in_frame);
  }
  const numbers& given = whole > frames ? filled : in;
  out.resize(whole * out_frame);
  for (size_t frame = 0; frame < whole; frame += batch) {
    if (!call<In, Out>(top, &given[frame * in_frame], &out[frame * out_frame], frame + batch == whole, batch)) {
      std::cerr << "error: wrong TLAST in frame " << frame << std::endl;
      return false;
    }
  }
  out.resize(frames * out_frame);
  return true;
}

// The same through `top`, which calls a top function of several ports: frames list those of all inputs, and of all outputs, one after the other.
inline bool run(bool (*top)(const int64_t*, int64_t*, bool), const size_t in_frame, const size_t out_frame, const numbers& in, numbers& out) {
  if (in.size() % in_frame) {
    std::cerr << "error: " << in.size() << " numbers are no multiple of a frame of " << in_frame << std::endl;
    return false;
  }
  const size_t frames = in.size() / in_frame;
  out.resize(frames * out_frame);
  for (size_t frame = 0; frame < frames; frame++) {
    if (!top(&in[frame * in_frame], &out[frame * out_frame], frame + 1 == frames)) {
      std::cerr << "error: wrong TLAST in frame " << frame << std::endl;
      return false;
    }
  }
  return true;
}

// Prints the first difference and how many there are; returns how many.
inline size_t compare(const numbers& want, const numbers& got, const size_t frame) {
  size_t differing = 0;
  for (size_t i = 0; i < want.size(); i++) {
    if (want[i] == got[i]) continue;
    if (differing == 0) {
      std::cout << "first mismatch: sample " << i / frame << ", index " << i % frame << ": expected " << want[i] << ", got " << got[i] << std::endl;
    }
    differing++;
  }
  return differing;
}

}  // namespace qfx_tb

#endif
