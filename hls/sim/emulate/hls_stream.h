// hls::stream of C simulation where the vendor's is too slow or cannot be looked into: an unbounded FIFO in one piece of memory. Not synthesized.
//
// The processes of a design run one after the other, so a stream is filled with a frame and then emptied: a list with a mark suffices.
//
// With QFX_TRACE defined, the streams that $QFX_TRACE_FOLDER/streams names (one a line) append every number that was written to them, as 64-bit
// integers, to the file of their name in that folder.
#ifndef QFX_EMULATE_HLS_STREAM_H
#define QFX_EMULATE_HLS_STREAM_H

#include <stddef.h>
#include <stdint.h>

#include <cstdio>
#include <cstdlib>
#include <vector>

#ifdef QFX_TRACE
#include <fstream>
#include <set>
#include <string>
#endif

namespace qfx {
template <class T, int P>
struct vec;
}

#ifdef QFX_TRACE
namespace qfx_trace {

inline std::string folder() {
  const char* path = std::getenv("QFX_TRACE_FOLDER");
  return path ? path : ".";
}

inline std::set<std::string> read_wanted() {
  std::set<std::string> names;
  std::ifstream file((folder() + "/streams").c_str());
  std::string name;
  while (file >> name) names.insert(name);
  return names;
}

inline bool wanted(const char* name) {
  static const std::set<std::string> names = read_wanted();
  return names.count(name) != 0;
}

template <class T>
inline int64_t to_int64(const T& raw) {
#ifdef QFX_NATIVE
  return static_cast<int64_t>(raw);
#else
  return raw.to_int64();
#endif
}

typedef std::vector<int64_t> numbers;

// What a word that is no qfx::vec carries (a port's) is not recorded.
template <class T>
struct word {
  static void append(const T&, numbers&) {}
};
template <class T, int P>
struct word<qfx::vec<T, P> > {
  static void append(const qfx::vec<T, P>& from, numbers& into) {
    for (int p = 0; p < P; p++) into.push_back(to_int64(from[p]));
  }
};

inline void save(const char* name, const numbers& from) {
  std::ofstream file((folder() + "/" + name).c_str(), std::ios::binary | std::ios::app);
  if (!from.empty()) file.write(reinterpret_cast<const char*>(&from[0]), static_cast<std::streamsize>(from.size() * sizeof(int64_t)));
  file.flush();
  if (!file.good()) {
    std::fprintf(stderr, "error: cannot write the trace of %s\n", name);
    std::exit(2);
  }
}

}  // namespace qfx_trace
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
