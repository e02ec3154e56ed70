// hls::stream of the fast emulator: words one behind the other in one piece of memory, which can be had as a whole frame. Not synthesized.
//
// The processes run one after the other, so a stream is filled with a frame and then emptied. A frame is an array of numbers, pixel by pixel and channel
// by channel, in the native integer that holds the stream's type, however many numbers make a word: what a process reads and writes word by word,
// another may take and make at once. Such processes are in qfx_layers.h; they are chosen where a stream is a qfx_native::frames.
//
// With QFX_TRACE defined it keeps what was written to it (qfx_trace.h).
#ifndef QFX_NATIVE_HLS_STREAM_H
#define QFX_NATIVE_HLS_STREAM_H

#include <stddef.h>
#include <stdint.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

#ifdef QFX_TRACE
#include "qfx_trace.h"
#endif

namespace qfx_native {

// Pieces of memory come and go with every frame. The one that was given back last is handed out first: the caches still have it.
struct memory {
  static const size_t SPARE = 64;  // bytes behind the end that may be read, whatever they hold: a vector register may reach beyond the last number

  // A piece of at least `size` bytes, which becomes what it has.
  static char* take(size_t& size) {
    int power = 8;
    while ((size_t(1) << power) < size) power++;
    size = size_t(1) << power;
    void* piece = kept(power);
    if (piece) {
      std::memcpy(&kept(power), piece, sizeof piece);
    } else if (posix_memalign(&piece, 64, size + SPARE)) {
      std::fprintf(stderr, "error: no memory for a frame of %lu bytes\n", static_cast<unsigned long>(size));
      std::exit(2);
    } else {
      std::memset(piece, 0, size + SPARE);
    }
    return static_cast<char*>(piece);
  }

  static void give_back(char* piece, const size_t size) {
    int power = 8;
    while ((size_t(1) << power) < size) power++;
    std::memcpy(piece, &kept(power), sizeof(void*));
    kept(power) = piece;
  }

 private:
  // The first of those of 2**power bytes, each of which begins with the address of the next.
  static void*& kept(const int power) {
    static thread_local void* pieces[64];
    return pieces[power];
  }
};

}  // namespace qfx_native

namespace hls {

template <class T>
class stream {
 public:
  explicit stream(const char* name = "unnamed") : name_(name), piece_(0), size_(0), first_(0), last_(0) {
#ifdef QFX_TRACE
    traced_ = qfx_trace::wanted(name);
#endif
  }

  ~stream() {
    if (!empty()) std::fprintf(stderr, "error: stream %s still holds %lu words\n", name_, static_cast<unsigned long>(size()));
    if (piece_) qfx_native::memory::give_back(piece_, size_);
#ifdef QFX_TRACE
    if (traced_) qfx_trace::save(name_, log_);
#endif
  }

  bool empty() const { return first_ == last_; }
  size_t size() const { return (last_ - first_) / sizeof(T); }

  T read() {
    T word;
    std::memcpy(&word, look(1), sizeof word);
    first_ += sizeof word;
    return word;
  }
  void read(T& word) { word = read(); }

  void write(const T& word) {
    std::memcpy(room(1), &word, sizeof word);
    filled(1);
  }

  // The numbers of the next `words` words, until they are dropped. Words are copied as bytes: numbers alone say what lies in the memory.
  const char* look(const size_t words) const {
    if (last_ - first_ < words * sizeof(T)) {
      std::fprintf(stderr, "error: stream %s is read while it is empty\n", name_);
      std::exit(2);
    }
    return piece_ + first_;
  }
  void drop(const size_t words) {
    first_ += words * sizeof(T);
    if (piece_ && first_ == last_) {
      qfx_native::memory::give_back(piece_, size_);
      piece_ = 0;
      size_ = first_ = last_ = 0;
    }
  }

  // The place of the next `words` words. They are there once they are `filled`.
  char* room(const size_t words) {
    if (first_ == last_) first_ = last_ = 0;
    if (size_ - last_ < words * sizeof(T)) grow(words * sizeof(T));
    return piece_ + last_;
  }
  void filled(const size_t words) {
#ifdef QFX_TRACE
    for (size_t i = 0; traced_ && i < words; i++) {
      T word;
      std::memcpy(&word, piece_ + last_ + i * sizeof word, sizeof word);
      qfx_trace::word<T>::append(word, log_);
    }
#endif
    last_ += words * sizeof(T);
  }

 private:
  stream(const stream&);
  stream& operator=(const stream&);

  void grow(const size_t bytes) {
    size_t size = last_ - first_ + bytes > 2 * size_ ? last_ - first_ + bytes : 2 * size_;
    char* piece = qfx_native::memory::take(size);
    if (piece_) {
      std::memcpy(piece, piece_ + first_, last_ - first_);
      qfx_native::memory::give_back(piece_, size_);
    }
    piece_ = piece;
    size_ = size;
    last_ -= first_;
    first_ = 0;
  }

  const char* name_;
  char* piece_;
  size_t size_, first_, last_;  // bytes
#ifdef QFX_TRACE
  bool traced_;
  qfx_trace::numbers log_;
#endif
};

}  // namespace hls

namespace qfx_native {

// A stream whose processes may take and make whole frames.
template <class T>
class frames : public hls::stream<T> {
 public:
  explicit frames(const char* name = "unnamed") : hls::stream<T>(name) {}
};

}  // namespace qfx_native

#endif
