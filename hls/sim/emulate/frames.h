// Frames through the fast emulator: files of 64-bit little-endian integers in, likewise out. Not synthesized.
//
// A frame is listed in the model's own order, channel by channel (row-major over the shape); a design reads and writes pixel by pixel.
#ifndef QFX_EMULATE_FRAMES_H
#define QFX_EMULATE_FRAMES_H

#include <stdint.h>

#ifdef __GLIBC__
#include <malloc.h>
#endif

#include <fstream>
#include <iostream>
#include <vector>

#include <hls_stream.h>

#include "qfx/types.h"

namespace qfx_emulate {

template <int PIXELS, int CHANNELS, class T, int P>
void load(const int64_t* x, hls::stream<qfx::vec<T, P> >& out) {
  for (int pixel = 0; pixel < PIXELS; pixel++) {
    for (int channel = 0; channel < CHANNELS; channel += P) {
      qfx::vec<T, P> word;
      for (int p = 0; p < P; p++) word[p] = static_cast<T>(x[(channel + p) * PIXELS + pixel]);
      out.write(word);
    }
  }
}

template <int PIXELS, int CHANNELS, class T, int P>
void store(hls::stream<qfx::vec<T, P> >& in, int64_t* y) {
  for (int pixel = 0; pixel < PIXELS; pixel++) {
    for (int channel = 0; channel < CHANNELS; channel += P) {
      const qfx::vec<T, P> word = in.read();
      for (int p = 0; p < P; p++) y[(channel + p) * PIXELS + pixel] = static_cast<int64_t>(word[p]);
    }
  }
}

// All frames of the file `source` through `frame` into the file `result`; the exit status.
inline int run(void (*frame)(const int64_t*, int64_t*), const size_t in_frame, const size_t out_frame, const char* source, const char* result) {
#ifdef __GLIBC__
  // Streams come and go with every frame: keep their memory instead of handing it back to the system.
  mallopt(M_MMAP_THRESHOLD, 1 << 30);
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
#endif
  std::ifstream in(source, std::ios::binary | std::ios::ate);
  if (!in) {
    std::cerr << "error: cannot read " << source << std::endl;
    return 2;
  }
  const size_t count = static_cast<size_t>(in.tellg()) / sizeof(int64_t);
  if (count % in_frame) {
    std::cerr << "error: " << count << " numbers are no multiple of a frame of " << in_frame << std::endl;
    return 2;
  }
  const size_t frames = count / in_frame;
  std::vector<int64_t> x(in_frame), y(out_frame);
  std::ofstream out(result, std::ios::binary);
  in.seekg(0);
  for (size_t i = 0; i < frames; i++) {
    in.read(reinterpret_cast<char*>(&x[0]), static_cast<std::streamsize>(in_frame * sizeof(int64_t)));
    if (!in) break;
    frame(&x[0], &y[0]);
    out.write(reinterpret_cast<const char*>(&y[0]), static_cast<std::streamsize>(out_frame * sizeof(int64_t)));
  }
  out.flush();
  if (!in || !out) {
    std::cerr << "error: cannot read " << source << " or cannot write " << result << std::endl;
    return 2;
  }
  return 0;
}

}  // namespace qfx_emulate

#endif
