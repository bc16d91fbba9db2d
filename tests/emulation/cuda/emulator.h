// Runs the kernels of csrc/cuda on the host, as they are written: every CUDA
// thread is a fiber, blocks run one after the other.
//
// csrc/cuda/device.h includes this in place of CUDA's own headers where
// FASTPREF_EMULATED is defined; compile the .cu files as C++20. It needs
// neither the CUDA toolkit nor a GPU. What it finds, each as an EmulatorError
// with block, thread and place:
//
//   * barriers and warp operations that not all threads reach, or where they
//   meet in different ones; lanes that are not in their own mask, sources
//     outside of it
//   * vector accesses that are not aligned, copies into shared memory that are
//   used before they were waited for (their bytes are NaN until then)
//   * shared memory used before it was written (it starts as NaN in every
//   block), and, by sanitizers, beyond its end
//   * accesses outside of the memory that was announced, once anything was
//   (watch)
//   * launches that no GPU takes, and more dynamic shared memory than was asked
//   for
//   * with a seed: results that depend on the order of threads or blocks
//
// Built with -fsanitize=address or =thread every fiber and every shared array
// is known to the sanitizer, a block's memory is fresh, and the only order
// between threads is what barriers, __syncwarp, and fences with atomics make: a
// shuffle makes none. Every access is counted (counts), and so are launches and
// barriers.
#pragma once

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "fibers.h"

#define FASTPREF_DEVICE static inline __attribute__((unused))
#define FASTPREF_KERNEL(threads, blocks) static
#define FASTPREF_SHARED(T, name, n)                     \
  static emulator::SharedArray<T, (n)> name##_emulated; \
  T(&name)[(n)] = name##_emulated.get()
#define FASTPREF_DYNAMIC_SHARED(name) unsigned char* name = emulator::dynamic_shared()
#define FASTPREF_LAUNCH(kernel, grid, threads, shared_bytes, stream, ...)                       \
  emulator::launch(#kernel, reinterpret_cast<const void*>(kernel), grid, threads, shared_bytes, \
                   [&] { kernel(__VA_ARGS__); })

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulator {

// --- what a launch did
// --------------------------------------------------------------------------------------------------

struct Counts {
  uint64_t loads = 0, stores = 0;            // bytes
  uint64_t wide_loads = 0, wide_stores = 0;  // of them, by 16-byte accesses
};

struct Range {
  uintptr_t begin, end;
  Counts counts;
};

struct Totals {
  uint64_t launches = 0, blocks = 0, barriers = 0, warp_operations = 0, atomics = 0;
};

struct Memory {
  std::vector<Range> ranges;
  Counts elsewhere;
  Totals totals;
};
inline Memory memory;

FIBER_UNSANITIZED inline void touch(const void* p, size_t bytes, bool is_store, size_t alignment) {
  const uintptr_t at = reinterpret_cast<uintptr_t>(p);
  if (at % alignment) throw EmulatorError("misaligned access of " + std::to_string(bytes) + " bytes");
  Counts* found = memory.ranges.empty() ? &memory.elsewhere : nullptr;
  for (Range& range : memory.ranges) {
    if (at >= range.begin && at + bytes <= range.end) found = &range.counts;
  }
  if (!found)
    throw EmulatorError(std::string(is_store ? "store" : "load") + " outside of the memory that was announced");
  (is_store ? found->stores : found->loads) += bytes;
  if (bytes == 16) (is_store ? found->wide_stores : found->wide_loads) += bytes;
}

// --- threads of a block
// -----------------------------------------------------------------------------------------------------

enum class Wait { kNothing, kBlock, kWarp, kEnded };

struct PendingCopy {
  unsigned char* to;
  unsigned char bytes[16];
};

struct Thread {
  Fiber fiber;
  Wait wait = Wait::kNothing;
  unsigned mask = 0;                             // of the warp operation that it waits in
  const char* operation = "";                    // its name
  bool fenced = false;                           // everything before is to be seen by whoever sees its next atomic
  std::vector<void*> seen;                       // atomics since its last fence
  std::vector<std::vector<PendingCopy>> groups;  // committed, oldest first
  std::vector<PendingCopy> uncommitted;
};

// What those who pass a barrier together have in common. One that leaves it
// late must not see what others did after it, up to the next: so two addresses,
// in turn, where the sanitizer keeps what was released.
class Meeting {
 public:
  explicit Meeting(unsigned mask) : mask(mask) {}
  const unsigned mask;
  void* place() { return &places_[passed_ % 2]; }
  void pass() { ++passed_; }

 private:
  uint64_t places_[2] = {}, passed_ = 0;
};

struct WarpState {
  alignas(16) unsigned char slot[32][64];
  std::vector<std::unique_ptr<Meeting>> meetings;  // at __syncwarp, one for every mask

  Meeting& meeting(unsigned mask) {
    for (const auto& known : meetings) {
      if (known->mask == mask) return *known;
    }
    meetings.push_back(std::make_unique<Meeting>(mask));
    return *meetings.back();
  }
};

struct Block {
  std::vector<Thread> threads;
  std::vector<WarpState> warps;
  std::function<void()> body;
  int current = -1, live = 0;
  std::string error;
  std::unique_ptr<Meeting> barrier;  // of this block alone, like its warps': blocks have no order
  uint64_t launch_order = 0;         // an address for the sanitizer
  std::unique_ptr<unsigned char[]> dynamic, arena;
  size_t dynamic_bytes = 0, arena_used = 0;
};
inline Block block;
constexpr size_t kArenaBytes = 228 << 10;
#if defined(FIBER_SANITIZED)
constexpr size_t kMarginBytes = 0;  // the sanitizer knows where the memory ends
#else
constexpr size_t kMarginBytes = 256;
#endif
constexpr unsigned char kMargin = 0xA5;
constexpr size_t kSharedBytes = 48 << 10;     // that a kernel has without asking
inline size_t most_shared_bytes = 227 << 10;  // that it may ask for; GPUs of compute capability 8.6, 8.9
                                              // and 12.0 have 99 << 10
inline std::vector<std::pair<const void*, size_t>> asked_shared;  // kernels that asked, and for how much
inline uint64_t block_number = 0;
inline unsigned seed = 0;

inline unsigned char* dynamic_shared() { return block.dynamic.get(); }

// A shared array: other memory, or cleared memory, in every block. Under the
// address sanitizer an object of its own, of its exact size; under the thread
// sanitizer part of what the scheduler allocated for the block, so that no
// thread of it counts as the one that made it.
template <class T, size_t N>
class SharedArray {
 public:
 FIBER_UNSANITIZED T (&get()) [N] {
   if (number_ != block_number) {
     number_ = block_number;
#if defined(__SANITIZE_THREAD__)
     bytes_ = block.arena.get() + block.arena_used;
     block.arena_used += (sizeof(T) * N + 127) / 128 * 128;
     if (block.arena_used > kArenaBytes) throw EmulatorError("more shared memory than a block has");
#elif defined(__SANITIZE_ADDRESS__)
     delete[] bytes_;
     bytes_ = new unsigned char[sizeof(T) * N];
     fill(bytes_, 0xFF, sizeof(T) * N);
#else
     bytes_ = fixed_;
     fill(bytes_, 0xFF, sizeof(T) * N);
#endif
   }
   return *reinterpret_cast<T(*)[N]>(bytes_);
 }

 private :
#if !defined(FIBER_SANITIZED)
     alignas(16) unsigned char fixed_[sizeof(T) * N] = {};
#endif
  unsigned char* bytes_ = nullptr;
  uint64_t number_ = 0;
};

inline int lane() { return block.current & 31; }
inline Thread& self() { return block.threads[block.current]; }

FIBER_UNSANITIZED inline void wait_block() {
  ++memory.totals.barriers;
  void* place = block.barrier->place();
  fiber_release(place);
  self().wait = Wait::kBlock;
  self().fiber.pause();
  fiber_acquire(place);
}

// Until all lanes of the mask are in this operation. Memory has no order by it.
FIBER_UNSANITIZED inline void wait_warp(unsigned mask, const char* operation) {
  if (!(mask >> lane() & 1)) throw EmulatorError(std::string(operation) + ": the calling lane is not in its mask");
  ++memory.totals.warp_operations;
  self().wait = Wait::kWarp;
  self().mask = mask;
  self().operation = operation;
  self().fiber.pause();
}

FIBER_UNSANITIZED inline void sync_warp(unsigned mask) {
  void* place;
  {
    const Unseen unseen;
    place = block.warps[block.current >> 5].meeting(mask).place();
  }
  fiber_release(place);
  wait_warp(mask, "__syncwarp");
  fiber_acquire(place);
}

// Every lane's `mine`, in `all`.
FIBER_UNSANITIZED inline void exchange(unsigned mask, const void* mine, size_t bytes, unsigned char (*all)[64],
                                       const char* operation) {
  WarpState& warp = block.warps[block.current >> 5];
  copy(warp.slot[lane()], mine, bytes);
  wait_warp(mask, operation);
  for (int i = 0; i < 32; ++i) copy(all[i], warp.slot[i], bytes);
  wait_warp(mask, operation);
}

template <class T>
T from_lane(unsigned mask, T value, int source, const char* operation) {
  static_assert(sizeof(T) <= 64);
  if (!(mask >> source & 1)) throw EmulatorError(std::string(operation) + ": the source lane is not in the mask");
  if ((block.current & ~31) + source >= static_cast<int>(blockDim.x)) {
    throw EmulatorError(std::string(operation) + ": the block has no thread in the source lane");
  }
  WarpState& warp = block.warps[block.current >> 5];
  copy(warp.slot[lane()], &value, sizeof value);
  wait_warp(mask, operation);
  T found;
  copy(&found, warp.slot[source], sizeof found);
  wait_warp(mask, operation);
  return found;
}

// --- running
// ----------------------------------------------------------------------------------------------------------------------

// Lets go the lanes of a warp that wait for nobody any more; `count` threads
// from `first` on.
inline void release_warp(int first, int count) {
  const unsigned exist = count < 32 ? (1u << count) - 1 : ~0u;
  for (int i = first; i < first + count; ++i) {
    const Thread& one = block.threads[i];
    if (one.wait != Wait::kWarp) continue;
    unsigned here = 0;
    for (int j = 0; j < count; ++j) {
      const Thread& other = block.threads[first + j];
      if (other.wait == Wait::kWarp && other.mask == one.mask) here |= 1u << j;
    }
    if ((one.mask & exist) != here) continue;
    for (int j = 0; j < count; ++j) {
      Thread& other = block.threads[first + j];
      if (!(here >> j & 1)) continue;
      if (strcmp(other.operation, one.operation) != 0) {
        block.error =
            std::string("lanes of a warp meet in different operations: ") + one.operation + " and " + other.operation;
      }
      other.wait = Wait::kNothing;
    }
    block.warps[first >> 5].meeting(one.mask).pass();
  }
}

inline void failed(const char* what) {
  const Unseen unseen;
  if (block.error.empty()) block.error = what;
}

FIBER_UNSANITIZED inline void enter() {
  Fiber::started();
  try {
    block.body();
    const Unseen unseen;
    bool on_their_way = !self().uncommitted.empty();
    for (const auto& group : self().groups) on_their_way |= !group.empty();
    if (on_their_way) throw EmulatorError("ended with copies into shared memory that were not waited for");
  } catch (const std::exception& e) {
    failed(e.what());
  } catch (...) {
    failed("an exception of a type that nobody expects");
  }
  self().wait = Wait::kEnded;
  --block.live;
  self().fiber.end();
}

inline void prepare_block(int n) {
  const Unseen unseen;
  ++block_number;
  ++memory.totals.blocks;
  block.live = n;
  block.error.clear();
  block.barrier = std::make_unique<Meeting>(~0u);
  block.warps.clear();
  block.warps.resize((n + 31) / 32);
  block.dynamic.reset(new unsigned char[block.dynamic_bytes + kMarginBytes]);
  fill(block.dynamic.get(), 0xFF, block.dynamic_bytes);
  fill(block.dynamic.get() + block.dynamic_bytes, kMargin, kMarginBytes);
#if defined(__SANITIZE_THREAD__)
  block.arena.reset(new unsigned char[kArenaBytes]);
  fill(block.arena.get(), 0xFF, kArenaBytes);
  block.arena_used = 0;
#endif
  for (int i = 0; i < n; ++i) {
    Thread& t = block.threads[i];
    t.wait = Wait::kNothing;
    t.fenced = false;
    t.seen.clear();
    t.groups.clear();
    t.uncommitted.clear();
    t.fiber.prepare(&enter);
  }
}

// Every thread that can, in this order, up to where it waits or ends; whether
// there was one.
FIBER_UNSANITIZED inline bool run_threads(int n, const std::vector<int>& order) {
  bool ran = false;
  for (int i : order) {
    if (block.threads[i].wait != Wait::kNothing) continue;
    ran = true;
    block.current = i;
    threadIdx = dim3(static_cast<unsigned>(i), 0, 0);
    block.threads[i].fiber.resume();
    const Unseen unseen;
    const int first = i & ~31;
    if (block.threads[i].wait == Wait::kWarp) release_warp(first, std::min(n - first, 32));
    if (!block.error.empty()) break;
  }
  return ran;
}

// Opens the barrier if all threads wait at it.
inline void release_block(int n) {
  const Unseen unseen;
  int at_barrier = 0, ended = 0;
  for (int i = 0; i < n; ++i) {
    at_barrier += block.threads[i].wait == Wait::kBlock;
    ended += block.threads[i].wait == Wait::kEnded;
  }
  if (at_barrier == n) {
    for (int i = 0; i < n; ++i) block.threads[i].wait = Wait::kNothing;
    block.barrier->pass();
  } else {
    block.error = "the threads part: " + std::to_string(at_barrier) + " at __syncthreads, " + std::to_string(ended) +
                  " ended, " + std::to_string(n - at_barrier - ended) + " in warp operations";
  }
}

FIBER_UNSANITIZED inline void run_block(int n, const std::vector<int>& order) {
  prepare_block(n);
  while (block.live && block.error.empty()) {
    if (!run_threads(n, order)) release_block(n);
  }
  const Unseen unseen;
  for (size_t i = 0; i < kMarginBytes; ++i) {
    if (block.dynamic[block.dynamic_bytes + i] != kMargin) failed("wrote beyond the launch's dynamic shared memory");
  }
  for (int i = 0; i < n; ++i) block.threads[i].fiber.finish(&block.launch_order);
}

// What went wrong in the last launch, for the caller of the C interface; empty
// where nothing did.
inline std::string& last_error() {
  static std::string text;
  return text;
}

// Why no GPU takes such a launch; nullptr if one does.
inline const char* refused(const void* kernel, dim3 grid, unsigned threads, size_t shared_bytes) {
  if (threads == 0 || threads > 1024) return "a block that no GPU takes";
  if (grid.x == 0 || grid.x > 0x7fffffffu) return "a grid that no GPU takes";
  if (grid.y == 0 || grid.y > 65535 || grid.z == 0 || grid.z > 65535) return "a grid that no GPU takes";
  size_t allowed = kSharedBytes;
  for (const auto& [asked, bytes] : asked_shared) {
    if (asked == kernel) allowed = std::max(allowed, bytes);
  }
  return shared_bytes > allowed ? "more dynamic shared memory than cudaFuncSetAttribute asked for" : nullptr;
}

template <class Body>
FIBER_UNSANITIZED void launch(const char* name, const void* kernel, dim3 grid, unsigned threads, size_t shared_bytes,
                              Body&& body) {
  ++memory.totals.launches;
  gridDim = grid;
  blockDim = dim3(threads);
  if (const char* reason = refused(kernel, grid, threads, shared_bytes)) {
    last_error() = std::string(name) + ": " + reason;
    return;
  }
  if (block.threads.size() < threads) block.threads.resize(threads);
  block.body = body;
  block.dynamic_bytes = shared_bytes;
  std::vector<int> order(threads);
  for (unsigned i = 0; i < threads; ++i) order[i] = static_cast<int>(i);
  const uint64_t blocks = static_cast<uint64_t>(grid.x) * grid.y * grid.z;
  std::vector<uint64_t> turn(blocks);
  for (uint64_t i = 0; i < blocks; ++i) turn[i] = i;
  std::mt19937 random(seed);
  if (seed) std::shuffle(turn.begin(), turn.end(), random);
  for (uint64_t i : turn) {
    const Unseen unseen;
    if (seed) std::shuffle(order.begin(), order.end(), random);
    blockIdx = dim3(static_cast<unsigned>(i % grid.x), static_cast<unsigned>(i / grid.x % grid.y),
                    static_cast<unsigned>(i / grid.x / grid.y));
    run_block(static_cast<int>(threads), order);
    if (!block.error.empty()) {
      last_error() = std::string(name) + ", block (" + std::to_string(blockIdx.x) + "," + std::to_string(blockIdx.y) +
                     "," + std::to_string(blockIdx.z) + "), thread " + std::to_string(block.current) + ": " +
                     block.error;
      break;
    }
  }
  fiber_acquire(&block.launch_order);
  Fiber::forget();
}

}  // namespace emulator

// --- CUDA's own names
// ----------------------------------------------------------------------------------------------------------------

inline void __syncthreads() { emulator::wait_block(); }
inline void __syncwarp(unsigned mask = ~0u) { emulator::sync_warp(mask); }

template <class T>
T __shfl_sync(unsigned mask, T value, int source) {
  return emulator::from_lane(mask, value, source & 31, "__shfl_sync");
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int other) {
  return emulator::from_lane(mask, value, emulator::lane() ^ other, "__shfl_xor_sync");
}

// A fence makes an atomic of the same thread an order between threads: the one
// before publishes, the one after it looks.
inline void __threadfence() {
  const emulator::Unseen unseen;
  emulator::Thread& t = emulator::self();
  for (void* p : t.seen) fiber_acquire(p);
  t.seen.clear();
  t.fenced = true;
}

using cudaError_t = int;
constexpr cudaError_t cudaSuccess = 0;
constexpr cudaError_t cudaErrorInvalidValue = 1;
constexpr cudaError_t cudaErrorLaunchFailure = 719;
constexpr int cudaFuncAttributeMaxDynamicSharedMemorySize = 8;

inline cudaError_t cudaGetDevice(int* device) { return *device = 0, cudaSuccess; }
inline cudaError_t cudaSetDevice(int device) { return device == 0 ? cudaSuccess : 101; }
inline cudaError_t cudaGetLastError() { return emulator::last_error().empty() ? cudaSuccess : cudaErrorLaunchFailure; }
inline const char* cudaGetErrorName(cudaError_t code) {
  if (code == cudaErrorInvalidValue) return "cudaErrorInvalidValue";
  return code == 101 ? "cudaErrorInvalidDevice" : "cudaErrorLaunchFailure";
}
inline const char* cudaGetErrorString(cudaError_t) {
  static std::string text;  // the caller reads it before the next launch
  text = emulator::last_error();
  emulator::last_error().clear();
  return text.c_str();
}
inline cudaError_t cudaMemsetAsync(void* p, int value, size_t bytes, void*) {
  memset(p, value, bytes);
  return cudaSuccess;
}
using cudaStream_t = void*;
template <class F>
cudaError_t cudaFuncSetAttribute(F* kernel, int attribute, int value) {
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
  if (value < 0 || static_cast<size_t>(value) > emulator::most_shared_bytes) return cudaErrorInvalidValue;
  emulator::asked_shared.emplace_back(reinterpret_cast<const void*>(kernel), value);
  return cudaSuccess;
}

// --- the functions of csrc/cuda/device.h
// ------------------------------------------------------------------------------------------------

namespace fastpref {

struct Vector16;

FASTPREF_DEVICE int thread_again() { return static_cast<int>(threadIdx.x); }
FASTPREF_DEVICE int threads_again() { return static_cast<int>(blockDim.x); }

template <class T>
FASTPREF_DEVICE T load(const T* p) {
  emulator::touch(p, sizeof(T), false, sizeof(T));
  return *p;
}

template <class T>
FASTPREF_DEVICE void store(T* p, T value) {
  emulator::touch(p, sizeof(T), true, sizeof(T));
  *p = value;
}

template <class T>
FASTPREF_DEVICE T load_from_others(const T* p) {
  return load(p);
}

template <class V = Vector16>
FASTPREF_DEVICE V load16(const void* p) {
  emulator::touch(p, 16, false, 16);
  V v;
  memcpy(&v, p, 16);
  return v;
}

template <class V>
FASTPREF_DEVICE void store16(void* p, const V& v) {
  emulator::touch(p, 16, true, 16);
  memcpy(p, &v, 16);
}

FASTPREF_DEVICE uint32_t count_up(uint32_t* p) {
  emulator::touch(p, sizeof *p, true, sizeof *p);
  const uint32_t before = __atomic_fetch_add(p, 1u, __ATOMIC_RELAXED);
  const emulator::Unseen unseen;
  ++emulator::memory.totals.atomics;
  emulator::Thread& t = emulator::self();
  if (t.fenced) fiber_release(p);  // what came before the fence, and the atomic itself
  t.fenced = false;
  t.seen.push_back(p);
  return before;
}

FASTPREF_DEVICE void copy16_async(void* shared, const void* global, int bytes) {
  if (bytes < 0 || bytes > 16) throw emulator::EmulatorError("a copy of " + std::to_string(bytes) + " bytes");
  if (reinterpret_cast<uintptr_t>(shared) % 16) throw emulator::EmulatorError("misaligned copy into shared memory");
  emulator::PendingCopy copy = {static_cast<unsigned char*>(shared), {}};
  if (bytes) {
    if (reinterpret_cast<uintptr_t>(global) % 16) throw emulator::EmulatorError("misaligned copy from global memory");
    emulator::touch(global, static_cast<size_t>(bytes), false, 1);
    memcpy(copy.bytes, global, static_cast<size_t>(bytes));
  }
  memset(shared, 0xFF,
         16);  // on its way: whatever was there is not to be read any more
  const emulator::Unseen unseen;
  emulator::self().uncommitted.push_back(copy);
}

FASTPREF_DEVICE void commit_copies() {
  const emulator::Unseen unseen;
  emulator::Thread& t = emulator::self();
  t.groups.push_back(std::move(t.uncommitted));
  t.uncommitted.clear();
}

template <int kPending>
FASTPREF_DEVICE void wait_for_copies() {
  std::vector<emulator::PendingCopy> landed;
  {
    const emulator::Unseen unseen;
    auto& groups = emulator::self().groups;
    while (groups.size() > static_cast<size_t>(kPending)) {
      landed.insert(landed.end(), groups.front().begin(), groups.front().end());
      groups.erase(groups.begin());
    }
  }
  for (const emulator::PendingCopy& copy : landed) memcpy(copy.to, copy.bytes, 16);
}

FASTPREF_DEVICE void load_matrices(uint32_t (&out)[4], const void* shared_row) {
  if (reinterpret_cast<uintptr_t>(shared_row) % 16) throw emulator::EmulatorError("misaligned row of a matrix");
  unsigned char all[32][64];
  emulator::exchange(~0u, &shared_row, sizeof shared_row, all, "ldmatrix");
  const int lane = emulator::lane();
  for (int matrix = 0; matrix < 4; ++matrix) {
    const unsigned char* row;
    memcpy(&row, all[8 * matrix + lane / 4], sizeof row);
    memcpy(&out[matrix], row + 4 * (lane % 4), 4);
  }
}

template <class T>
FASTPREF_DEVICE void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, T) {
  uint32_t mine[6] = {a[0], a[1], a[2], a[3], b0, b1};
  unsigned char all[32][64];
  emulator::exchange(~0u, mine, sizeof mine, all, "mma");
  const auto element = [&](int lane, int word, int half) {
    T x;
    memcpy(&x.bits, all[lane] + 4 * word + 2 * half, 2);
    return to_float(x);
  };
  const int lane = emulator::lane();
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4, column = 2 * (lane % 4) + i % 2,
              lower = i / 2;  // of c: rows row and row + 8
    float sum = 0.0f;
    for (int k = 0; k < 16; ++k) {
      const float x = element(4 * row + k % 8 / 2, lower + 2 * (k / 8), k % 2);
      const float y = element(4 * column + k % 8 / 2, 4 + k / 8, k % 2);
      sum += x * y;
    }
    c[i] += sum;
  }
}

FASTPREF_DEVICE float exp2_fast(float x) {
  const float y = exp2f(x);
  return y < 0x1p-126f ? 0.0f : y;
}

FASTPREF_DEVICE float quotient(float a, float b) { return a / b; }

FASTPREF_DEVICE float product(float a, float b) { return a * b; }

FASTPREF_DEVICE float widened(float x) { return x; }
FASTPREF_DEVICE float widened(BFloat16 x) { return to_float(x); }
FASTPREF_DEVICE float widened(Float16 x) { return to_float(x); }

template <class T>
FASTPREF_DEVICE void narrowed(float x, T* out) {
  from_float(x, out);
}

}  // namespace fastpref
