// A layer engine that runs whatever program it finds: engine_bench <steps> <folder> <memory in> <memory out>. Turns go to <folder>/turns.
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "net.h"

long long qfx_engine_turns[qfx::sequential::PROCESSES];

template <int BITS>
static std::vector<ap_uint<BITS> > words(const std::string& path) {
  std::ifstream file(path.c_str(), std::ios::binary);
  const std::vector<char> bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  std::vector<ap_uint<BITS> > result(bytes.size() / (BITS / 8) + 1);
  for (size_t i = 0; i < bytes.size(); i++) {
    result[i / (BITS / 8)].range(8 * (i % (BITS / 8)) + 7, 8 * (i % (BITS / 8))) = static_cast<unsigned char>(bytes[i]);
  }
  return result;
}

int main(int, char** argv) {
  const int vector_bits = net_engine::LANES * net_engine::X_BITS;
  const std::string folder = argv[2];
  std::vector<ap_uint<64> > program = words<64>(folder + "/program.bin"), parameters = words<64>(folder + "/parameters.bin");
  const int half_bits = net_engine::WIDE / 2 * net_engine::LANES * net_engine::W_BITS;
  std::vector<net_weights> weights0 = words<half_bits>(folder + "/weights0.bin"), weights1 = words<half_bits>(folder + "/weights1.bin");
  std::vector<net_vector> memory = words<vector_bits>(argv[3]);
  net(std::atoi(argv[1]), &program[0], &memory[0], &weights0[0], &weights1[0], &memory[0], &parameters[0], &memory[0]);
  std::ofstream out(argv[4], std::ios::binary);
  for (size_t i = 0; i + 1 < memory.size(); i++) {
    for (int byte = 0; byte < vector_bits / 8; byte++) out.put(static_cast<char>(memory[i].range(8 * byte + 7, 8 * byte).to_int()));
  }
  std::ofstream turns((folder + "/turns").c_str());
  for (int i = 0; i < qfx::sequential::PROCESSES; i++) turns << qfx_engine_turns[i] << "\n";
  return out.good() && turns.good() ? 0 : 1;
}
