// The reference kernels with a bug planted in them, or none: `planted BUG SEED [watch]`. Exits with 0 if the results are right, with 1 if they are
// wrong and with 3 if the emulator found something; the sanitizers have exit codes of their own.
#include "problems.h"
#include "reference.h"

using namespace problems;
using reference::Bug;

namespace {

bool g_watch = false;

template <class... Buffers>
void announce(Buffers&... buffers) {
  if (g_watch) (buffers.announce(), ...);
}

void require_launched() {
  if (cudaGetLastError() != cudaSuccess) throw std::runtime_error(cudaGetErrorString(cudaErrorLaunchFailure));
}

void log_sum(Random& random) {
  constexpr int kRows = 2, kColumns = 1003, kParts = 3, kStride = 1005;
  Exact<fastpref::BFloat16> x(kRows * kStride - (kStride - kColumns), 1);
  Exact<reference::Sum> partial(kRows * kParts);
  Exact<uint32_t> counters(kRows);
  Exact<float> out(kRows);
  random.fill(x, 3.0f);
  counters.fill(0);
  announce(x, partial, counters, out);
  // Twice: a launch leaves its counters as it found them.
  for (int i = 0; i < 2; ++i) {
    const reference::LogSumArgs args = {x.data(), kRows,          kColumns,        kParts,
                                        kStride,  partial.data(), counters.data(), out.data()};
    out.fill(NAN);
    FASTPREF_LAUNCH(reference::log_sum, dim3(kParts, kRows), reference::kSumThreads, 0, nullptr, args);
    require_launched();
    for (int row = 0; row < kRows; ++row) {
      double sum = 0.0;
      for (int j = 0; j < kColumns; ++j) sum += exp2(fastpref::to_float(x[row * kStride + j]));
      require_close("row " + std::to_string(row), out[row], log2(sum), 2e-6, 2e-6);
      require_close("its counter", counters[row], 0, 0, 0);
    }
  }
}

template <class T>
void multiply(Random& random) {
  constexpr int kM = 37, kN = 21, kK = 104;
  Exact<T> a(kM * kK), b(kN * kK);
  Exact<float> c(kM * kN);
  random.fill(a, 1.0f);
  random.fill(b, 1.0f);
  announce(a, b, c);
  const int shared = reference::kMultiplyShared - (has(Bug::kSmallDynamic) ? 16 : 0);
  const dim3 grid((kN + reference::kColumns - 1) / reference::kColumns, (kM + reference::kRows - 1) / reference::kRows);
  const reference::MultiplyArgs args = {a.data(), b.data(), c.data(), kM, kN, kK};
  FASTPREF_LAUNCH((reference::multiply<T>), grid, reference::kMultiplyThreads, shared, nullptr, args);
  require_launched();
  for (int i = 0; i < kM; ++i) {
    for (int j = 0; j < kN; ++j) {
      double sum = 0.0;
      for (int k = 0; k < kK; ++k) sum += double{fastpref::to_float(a[i * kK + k])} * fastpref::to_float(b[j * kK + k]);
      require_close("c[" + std::to_string(i) + "," + std::to_string(j) + "]", c[i * kN + j], sum, 1e-4, 1e-5);
    }
  }
}

constexpr Case kCases[] = {{"log_sum", log_sum},
                           {"multiply, bf16", multiply<fastpref::BFloat16>},
                           {"multiply, fp16", multiply<fastpref::Float16>}};

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) return 2;
  g_watch = argc > 3 && strcmp(argv[3], "watch") == 0;
  for (int i = 0; i < static_cast<int>(Bug::kCount_); ++i) {
    if (strcmp(argv[1], reference::kBugNames[i]) != 0) continue;
    reference::planted = static_cast<Bug>(i);
    return run_all(kCases, "", static_cast<unsigned>(atoi(argv[2])));
  }
  return 2;
}
