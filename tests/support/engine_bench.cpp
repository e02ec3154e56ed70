// A layer engine that runs whatever program it finds: engine_bench <steps> <folder> <memory in> <memory out> <depths> <stalls>. Turns go to
// <folder>/turns.
//
// The processes of a step (`run` in engine.h) go side by side, each in a fiber of its own, over streams that are as deep as `depths` says and block; those
// that read or write memory are held up at random, if `stalls` is a seed and not 0. A process that is itself a region of others runs these one after the
// other: hardware overlaps them, and so has more freedom to go on. Exits with 3 if nothing can go on.
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

extern long long qfx_engine_turns[];
#define QFX_ENGINE_TURN(who) (qfx_engine_turns[who]++, qfx_bounded::turn())
#include "run.h"

#include "net.h"

long long qfx_engine_turns[qfx::sequential::PROCESSES];

typedef net_engine engine;
typedef qfx::sequential::words<engine> words_of;

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

// One step; false, with the processes that wait, if they all do.
static bool run_step(
    const qfx::sequential::step& s, const net_vector* x, const net_weights* weights0, const net_weights* weights1, const ap_uint<64>* parameters,
    net_vector* y, const char* depths, uint32_t& stalls) {
  qfx_bounded::world world;
  qfx_bounded::current() = &world;
  hls::stream<words_of::x_word> xs0("xs0"), xs1("xs1"), ys("ys");
  hls::stream<words_of::w_word> ws("ws");
  hls::stream<words_of::accs> accs("accs");
  world.stalls = stalls;
  if (!qfx_bounded::set_depths(world, depths)) return false;
  using namespace qfx::sequential;
  qfx_bounded::add(world, "fetch_x0", 1, [&] { fetch_x<engine, 0>(s, x, xs0); }, true);
  qfx_bounded::add(world, "fetch_x1", 1, [&] { fetch_x<engine, 1>(s, x, xs1); }, true);
  qfx_bounded::add(world, "fetch_weights", 1, [&] { fetch_weights<engine>(s, weights0, weights1, ws); }, true);
  qfx_bounded::add(world, "array", 1, [&] { array<engine>(s, s.tiles, xs0, xs1, ws, accs); });
  qfx_bounded::add(world, "finish", 1, [&] { finish<engine>(s, s.finished * s.inputs, accs, x, parameters, ys); }, true);
  qfx_bounded::add(world, "store", 1, [&] { store<engine>(s, s.finished, ys, y); }, true);
  qfx_bounded::run(world);
  stalls = world.stalls;
  bool done = true;
  for (size_t i = 0; i < world.fibers.size(); i++) {
    const qfx_bounded::fiber& f = world.fibers[i];
    munmap(f.context.uc_stack.ss_sp, qfx_bounded::STACK);
    if (f.done) continue;
    done = false;
    std::cout << f.name << " waits for " << (f.for_room ? "room in " : "words of ") << f.waits->name << std::endl;
  }
  for (size_t i = 0; i < world.channels.size(); i++) {
    if (world.channels[i]->held != 0 && done) {
      std::cout << "words are left in " << world.channels[i]->name << std::endl;
      done = false;
    }
  }
  world.present = 0;
  return done;
}

int main(int, char** argv) {
  const int vector_bits = engine::LANES * engine::X_BITS;
  const std::string folder = argv[2];
  std::vector<ap_uint<64> > program = words<64>(folder + "/program.bin"), parameters = words<64>(folder + "/parameters.bin");
  const int half_bits = engine::WIDE / 2 * engine::LANES * engine::W_BITS;
  std::vector<net_weights> weights0 = words<half_bits>(folder + "/weights0.bin"), weights1 = words<half_bits>(folder + "/weights1.bin");
  std::vector<net_vector> memory = words<vector_bits>(argv[3]);
  uint32_t stalls = static_cast<uint32_t>(std::strtoul(argv[6], 0, 10));
  for (int index = 0; index < std::atoi(argv[1]); index++) {
    const qfx::sequential::step s = qfx::sequential::read_step<engine>(&program[0], index);
    if (!run_step(s, &memory[0], &weights0[0], &weights1[0], &parameters[0], &memory[0], argv[5], stalls)) return 3;
  }
  std::ofstream out(argv[4], std::ios::binary);
  for (size_t i = 0; i + 1 < memory.size(); i++) {
    for (int byte = 0; byte < vector_bits / 8; byte++) out.put(static_cast<char>(memory[i].range(8 * byte + 7, 8 * byte).to_int()));
  }
  std::ofstream turns((folder + "/turns").c_str());
  for (int i = 0; i < qfx::sequential::PROCESSES; i++) turns << qfx_engine_turns[i] << "\n";
  return out.good() && turns.good() ? 0 : 1;
}
