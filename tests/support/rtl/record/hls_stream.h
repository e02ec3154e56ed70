// Streams without bounds for C simulation that write down every word, in hexadecimal: of `vec` the first number in the lowest bits, of an AXI word TLAST
// above TDATA. A stream is known by its name. Not synthesized.
#ifndef QFX_RECORD_HLS_STREAM_H
#define QFX_RECORD_HLS_STREAM_H

#include <deque>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include <ap_int.h>

template <int D, int U, int TI, int TD>
struct ap_axiu;

namespace qfx {
template <class T, int P>
struct vec;
}

namespace qfx_record {

typedef std::vector<bool> word;
typedef std::map<std::string, std::vector<word> > book;

inline book& written() {
  static book all;
  return all;
}

template <int W, bool S>
inline void bits(word& to, const ap_int_base<W, S>& x) {
  for (int i = 0; i < W; i++) to.push_back(x[i]);
}
template <class T, int P>
inline void bits(word& to, const qfx::vec<T, P>& x) {
  for (int p = 0; p < P; p++) bits(to, x.data[p]);
}
template <int D, int U, int TI, int TD>
inline void bits(word& to, const ap_axiu<D, U, TI, TD>& x) {
  bits(to, x.data);
  bits(to, x.last);
}

inline std::string hexadecimal(const word& x) {
  std::string text;
  for (size_t i = 0; i < x.size(); i += 4) {
    int digit = 0;
    for (size_t k = i; k < x.size() && k < i + 4; k++) digit |= x[k] << (k - i);
    text.insert(text.begin(), "0123456789abcdef"[digit]);
  }
  return text;
}

// The words of a stream a line, one file a stream.
inline bool save(const std::string& folder) {
  for (book::const_iterator it = written().begin(); it != written().end(); ++it) {
    std::ofstream file((folder + "/" + it->first).c_str());
    for (size_t i = 0; i < it->second.size(); i++) file << hexadecimal(it->second[i]) << '\n';
    if (!file.good()) return false;
  }
  return true;
}

}  // namespace qfx_record

namespace hls {

template <class T>
class stream {
 public:
  explicit stream(const char* name_) : name(name_) { qfx_record::written()[name]; }
  T read() {
    const T word = words.front();
    words.pop_front();
    return word;
  }
  void write(const T& word) {
    words.push_back(word);
    qfx_record::word held;
    qfx_record::bits(held, word);
    qfx_record::written()[name].push_back(held);
  }
  bool empty() const { return words.empty(); }

 private:
  stream(const stream&);
  stream& operator=(const stream&);
  std::string name;
  std::deque<T> words;
};

}  // namespace hls

#endif
