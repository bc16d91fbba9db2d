// Fibers that the sanitizers understand: threads that run one at a time and change only where they say so.
//
// A switch saves the registers that a function call keeps (x86-64), which takes a few nanoseconds; elsewhere it is swapcontext.
#pragma once

#include <stddef.h>
#include <stdlib.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
  #include <sanitizer/asan_interface.h>
  #include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
  #include <sanitizer/tsan_interface.h>
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  #define FIBER_SANITIZED
#endif
// The scheduler's own bookkeeping crosses fibers without synchronisation, on purpose.
#if defined(__SANITIZE_THREAD__)
  #define FIBER_UNSANITIZED __attribute__((no_sanitize_thread, noinline))
#else
  #define FIBER_UNSANITIZED
#endif

#if defined(__x86_64__)
asm(R"(
.text
.weak fastpref_emulator_switch
.hidden fastpref_emulator_switch
.type fastpref_emulator_switch,@function
fastpref_emulator_switch:
  pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
  movq %rsp, (%rdi); movq %rsi, %rsp
  popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
  ret
.size fastpref_emulator_switch,.-fastpref_emulator_switch
)");
extern "C" void fastpref_emulator_switch(void** save, void* to);
#else
  #include <ucontext.h>
#endif

namespace emulator {

struct EmulatorError : std::runtime_error {
  using runtime_error::runtime_error;
};

// memcpy and memset that no sanitizer looks into.
FIBER_UNSANITIZED inline void copy(void* to, const void* from, size_t bytes) {
  volatile unsigned char* a = static_cast<unsigned char*>(to);
  const volatile unsigned char* b = static_cast<const unsigned char*>(from);
  for (size_t i = 0; i < bytes; ++i) a[i] = b[i];
}
FIBER_UNSANITIZED inline void fill(void* to, unsigned char value, size_t bytes) {
  volatile unsigned char* a = static_cast<unsigned char*>(to);
  for (size_t i = 0; i < bytes; ++i) a[i] = value;
}

// What one fiber releases, another that acquires the same address may see.
inline void fiber_release([[maybe_unused]] void* p) {
#if defined(__SANITIZE_THREAD__)
  __tsan_release(p);
#endif
}
inline void fiber_acquire([[maybe_unused]] void* p) {
#if defined(__SANITIZE_THREAD__)
  __tsan_acquire(p);
#endif
}

class Fiber {
 public:
  static constexpr size_t kStackBytes = 256 << 10;

  Fiber() = default;
  Fiber(const Fiber&) = delete;
  Fiber(Fiber&& other) noexcept { std::swap(stack_, other.stack_); }
  ~Fiber() { free(stack_); }

  // The next resume starts `entry`, which must not return but call end().
  FIBER_UNSANITIZED void prepare(void (*entry)()) {
    if (!stack_) stack_ = static_cast<char*>(aligned_alloc(4096, kStackBytes));
#if defined(__SANITIZE_ADDRESS__)
    ASAN_UNPOISON_MEMORY_REGION(stack_, kStackBytes);  // the frames that the last one left when it ended
#endif
#if defined(__x86_64__)
    void** top = reinterpret_cast<void**>(stack_ + kStackBytes - 64);
    *--top = nullptr;
    *--top = reinterpret_cast<void*>(entry);
    for (int i = 0; i < 6; ++i) *--top = nullptr;
    at_ = top;
#else
    getcontext(&at_);
    at_.uc_stack.ss_sp = stack_;
    at_.uc_stack.ss_size = kStackBytes;
    at_.uc_link = nullptr;
    makecontext(&at_, entry, 0);
#endif
#if defined(__SANITIZE_THREAD__)
    tsan_ = __tsan_create_fiber(0);
#endif
  }

  // Runs until the fiber pauses or ends. Called by the scheduler.
  FIBER_UNSANITIZED void resume() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&main().fake, stack_, kStackBytes);
#endif
#if defined(__SANITIZE_THREAD__)
    main().tsan = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(tsan_, 0);  // a fiber sees what the scheduler did
#endif
#if defined(__x86_64__)
    fastpref_emulator_switch(&main().at, at_);
#else
    swapcontext(&main().at, &at_);
#endif
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(main().fake, nullptr, nullptr);
#endif
  }

  // Back to the scheduler until it resumes this fiber. Called by the fiber.
  FIBER_UNSANITIZED void pause() { leave(false); }

  // Back to the scheduler for good.
  FIBER_UNSANITIZED void end() {
    leave(true);
    abort();
  }

  FIBER_UNSANITIZED void finish() {
#if defined(__SANITIZE_THREAD__)
    if (tsan_) __tsan_destroy_fiber(tsan_);
    tsan_ = nullptr;
#endif
  }

  // First thing in a fiber.
  FIBER_UNSANITIZED static void started() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &main().bottom, &main().size);
#endif
  }

 private:
#if defined(__x86_64__)
  using Place = void*;
#else
  using Place = ucontext_t;
#endif
  struct Main {
    Place at{};
    void* fake = nullptr;
    const void* bottom = nullptr;
    size_t size = 0;
    void* tsan = nullptr;
  };
  static Main& main() {
    static Main m;
    return m;
  }

  FIBER_UNSANITIZED void leave([[maybe_unused]] bool ending) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(ending ? nullptr : &fake_, main().bottom, main().size);
#endif
#if defined(__SANITIZE_THREAD__)
    __tsan_switch_to_fiber(main().tsan, __tsan_switch_to_fiber_no_sync);  // order is what the kernel makes
#endif
#if defined(__x86_64__)
    fastpref_emulator_switch(&at_, main().at);
#else
    swapcontext(&at_, &main().at);
#endif
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake_, nullptr, nullptr);
#endif
  }

  char* stack_ = nullptr;
  Place at_{};
  [[maybe_unused]] void* fake_ = nullptr;
  [[maybe_unused]] void* tsan_ = nullptr;
};

}  // namespace emulator

using emulator::fiber_acquire;
using emulator::fiber_release;
