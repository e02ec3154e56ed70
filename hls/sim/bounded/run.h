// Running a design's processes with bounded streams: the scheduler of the fibers, frames through the ports, and the report. Not synthesized.
#ifndef QFX_BOUNDED_RUN_H
#define QFX_BOUNDED_RUN_H

#include <fstream>
#include <map>

#include <ap_int.h>
#include <hls_stream.h>

#include "harness.h"
#include "qfx/axi.h"

namespace qfx_bounded {

static const size_t STACK = 16u << 20;  // address space; memory only where it is touched

inline void enter() {
  world& w = *current();
  fiber& f = *w.present;
  for (int frame = 0; frame < f.frames; frame++) {
    f.turn = -1;
    f.body();
    commit(f);
    f.turns.push_back(f.turn + 1);
  }
  f.done = true;
  swapcontext(&f.context, &w.scheduler);
}

inline void add(world& w, const std::string& name, const int frames, const std::function<void()>& body, const bool slow = false) {
  w.fibers.push_back(fiber());
  fiber& f = w.fibers.back();
  f.name = name;
  f.body = body;
  f.frames = frames;
  f.done = false;
  f.waits = 0;
  f.for_room = false;
  f.or_for_room = 0;
  f.slow = slow;
  f.turn = -1;
  getcontext(&f.context);
  void* stack = mmap(0, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (stack == MAP_FAILED) {
    std::cerr << "error: no memory for the stack of " << name << std::endl;
    std::abort();
  }
  f.context.uc_stack.ss_sp = stack;
  f.context.uc_stack.ss_size = STACK;
  f.context.uc_link = 0;
  makecontext(&f.context, enter, 0);
}

// Every fiber in turn until none can go on.
inline void run(world& w) {
  bool went = true;
  while (went) {
    went = false;
    for (size_t i = 0; i < w.fibers.size(); i++) {
      fiber& f = w.fibers[i];
      const bool other = f.or_for_room && f.or_for_room->writable();
      if (f.done || (f.waits && !other && !(f.for_room ? f.waits->writable() : f.waits->readable()))) continue;
      went = true;
      f.waits = 0;
      w.present = &f;
      swapcontext(&w.scheduler, &f.context);
    }
  }
}

// Where number i of a frame, which travels pixel by pixel, lies in an array with the channels first.
template <class Port>
size_t place(const int i) {
  return static_cast<size_t>(i % Port::channels * Port::pixels + i / Port::channels);
}

template <class Port>
void feed(hls::stream<typename Port::word>& in, const qfx_tb::numbers& x, const size_t frames) {
  const size_t size = static_cast<size_t>(Port::pixels) * Port::channels;
  for (size_t frame = 0; frame < frames; frame++) {
    for (int i = 0; i < Port::pixels * Port::channels; i += Port::parallel) {
      ap_uint<Port::slot * Port::parallel> word = 0;
      for (int p = 0; p < Port::parallel; p++) {
        const int64_t raw = x[frame * size + place<Port>(i + p)];
        word.range(p * Port::slot + Port::slot - 1, p * Port::slot) = ap_uint<Port::slot>(raw);
      }
      const bool ends = frame + 1 == frames && i == Port::pixels * Port::channels - Port::parallel;
      in.feed(qfx::axi<Port::slot * Port::parallel>(word, ends));
    }
  }
}

// False if TLAST is anywhere but on the very last word.
template <class Port>
bool drain(hls::stream<typename Port::word>& out, qfx_tb::numbers& y, const size_t frames) {
  const size_t size = static_cast<size_t>(Port::pixels) * Port::channels;
  y.resize(frames * size);
  bool right = true;
  for (size_t frame = 0; frame < frames; frame++) {
    for (int i = 0; i < Port::pixels * Port::channels; i += Port::parallel) {
      const typename Port::word word = out.drain();
      for (int p = 0; p < Port::parallel; p++) {
        const ap_uint<Port::slot> slot = word.data.range(p * Port::slot + Port::slot - 1, p * Port::slot);
        y[frame * size + place<Port>(i + p)] = Port::is_signed ? ap_int<Port::slot>(slot).to_int64() : slot.to_int64();
      }
      const bool ends = frame + 1 == frames && i == Port::pixels * Port::channels - Port::parallel;
      right = right && (word.last != 0) == ends;
    }
  }
  return right;
}

// `name depth` a line; the streams called so get that depth. False if the file cannot be read.
inline bool set_depths(world& w, const char* path) {
  std::ifstream file(path);
  if (!file) return false;
  std::map<std::string, size_t> depths;
  std::string name;
  size_t depth;
  while (file >> name >> depth) depths[name] = depth;
  for (size_t i = 0; i < w.channels.size(); i++) {
    if (depths.count(w.channels[i]->name)) w.channels[i]->depth = depths[w.channels[i]->name];
  }
  return file.eof();
}

inline void list(std::ostream& to, const numbers& items) {
  for (size_t i = 0; i < items.size(); i++) to << ' ' << items[i];
  to << '\n';
}

// One line per stream (its peak, words left, the turns of its reads and of its writes) and per process (what it waits for, the turns of its frames).
inline bool report(world& w, const char* path) {
  std::ofstream file(path);
  for (size_t i = 0; i < w.channels.size(); i++) {
    const channel& c = *w.channels[i];
    file << "stream " << c.name << ' ' << c.peak << ' ' << c.held << '\n';
    file << "reads " << c.name;
    list(file, c.reads);
    file << "writes " << c.name;
    list(file, c.writes);
  }
  for (size_t i = 0; i < w.fibers.size(); i++) {
    const fiber& f = w.fibers[i];
    file << "process " << f.name << ' ' << (f.done ? "done -" : (f.for_room ? "full " : "empty ") + f.waits->name);
    list(file, f.turns);
  }
  file.flush();
  return file.good();
}

}  // namespace qfx_bounded

#endif
