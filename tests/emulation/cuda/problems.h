// What the programs of the sanitizers share: memory of its exact size, random numbers, comparisons, and cases that are run one after the other.
#pragma once

#include <math.h>
#include <stdio.h>
#include <string.h>

#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "emulator.h"

namespace problems {

// So many T on the heap, after `skipped` more: what lies beyond them belongs to nobody. Filled with 0xFF, which is NaN.
template <class T>
class Exact {
 public:
  explicit Exact(size_t n, size_t skipped = 0)
      : n_(n), skipped_(skipped), memory_(new unsigned char[(n + skipped) * sizeof(T)]) {
    memset(memory_.get(), 0xFF, (n + skipped) * sizeof(T));
  }
  T* data() { return reinterpret_cast<T*>(memory_.get()) + skipped_; }
  T& operator[](size_t i) { return data()[i]; }
  size_t size() const { return n_; }
  void fill(T value) {
    for (size_t i = 0; i < n_; ++i) data()[i] = value;
  }
  // Says to the emulator that it may be accessed.
  void announce() {
    const auto at = reinterpret_cast<uintptr_t>(data());
    emulator::memory.ranges.push_back({at, at + n_ * sizeof(T), {}});
  }

 private:
  size_t n_, skipped_;
  std::unique_ptr<unsigned char[]> memory_;
};

class Random {
 public:
  explicit Random(unsigned seed) : engine_(seed) {}
  float normal(float scale = 1.0f) { return scale * std::normal_distribution<float>()(engine_); }
  int below(int n) { return std::uniform_int_distribution<int>(0, n - 1)(engine_); }
  template <class T>
  void fill(Exact<T>& out, float scale) {
    for (size_t i = 0; i < out.size(); ++i) fastpref::from_float(normal(scale), &out[i]);
  }

 private:
  std::mt19937 engine_;
};

struct Wrong : std::runtime_error {
  using runtime_error::runtime_error;
};

// Throws unless |found - expected| is at most `absolute` + `relative` |expected|; NaN is equal to NaN alone, an infinity to itself.
inline void require_close(const std::string& what, double found, double expected, double absolute, double relative) {
  if (found == expected || (isnan(found) && isnan(expected))) return;
  if (fabs(found - expected) <= absolute + relative * fabs(expected)) return;
  throw Wrong(what + " is " + std::to_string(found) + ", expected " + std::to_string(expected));
}

struct Case {
  const char* name;
  void (*run)(Random&);  // throws what is wrong
};

// Runs the cases whose names contain `only`; 0, or 1 for a wrong result and 3 for what the emulator found.
template <size_t kCases>
int run_all(const Case (&cases)[kCases], const char* only, unsigned seed) {
  int ran = 0;
  for (const Case& one : cases) {
    if (!strstr(one.name, only)) continue;
    ++ran;
    Random random(seed + 1);
    emulator::seed = seed;
    emulator::memory.ranges.clear();
    try {
      one.run(random);
    } catch (const Wrong& e) {
      printf("%s: wrong: %s\n", one.name, e.what());
      return 1;
    } catch (const std::exception& e) {
      printf("%s: emulator: %s\n", one.name, e.what());
      return 3;
    }
    printf("%s: right\n", one.name);
  }
  return ran ? 0 : 2;
}

}  // namespace problems
