// Every function of the CUDA library's C interface on random problems in memory of exact sizes, against oracles in double: `sanitized [NAME [SEED]]`
// runs the cases whose names contain NAME. For the sanitizers, which need a program of their own; the Python tests compare much more.
//
// A function of the interface that no case calls is an error: a new one gets a case here.
#include <algorithm>

#include "core/objective_heads.h"
#include "cuda/api.h"
#include "cuda/linear.h"
#include "cuda/preference.h"
#include "cuda/rows.h"
#include "problems.h"

using namespace problems;
using namespace fastpref;

namespace {

// Few multiprocessors less than rows make whole rows, many split them.
constexpr int kWhole = 1, kSplit = 4;

const CudaApi& api() { return *fastpref_cuda_api(); }

CudaLaunch on(int multiprocessors) { return {0, nullptr, multiprocessors}; }

void require_success(const CudaStatus& status) {
  if (status.code) throw std::runtime_error(std::string(status.kernel) + ": " + status.name + ": " + status.text);
}

template <class T>
constexpr DType kType = DType::kFloat32;
template <>
constexpr DType kType<BFloat16> = DType::kBFloat16;
template <>
constexpr DType kType<Float16> = DType::kFloat16;

// What rounding to T may add to a relative error.
template <class T>
constexpr double kRounding = 0.0;
template <>
constexpr double kRounding<BFloat16> = 0x1p-8;
template <>
constexpr double kRounding<Float16> = 0x1p-11;

double transformed(const Transform& t, double x) {
  return t.has_softcap ? t.cap_out * tanh(x * t.cap_in) : t.scale * x;
}

double slope(const Transform& t, double x) {
  if (!t.has_softcap) return t.scale;
  const double c = cosh(x * t.cap_in);
  return t.scale / (c * c);
}

// Rows of logits, padded or not, that begin on 16 bytes or not. Between rows is NaN, and after the last nothing.
template <class T>
struct Logits {
  Logits(Random& random, int rows, int columns, int padding, int offset)
      : rows(rows), columns(columns), stride(columns + padding), memory(rows * stride - padding, offset) {
    for (int r = 0; r < rows; ++r) {
      for (int j = 0; j < columns; ++j) from_float(random.normal(3.0f), &memory[r * stride + j]);
    }
  }
  double at(int row, int column) { return to_float(memory[row * stride + column]); }

  int rows, columns;
  size_t stride;
  Exact<T> memory;
};

// Distribution of a row: log of its sum, and log-probabilities.
template <class T>
struct Distribution {
  Distribution(Logits<T>& x, const Transform& t, int row) {
    double top = -INFINITY, sum = 0.0;
    for (int j = 0; j < x.columns; ++j) z.push_back(transformed(t, x.at(row, j)));
    for (double value : z) top = std::max(top, value);
    for (double value : z) sum += exp(value - top);
    lse = top + log(sum);
  }
  double log_p(int j) const { return z[j] - lse; }

  std::vector<double> z;
  double lse;
};

struct Shape {
  int rows, columns, padding, offset, multiprocessors;
};
constexpr Shape kShapes[] = {
    {3, 1003, 5, 0, kWhole}, {3, 1000, 1, 1, kSplit}, {1, 7, 0, 1, kSplit}, {2, 4104, 8, 0, kSplit}};

Transform transform_of(int which) {
  return make_transform(which ? 1.5 : 1.0, which == 2, which == 2 ? 8.0 : 0.0, which ? 0.7 : 1.0);
}

Exact<int64_t> some_targets(Random& random, int rows, int columns) {
  Exact<int64_t> targets(static_cast<size_t>(rows));
  for (int r = 0; r < rows; ++r) targets[r] = random.below(columns);
  if (rows > 2) targets[1] = -100;
  return targets;
}

Exact<float> filled(size_t n, float value) {
  Exact<float> made(n);
  made.fill(value);
  return made;
}

struct State {
  explicit State(size_t rows)
      : m(filled(rows, -INFINITY)),
        s(filled(rows, 0)),
        zt(rows),
        s2(filled(rows, 0)),
        sd(filled(rows, 0)),
        total(filled(rows, 0)),
        top(filled(rows, -INFINITY)),
        argmax(rows) {
    argmax.fill(0);
  }
  Exact<float> m, s, zt, s2, sd, total, top;
  Exact<int64_t> argmax;
};

template <class T>
RowStatsArgs stats_args(Logits<T>& x, Exact<int64_t>& targets, State& state, const Transform& t, bool more) {
  RowStatsArgs a = {};
  a.dtype = kType<T>;
  a.rows = x.rows;
  a.cols = x.columns;
  a.logits = x.memory.data();
  a.logits_stride = static_cast<int64_t>(x.stride);
  a.targets = targets.data();
  a.m = state.m.data();
  a.s = state.s.data();
  a.zt = state.zt.data();
  if (more) {
    a.s2 = state.s2.data();
    a.sd = state.sd.data();
    a.total = state.total.data();
    a.top = state.top.data();
    a.argmax = state.argmax.data();
  }
  a.transform = t;
  a.threads = 1;
  return a;
}

template <class T>
void check_state(State& state, Logits<T>& x, const Transform& t, int row, int64_t target, bool more) {
  const std::string name = "row " + std::to_string(row) + " ";
  if (target < 0) {
    require_close(name + "(ignored) s", state.s[row], 0, 0, 0);
    return;
  }
  const Distribution<T> d(x, t, row);
  require_close(name + "lse", state.m[row] + log(static_cast<double>(state.s[row])), d.lse, 1e-5, 1e-6);
  require_close(name + "zt", state.zt[row], d.z[target], 1e-6, 1e-6);
  if (!more) return;
  double squares = 0.0, mean = 0.0, total = 0.0;
  int top = 0;
  for (int j = 0; j < x.columns; ++j) {
    squares += exp(2.0 * d.log_p(j));
    mean += exp(d.log_p(j)) * d.z[j];
    total += d.z[j];
    if (x.at(row, j) > x.at(row, top)) top = j;
  }
  const double s = state.s[row];
  require_close(name + "sum of squares", state.s2[row] / (s * s), squares, 1e-6, 2e-5);
  require_close(name + "mean", state.m[row] + state.sd[row] / s, mean, 2e-5, 1e-5);
  require_close(name + "total", state.total[row], total, 1e-5 * x.columns, 1e-5);
  require_close(name + "top", state.top[row], x.at(row, top), 0, 0);
  require_close(name + "argmax", static_cast<double>(state.argmax[row]), top, 0, 0);
}

template <class T>
void row_stats(Random& random) {
  for (const Shape& shape : kShapes) {
    for (int which = 0; which < 3; ++which) {
      const bool more = (which + shape.rows) % 2 != 0;
      const Transform t = transform_of(which);
      Logits<T> x(random, shape.rows, shape.columns, shape.padding, shape.offset);
      Exact<int64_t> targets = some_targets(random, shape.rows, shape.columns);
      State state(static_cast<size_t>(shape.rows));
      const RowStatsArgs args = stats_args(x, targets, state, t, more);
      const CudaRowsApi& rows = *api().rows;
      Exact<unsigned char> workspace(
          static_cast<size_t>(rows.row_stats_workspace(args.dtype, args.rows, args.cols, more, shape.multiprocessors)));
      require_success(rows.row_stats(args, workspace.data(), on(shape.multiprocessors)));
      for (int r = 0; r < shape.rows; ++r) check_state(state, x, t, r, targets[r], more);
    }
  }
}

// Everything that a gradient with respect to a row reads of the row.
struct Coefficients {
  explicit Coefficients(Random& random, size_t rows)
      : lse(rows), onehot(rows), softmax(rows), kl(rows), kl_coef(rows), ref_lse(rows) {
    for (Exact<float>* values : {&onehot, &softmax, &kl_coef}) random.fill(*values, 1.0f);
  }
  Exact<float> lse, onehot, softmax, kl, kl_coef, ref_lse;
};

template <class T>
RowGradArgs grad_args(Logits<T>& x, Exact<int64_t>& targets, Coefficients& c, Logits<T>& out, const Transform& t) {
  RowGradArgs a = {};
  a.dtype = a.out_dtype = kType<T>;
  a.rows = x.rows;
  a.cols = x.columns;
  a.logits = x.memory.data();
  a.logits_stride = static_cast<int64_t>(x.stride);
  a.targets = targets.data();
  a.lse = c.lse.data();
  a.onehot_coef = c.onehot.data();
  a.softmax_coef = c.softmax.data();
  a.out = out.memory.data();
  a.out_stride = static_cast<int64_t>(out.stride);
  a.transform = t;
  a.threads = 1;
  return a;
}

template <class T>
void row_grad(Random& random) {
  for (const Shape& shape : kShapes) {
    for (int which = 0; which < 3; ++which) {
      const Transform t = transform_of(which);
      Logits<T> x(random, shape.rows, shape.columns, shape.padding, shape.offset),
          out = Logits<T>(random, shape.rows, shape.columns, 3, 0);
      Exact<int64_t> targets = some_targets(random, shape.rows, shape.columns);
      Coefficients c(random, static_cast<size_t>(shape.rows));
      for (int r = 0; r < shape.rows; ++r) c.lse[r] = static_cast<float>(Distribution<T>(x, t, r).lse);
      require_success(api().rows->row_grad(grad_args(x, targets, c, out, t), on(shape.multiprocessors)));
      for (int r = 0; r < shape.rows; ++r) {
        const Distribution<T> d(x, t, r);
        for (int j = 0; j < shape.columns; ++j) {
          const double expected =
              ((j == targets[r] ? c.onehot[r] : 0.0f) - c.softmax[r] * exp(d.log_p(j))) * slope(t, x.at(r, j));
          require_close("gradient " + std::to_string(r) + "," + std::to_string(j), out.at(r, j),
                        targets[r] < 0 ? 0.0 : expected, 2e-6, 2e-5 + kRounding<T>);
        }
      }
    }
  }
}

double divergence(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0.0;
  for (size_t j = 0; j < a.size(); ++j) sum += exp(a[j]) * (a[j] - b[j]);
  return sum;
}

template <class T>
std::vector<double> log_probabilities(Logits<T>& x, const Transform& t, int row) {
  const Distribution<T> d(x, t, row);
  std::vector<double> found;
  for (int j = 0; j < x.columns; ++j) found.push_back(d.log_p(j));
  return found;
}

template <class T>
void row_kl(Random& random) {
  for (const Shape& shape : kShapes) {
    for (bool forward : {false, true}) {
      const Transform t = transform_of(forward ? 2 : 1);
      const size_t rows = static_cast<size_t>(shape.rows);
      Logits<T> x(random, shape.rows, shape.columns, shape.padding, shape.offset),
          ref = Logits<T>(random, shape.rows, shape.columns, 2, 0);
      Logits<T> out(random, shape.rows, shape.columns, 0, 0);
      Exact<int64_t> targets = some_targets(random, shape.rows, shape.columns);
      State policy(rows), reference(rows);
      Exact<float> cross = filled(rows, 0.0f);
      const RowKlStatsArgs stats = {shape.rows,
                                    shape.columns,
                                    stats_args(x, targets, policy, t, false),
                                    stats_args(ref, targets, reference, t, false),
                                    cross.data(),
                                    forward,
                                    1};
      const CudaRowsApi& functions = *api().rows;
      Exact<unsigned char> workspace(static_cast<size_t>(
          functions.row_kl_stats_workspace(kType<T>, shape.rows, shape.columns, shape.multiprocessors)));
      require_success(functions.row_kl_stats(stats, workspace.data(), on(shape.multiprocessors)));

      Coefficients c(random, rows);
      for (int r = 0; r < shape.rows; ++r) {
        const std::vector<double> p = log_probabilities(x, t, r), q = log_probabilities(ref, t, r);
        c.lse[r] = static_cast<float>(Distribution<T>(x, t, r).lse);
        c.ref_lse[r] = static_cast<float>(Distribution<T>(ref, t, r).lse);
        c.kl[r] = static_cast<float>(forward ? divergence(q, p) : divergence(p, q));
        check_state(policy, x, t, r, targets[r], false);
        check_state(reference, ref, t, r, targets[r], false);
        if (targets[r] < 0) continue;
        State &a = forward ? reference : policy, &b = forward ? policy : reference;
        const double found = cross[r] / double{a.s[r]} + log(double{b.s[r]} / a.s[r]);
        require_close("divergence of row " + std::to_string(r), found, c.kl[r], 1e-5, 1e-5);
      }

      const RowKlGradArgs grad = {shape.rows,
                                  shape.columns,
                                  grad_args(x, targets, c, out, t),
                                  ref.memory.data(),
                                  static_cast<int64_t>(ref.stride),
                                  c.ref_lse.data(),
                                  c.kl.data(),
                                  c.kl_coef.data(),
                                  forward,
                                  1};
      require_success(functions.row_kl_grad(grad, on(shape.multiprocessors)));
      for (int r = 0; r < shape.rows; ++r) {
        const std::vector<double> p = log_probabilities(x, t, r), q = log_probabilities(ref, t, r);
        for (int j = 0; j < shape.columns; ++j) {
          const double moved = forward ? exp(p[j]) - exp(q[j]) : exp(p[j]) * (p[j] - q[j] - c.kl[r]);
          const double expected =
              ((j == targets[r] ? c.onehot[r] : 0.0f) - c.softmax[r] * exp(p[j]) + c.kl_coef[r] * moved) *
              slope(t, x.at(r, j));
          require_close("gradient " + std::to_string(r) + "," + std::to_string(j), out.at(r, j),
                        targets[r] < 0 ? 0.0 : expected, 5e-6, 5e-5 + kRounding<T>);
        }
      }
    }
  }
}

// The loss of pairs with the reference's logits: the head "sigmoid" of csrc/core/objective_heads.h.
template <class T>
void preference(Random& random) {
  const CudaPreferenceApi& functions = *api().preference;
  int head = -1;
  for (int i = 0; i < functions.head_count; ++i) {
    if (!strcmp(functions.heads[i].name, "sigmoid")) head = i;
  }
  if (head < 0 || strcmp(functions.heads[head].kind, "pair") || strcmp(functions.heads[head].hyper, "beta")) {
    throw std::runtime_error("the head sigmoid is not what this case is about");
  }
  constexpr int kRows = 7, kSequences = 4, kPairs = kSequences / 2;
  constexpr int32_t kBounds[kSequences + 1] = {0, 2, 3, 3, kRows};
  constexpr double kBeta = 0.1;
  for (int multiprocessors : {kWhole, 4 * kRows}) {
    for (int columns : {1003, 3000}) {
      const Transform t = transform_of(columns == 1003 ? 0 : 2);
      Logits<T> x(random, kRows, columns, 5, 1), ref = Logits<T>(random, kRows, columns, 0, 0);
      Exact<int64_t> targets(kRows);
      for (int r = 0; r < kRows; ++r) targets[r] = r == 4 ? -100 : random.below(columns);
      Exact<int32_t> bounds(kSequences + 1);
      std::copy_n(kBounds, kSequences + 1, bounds.data());
      Exact<float> loss(1), lse(kRows), logps(kRows), ref_logps(kRows), coef(kRows);
      Exact<double> losses(kPairs), sums(2 * kSequences), rewards(kSequences), margins(kPairs);
      PreferenceArgs a = {};
      a.dtype = kType<T>;
      a.rows = kRows;
      a.cols = columns;
      a.logits = x.memory.data();
      a.logits_stride = static_cast<int64_t>(x.stride);
      a.ref_logits = ref.memory.data();
      a.ref_logits_stride = static_cast<int64_t>(ref.stride);
      a.targets = targets.data();
      a.ignored = -100;
      a.cu_seqlens = bounds.data();
      a.sequences = kSequences;
      a.transform = t;
      a.reference_form = ReferenceForm::kLogits;
      a.head = head;
      a.own = -1;
      a.hyper[0] = kBeta;
      a.hyper_count = 1;
      a.reward_scale = kBeta;
      a.loss = loss.data();
      a.losses = losses.data();
      a.sums = sums.data();
      a.rewards = rewards.data();
      a.margins = margins.data();
      a.lse = lse.data();
      a.logps = logps.data();
      a.ref_logps = ref_logps.data();
      a.coef = coef.data();
      Exact<unsigned char> workspace(static_cast<size_t>(functions.workspace(a, on(multiprocessors))));
      a.workspace = workspace.data();
      require_success(functions.forward(a, on(multiprocessors)));

      double expected_sums[2][kSequences] = {};
      for (int k = 0; k < kSequences; ++k) {
        for (int r = kBounds[k]; r < kBounds[k + 1]; ++r) {
          const std::string name = "row " + std::to_string(r);
          const Distribution<T> p(x, t, r), q(ref, t, r);
          const bool read = targets[r] >= 0;
          const double log_p = read ? p.log_p(static_cast<int>(targets[r])) : 0.0,
                       log_q = read ? q.log_p(static_cast<int>(targets[r])) : 0.0;
          require_close(name + " lse", lse[r], read ? p.lse : 0.0, 1e-5, 1e-6);
          require_close(name + " logps", logps[r], log_p, 1e-5, 1e-6);
          require_close(name + " ref_logps", ref_logps[r], log_q, 1e-5, 1e-6);
          expected_sums[0][k] += log_p;
          expected_sums[1][k] += log_q;
        }
        for (int side = 0; side < 2; ++side) {
          require_close("sum of sequence " + std::to_string(k), sums[side * kSequences + k], expected_sums[side][k],
                        3e-5, 2e-6);
        }
        require_close("reward of sequence " + std::to_string(k), rewards[k],
                      kBeta * (expected_sums[0][k] - expected_sums[1][k]), 1e-5, 2e-6);
      }
      double mean = 0.0;
      for (int i = 0; i < kPairs; ++i) {
        const int w = i, l = i + kPairs;
        const double in[] = {
            expected_sums[0][w], expected_sums[0][l], expected_sums[1][w], expected_sums[1][l], 0.0, 0.0};
        double out[3];
        head_sigmoid(in, &kBeta, out);
        require_close("loss of pair " + std::to_string(i), losses[i], out[0], 1e-5, 1e-5);
        require_close("margin of pair " + std::to_string(i), margins[i], kBeta * (in[0] - in[2] - in[1] + in[3]), 1e-5,
                      1e-5);
        mean += out[0] / kPairs;
        for (int k : {w, l}) {
          for (int r = kBounds[k]; r < kBounds[k + 1]; ++r) {
            require_close("coef of row " + std::to_string(r), coef[r],
                          targets[r] < 0 ? 0.0 : out[k == w ? 1 : 2] / kPairs, 1e-6, 2e-5);
          }
        }
      }
      require_close("loss", loss[0], mean, 1e-5, 1e-5);
    }
  }
}

// A matrix of rows that begin on 16 bytes, or not.
template <class T>
struct Matrix {
  Matrix(Random& random, int rows, int columns, int padding, float scale)
      : stride(columns + padding), memory(rows * stride - padding, padding % 8 ? 1 : 0) {
    for (int r = 0; r < rows; ++r) {
      for (int j = 0; j < columns; ++j) from_float(random.normal(scale), &memory[r * stride + j]);
    }
  }
  double at(int row, int column) { return to_float(memory[row * stride + column]); }

  size_t stride;
  Exact<T> memory;
};

template <class T>
void linear(Random& random) {
  constexpr int kRows = 5, kColumns = 517, kSegment = 256;
  for (const auto& [width, padding] : {std::pair{40, 8}, std::pair{24, 3}}) {
    for (int which : {0, 2}) {
      const bool more = (which + width) % 3 != 0;
      const Transform t = transform_of(which);
      Matrix<T> hidden(random, kRows, width, padding, 1.0f), weight(random, kColumns, width, padding, 0.5f);
      Exact<float> bias(kColumns);
      random.fill(bias, 1.0f);
      Exact<int64_t> targets = some_targets(random, kRows, kColumns);
      State state(kRows);
      LinearStatsArgs a = {};
      a.dtype = kType<T>;
      a.rows = kRows;
      a.columns = kColumns;
      a.width = width;
      a.hidden = hidden.memory.data();
      a.hidden_stride = static_cast<int64_t>(hidden.stride);
      a.weight = weight.memory.data();
      a.weight_stride = static_cast<int64_t>(weight.stride);
      a.bias = bias.data();
      a.targets = targets.data();
      a.transform = t;
      a.segment = kSegment;
      const int64_t segments = (kColumns + kSegment - 1) / kSegment;
      Exact<float> parts(static_cast<size_t>(linear_stats_fields(more, more) * segments * kRows));
      a.parts = parts.data();
      a.m = state.m.data();
      a.s = state.s.data();
      a.zt = state.zt.data();
      if (more) {
        a.s2 = state.s2.data();
        a.sd = state.sd.data();
        a.total = state.total.data();
        a.top = state.top.data();
        a.argmax = state.argmax.data();
      }
      require_success(api().linear->stats(on(kWhole), a));
      Logits<float> logits(random, kRows, kColumns, 3, 0);
      for (int r = 0; r < kRows; ++r) {
        for (int j = 0; j < kColumns; ++j) {
          double sum = bias[j];
          for (int h = 0; h < width; ++h) sum += hidden.at(r, h) * weight.at(j, h);
          logits.memory[r * logits.stride + j] = static_cast<float>(sum);
        }
      }
      for (int r = 0; r < kRows; ++r) {
        if (targets[r] < 0) continue;
        const Distribution<float> d(logits, t, r);
        const std::string name = "row " + std::to_string(r);
        require_close(name + " lse", state.m[r] + log(static_cast<double>(state.s[r])), d.lse, 2e-5, 2e-6);
        require_close(name + " zt", state.zt[r], d.z[targets[r]], 2e-5, 2e-6);
      }

      // The gradient of columns from 100 on, of the same logits; then its rows times a factor.
      constexpr int kFirst = 104, kTile = 300;
      Coefficients c(random, kRows);
      for (int r = 0; r < kRows; ++r) c.lse[r] = static_cast<float>(Distribution<float>(logits, t, r).lse);
      Matrix<T> out(random, kRows, kTile, padding, 1.0f), scaled = Matrix<T>(random, kRows, kTile, padding, 1.0f);
      Exact<float> values(kRows * kTile), factor(kRows), db(kTile);
      random.fill(factor, 1.0f);
      for (int r = 0; r < kRows; ++r) {
        for (int j = 0; j < kTile; ++j)
          values[r * kTile + j] = static_cast<float>(logits.at(r, kFirst + j)) - bias[kFirst + j];
      }
      TileGradArgs g = {};
      g.dtype = kType<T>;
      g.rows = kRows;
      g.columns = kTile;
      g.col0 = kFirst;
      g.values = values.data();
      g.values_stride = kTile;
      g.bias = bias.data() + kFirst;
      g.targets = targets.data();
      g.lse = c.lse.data();
      g.onehot_coef = c.onehot.data();
      g.softmax_coef = c.softmax.data();
      g.out = out.memory.data();
      g.out_stride = static_cast<int64_t>(out.stride);
      g.factor = factor.data();
      g.db = db.data();
      g.transform = t;
      require_success(api().linear->grad(on(kWhole), g));
      const double constant = t.has_softcap ? t.scale : t.scale;  // of the slope, which the coefficients hold
      std::vector<double> sums(kTile);
      for (int r = 0; r < kRows; ++r) {
        const Distribution<float> d(logits, t, r);
        for (int j = 0; j < kTile; ++j) {
          const int column = kFirst + j;
          const double expected =
              targets[r] < 0 ? 0.0
                             : ((column == targets[r] ? c.onehot[r] : 0.0f) - c.softmax[r] * exp(d.log_p(column))) *
                                   slope(t, logits.at(r, column)) / constant;
          require_close("gradient " + std::to_string(r) + "," + std::to_string(column), out.at(r, j), expected, 2e-6,
                        1e-4 + kRounding<T>);
          sums[j] += factor[r] * out.at(r, j);
        }
      }
      for (int j = 0; j < kTile; ++j) require_close("column sum " + std::to_string(j), db[j], sums[j], 1e-3, 1e-2);

      ScaleRowsArgs s = {};
      s.dtype = s.out_dtype = kType<T>;
      s.rows = kRows;
      s.width = kTile;
      s.x = out.memory.data();
      s.x_stride = static_cast<int64_t>(out.stride);
      s.factor = factor.data();
      s.out = scaled.memory.data();
      s.out_stride = static_cast<int64_t>(scaled.stride);
      require_success(api().linear->scale_rows(on(kWhole), s));
      for (int r = 0; r < kRows; ++r) {
        for (int j = 0; j < kTile; ++j) {
          require_close("scaled " + std::to_string(r) + "," + std::to_string(j), scaled.at(r, j),
                        factor[r] * out.at(r, j), 1e-7, 1e-6 + kRounding<T>);
        }
      }
    }
  }
}

constexpr Case kCases[] = {
    {"row_stats, fp32", row_stats<float>},
    {"row_stats, bf16", row_stats<BFloat16>},
    {"row_stats, fp16", row_stats<Float16>},
    {"row_grad, fp32", row_grad<float>},
    {"row_grad, bf16", row_grad<BFloat16>},
    {"row_grad, fp16", row_grad<Float16>},
    {"row_kl, fp32", row_kl<float>},
    {"row_kl, bf16", row_kl<BFloat16>},
    {"row_kl, fp16", row_kl<Float16>},
    {"preference, fp32", preference<float>},
    {"preference, bf16", preference<BFloat16>},
    {"linear, bf16", linear<BFloat16>},
    {"linear, fp16", linear<Float16>},
};

}  // namespace

int main(int argc, char** argv) {
  return run_all(kCases, argc > 1 ? argv[1] : "", argc > 2 ? static_cast<unsigned>(atoi(argv[2])) : 0);
}
