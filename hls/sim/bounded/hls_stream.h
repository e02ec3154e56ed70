// hls::stream with a depth: FIFOs that block, for running the processes of a design side by side as the hardware does. Not synthesized.
//
// Each process runs in a fiber of its own (ucontext.h: no threads, so every run is the same). A fiber runs until a stream makes it wait; the design
// deadlocks when no fiber can go on.
//
// Turns are atomic, as in qfx/hardware/timing/simulate.py: between one QFX_TURN() and the next, words that were read keep their place and words that were
// written cannot be seen; all of it takes effect when the turn is over. So a turn that lacks a word or room has done nothing yet, as far as others can tell.
#ifndef QFX_BOUNDED_HLS_STREAM_H
#define QFX_BOUNDED_HLS_STREAM_H

#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <cstddef>
#include <cstdlib>
#include <deque>
#include <functional>
#include <iostream>
#include <string>
#include <vector>

#define QFX_TURN() qfx_bounded::turn()
#define QFX_POLLED(in, takes, out, gives) qfx_bounded::polled(in, takes, out, gives);

namespace qfx_bounded {

typedef std::vector<int64_t> numbers;

// What a stream is beside the words that it carries. `taken` of the words that were there are read and `added` more are written in turns under way.
struct channel {
  std::string name;
  size_t depth, held, taken, added, peak;
  numbers reads, writes;  // the turn of each, counted from 0 in each frame; -1: before the first
  explicit channel(const std::string& name_)
      : name(name_), depth(static_cast<size_t>(-1)), held(0), taken(0), added(0), peak(0) {}
  bool readable() const { return taken < held; }
  bool writable() const { return held + added < depth; }
};

struct fiber {
  std::string name;
  std::function<void()> body;
  int frames;
  bool done;
  channel* waits;
  bool for_room;
  channel* or_for_room;  // of one that waits for a word or for room, whichever comes first: then of these two the second
  int64_t turn;   // of the present frame
  numbers turns;  // of every frame that is done
  bool slow;      // memory: what it reads comes when it comes
  std::vector<channel*> read, written;  // in the present turn
  ucontext_t context;
};

struct world {
  std::deque<fiber> fibers;
  std::vector<channel*> channels;
  fiber* present;
  ucontext_t scheduler;
  uint32_t stalls;  // 0: none; else the state of what says in which turns the `slow` fibers are held up
  world() : present(0), stalls(0) {}
};

inline world*& current() {
  static world* pointer = 0;
  return pointer;
}

// The present turn, if any, takes effect.
inline void commit(fiber& f) {
  for (size_t i = 0; i < f.read.size(); i++) {
    channel& c = *f.read[i];
    c.held -= c.taken;
    c.taken = 0;
  }
  for (size_t i = 0; i < f.written.size(); i++) {
    channel& c = *f.written[i];
    c.held += c.added;
    c.added = 0;
    if (c.held > c.peak) c.peak = c.held;
    if (c.held > c.depth) {
      std::cerr << "error: " << c.name << " overflows" << std::endl;
      std::abort();
    }
  }
  f.read.clear();
  f.written.clear();
}

inline void turn() {
  world& w = *current();
  fiber& f = *w.present;
  commit(f);
  f.turn++;
  while (f.slow && w.stalls) {
    w.stalls = w.stalls * 1664525u + 1013904223u;
    if (w.stalls >> 30) break;  // three turns in four go on
    f.waits = 0;
    swapcontext(&f.context, &w.scheduler);
  }
}

inline void forget(channel* c) {
  world& w = *current();
  if (w.present) commit(*w.present);
  for (size_t i = w.channels.size(); i-- > 0;) {
    if (w.channels[i] == c) w.channels.erase(w.channels.begin() + static_cast<std::ptrdiff_t>(i));
  }
}

inline void wait(channel& c, const bool for_room) {
  world& w = *current();
  fiber& f = *w.present;
  f.waits = &c;
  f.for_room = for_room;
  swapcontext(&f.context, &w.scheduler);
}

inline void before_read(channel& c) {
  fiber& f = *current()->present;
  while (!c.readable()) wait(c, false);
  f.read.push_back(&c);
  c.reads.push_back(f.turn);
}

inline void before_write(channel& c) {
  fiber& f = *current()->present;
  while (!c.writable()) wait(c, true);
  f.written.push_back(&c);
  c.writes.push_back(f.turn);
}

// Of a process that asks whether there are words, or room, before it reads and writes: wait until there is some of what it is after. None: of no word.
inline void polled(channel& in, const bool takes, channel& out, const bool gives) {
  world& w = *current();
  fiber& f = *w.present;
  commit(f);
  while (!(takes && in.readable()) && !(gives && out.writable())) {
    f.waits = takes ? &in : &out;
    f.for_room = !takes;
    f.or_for_room = gives ? &out : 0;
    swapcontext(&f.context, &w.scheduler);
    f.or_for_room = 0;
  }
}

}  // namespace qfx_bounded

namespace hls {

template <class T>
class stream : public qfx_bounded::channel {
 public:
  explicit stream(const char* name_) : channel(name_) {
    if (qfx_bounded::current()) qfx_bounded::current()->channels.push_back(this);
  }

  // One inside a process is gone when the process has used it.
  ~stream() {
    if (qfx_bounded::current()) qfx_bounded::forget(this);
  }

  bool empty() const { return !readable(); }
  bool full() const { return !writable(); }
  T read() {
    qfx_bounded::before_read(*this);
    const T word = words.front();
    words.pop_front();
    taken++;
    return word;
  }
  void write(const T& word) {
    qfx_bounded::before_write(*this);
    words.push_back(word);
    added++;
  }

  // From outside, before and after the processes run.
  void feed(const T& word) {
    words.push_back(word);
    held++;
  }
  T drain() {
    const T word = words.front();
    words.pop_front();
    held--;
    return word;
  }

 private:
  stream(const stream&);
  stream& operator=(const stream&);
  std::deque<T> words;  // all that were written and not yet read, whether they can be seen or not
};

}  // namespace hls

#endif
