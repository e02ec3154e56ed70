// Which streams are traced, and where to: $QFX_TRACE_FOLDER/streams names them, one a line, and the numbers that were written to them are appended, as
// 64-bit integers, to the file of their name in that folder. For C simulation with QFX_TRACE defined, never synthesized.
#ifndef QFX_TRACE_H
#define QFX_TRACE_H

#include <stddef.h>
#include <stdint.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <set>
#include <string>
#include <vector>

namespace qfx {
template <class T, int P>
struct vec;
}

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
