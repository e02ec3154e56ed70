// hls::stream of C simulation where the vendor's is too slow or cannot be looked into: an unbounded FIFO in one piece of memory. Not synthesized.
//
// The processes of a design run one after the other, so a stream is filled with a frame and then emptied: a list with a mark suffices.
//
// With QFX_TRACE defined it keeps what was written to it (qfx_trace.h).
#ifndef QFX_EMULATE_HLS_STREAM_H
#define QFX_EMULATE_HLS_STREAM_H

#include <stddef.h>
#include <stdint.h>

#include <cstdio>
#include <cstdlib>
#include <vector>

#ifdef QFX_TRACE
#include "qfx_trace.h"
#endif

namespace hls {

template <class T>
class stream {
 public:
  explicit stream(const char* name = "unnamed") : name_(name), next_(0) {
#ifdef QFX_TRACE
    traced_ = qfx_trace::wanted(name);
#endif
  }

  ~stream() {
    if (next_ != words_.size()) std::fprintf(stderr, "error: stream %s still holds %lu words\n", name_, static_cast<unsigned long>(size()));
#ifdef QFX_TRACE
    if (traced_) qfx_trace::save(name_, log_);
#endif
  }

  bool empty() const { return next_ == words_.size(); }
  bool full() const { return false; }
  size_t size() const { return words_.size() - next_; }

  T read() {
    if (empty()) {
      std::fprintf(stderr, "error: stream %s is read while it is empty\n", name_);
      std::exit(2);
    }
    const T word = words_[next_++];
    if (next_ == words_.size()) {
      words_.clear();
      next_ = 0;
    }
    return word;
  }
  void read(T& word) { word = read(); }

  void write(const T& word) {
    words_.push_back(word);
#ifdef QFX_TRACE
    if (traced_) qfx_trace::word<T>::append(word, log_);
#endif
  }

 private:
  stream(const stream&);
  stream& operator=(const stream&);

  const char* name_;
  size_t next_;
  std::vector<T> words_;
#ifdef QFX_TRACE
  bool traced_;
  qfx_trace::numbers log_;
#endif
};

}  // namespace hls

#endif
