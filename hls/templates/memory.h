// What lies in the board's memory, from files. Not synthesized.
#ifndef QFX_MEMORY_H
#define QFX_MEMORY_H

#include <cstdlib>
#include <iostream>
#include <string>
#include <vector>

#include <ap_int.h>

#include "dma.h"
#include "harness.h"

namespace qfx_tb {

// The `count` words of the file NAME.bin, each in whole bytes, the lowest first; says what is wrong, and gives false, unless it is there, as long, and
// the file with that checksum. `any`: whatever its bytes are, for memory that a board may have changed.
template <int BITS>
bool load_memory(const std::string& name, const size_t count, const unsigned crc, const bool any, std::vector<ap_uint<BITS> >& into) {
  const char* folder = std::getenv("QFX_MEMORY");
  bytes held;
  const std::string file = name + ".bin";
  const bool found = folder != 0 ? load_bytes(std::string(folder) + "/" + file, held)
                                 : load_bytes("memory/" + file, held) || load_bytes("tb/memory/" + file, held) || load_bytes(file, held);
  if (!found) {
    std::cerr << "error: cannot read " << file << " in " << (folder != 0 ? folder : "memory, tb/memory or here") << std::endl;
    return false;
  }
  if (held.size() != count * (BITS / 8) || (!any && crc32(held) != crc)) {
    std::cerr << "error: " << file << " holds " << held.size() << " bytes of another model, or is damaged: " << count * (BITS / 8)
              << " bytes with the checksum in the project's header are expected; write the project again (qfx hls --force), or take its own tb/memory"
              << std::endl;
    return false;
  }
  into.resize(count);
  for (size_t i = 0; i < count; i++) {
    for (int byte = 0; byte < BITS / 8; byte++) {
      into[i].range(8 * byte + 7, 8 * byte) = static_cast<unsigned char>(held[i * (BITS / 8) + static_cast<size_t>(byte)]);
    }
  }
  return true;
}

}  // namespace qfx_tb

#endif
