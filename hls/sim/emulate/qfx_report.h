// What every cast of a design loses: counters for C simulation with QFX_REPORT defined, never synthesized.
//
// At exit the counters are appended to the file $QFX_REPORT, one line a cast: site, numbers, how many lay above and below the range, how many were
// rounded, and by how many integer bits the greatest number missed the range.
#ifndef QFX_REPORT_H
#define QFX_REPORT_H

#include <stddef.h>
#include <stdint.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <vector>

#include "qfx_cast.h"

namespace qfx_report {

typedef __int128 wide;

struct counts {
  int64_t values, above, below, rounded;
  int missing_bits;
  counts() : values(0), above(0), below(0), rounded(0), missing_bits(0) {}
};

struct table {
  std::vector<counts> sites;
  ~table() {
    const char* path = std::getenv("QFX_REPORT");
    if (!path) return;
    std::ofstream file(path);
    for (size_t site = 0; site < sites.size(); site++) {
      const counts& c = sites[site];
      if (c.values) file << site << ' ' << c.values << ' ' << c.above << ' ' << c.below << ' ' << c.rounded << ' ' << c.missing_bits << '\n';
    }
    file.flush();
    if (!file.good()) std::fprintf(stderr, "error: cannot write %s\n", path);
  }
  counts& at(const size_t site) {
    if (site >= sites.size()) sites.resize(site + 1);
    return sites[site];
  }
};

inline table& all() {
  static table counters;
  return counters;
}

template <class X>
inline int64_t to_int64(const X& raw) {
#ifdef QFX_NATIVE
  return static_cast<int64_t>(raw);
#else
  return raw.to_int64();
#endif
}

// The bits of the magnitude: of x, or of -x - 1.
inline int magnitude_bits(wide x) {
  if (x < 0) x = ~x;
  int bits = 0;
  for (; x != 0; x >>= 1) bits++;
  return bits;
}

// The number x * 2**-shift became `raw` of the type Dst. A number that overflow changed differs from what rounding alone gives; above the range it is
// greater than any raw that can come out.
template <class Dst, class X, class R>
inline void count(const int site, const X& given, const int shift, const R& result) {
  if (site < 0) return;
  const wide x = to_int64(given);
  wide rounded = x;  // times 2**left
  int left = 0;
  bool inexact = false;
  if (shift > 0) {
    const wide floor = x >> (shift < 127 ? shift : 127);
    rounded = floor + qfx_cast::increment<wide, Dst::Q>(x, floor, shift);
    inexact = shift < 64 ? (rounded << shift) != x : x != 0;
  } else {
    left = -shift;
  }
  const wide reached = rounded << (left < 63 ? left : 63);  // beyond 2**63 it is above or below any raw
  const wide raw = to_int64(result);
  counts& c = all().at(static_cast<size_t>(site));
  c.values++;
  c.above += reached > raw;
  c.below += reached < raw;
  c.rounded += inexact;
  if (reached != raw && (Dst::SIGNED || rounded > 0)) {
    const int missing = magnitude_bits(rounded) + left - (Dst::WIDTH - (Dst::SIGNED ? 1 : 0));
    if (missing > c.missing_bits) c.missing_bits = missing;
  }
}

// A number of the magnitude `found`, rounded to the places of a minifloat, of which LARGEST is the greatest.
inline void count_format(const int site, const bool negative, const int64_t found, const int64_t largest, const bool changed) {
  if (site < 0) return;
  counts& c = all().at(static_cast<size_t>(site));
  c.values++;
  c.above += found > largest && !negative;
  c.below += found > largest && negative;
  c.rounded += changed;
  const int missing = found > largest ? magnitude_bits(found) - magnitude_bits(largest) : 0;
  if (missing > c.missing_bits) c.missing_bits = missing;
}

}  // namespace qfx_report

#endif
