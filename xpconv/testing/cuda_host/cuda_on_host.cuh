// CUDA C++ on the CPU: what a kernel needs of the language and its headers, for tests of kernels without a GPU.
//
// One block runs at a time, and of it one thread at a time, until it ends or waits at a barrier. A thread that waits
// keeps its fiber (a stack of its own); when all threads wait, the barrier opens and they go on in another order:
//
//     thread   0  1  2  3            order of a random schedule: 2 0 3 1, then 1 2 0 3
//     start    2──┐
//              0──┤                  every thread runs up to __syncthreads() ...
//              3──┤
//              1──┴─ barrier ─┐
//                             1── end
//                             2── end      ... and from there to its end
//
// A kernel must give the same result in every order. What else is checked, each with a message that says where:
//   - shared memory is filled with 0xFF bytes (NaN) before each block, its bounds are checked, and two threads that use
//     the same element, one of them writing, without a barrier in between are an error (a missing barrier);
//   - a barrier that not all threads reach, or that they reach at different places (a divergent barrier);
//   - the limits of CUDA on grid and block, before the launch.
// Memory outside of blocks is the caller's; build with AddressSanitizer to have its bounds checked.
#pragma once

#include <math.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#define CUDA_ON_HOST_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define CUDA_ON_HOST_ASAN 1
#endif
#endif
#ifdef CUDA_ON_HOST_ASAN
#include <sanitizer/common_interface_defs.h>
#endif

// ---- the language -----------------------------------------------------------------------------------------------

#define __global__ static
#define __device__
#define __host__
#define __constant__ static const
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)

struct uint2 { unsigned x, y; };
struct uint3 { unsigned x, y, z; };
struct uint4 { unsigned x, y, z, w; };
struct dim3 { unsigned x = 1, y = 1, z = 1; };
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

// Storage of 16-bit floats. As in the kernels, arithmetic is done in float; only the conversions are here, rounding
// to nearest, ties to even, like the hardware.
struct __half { uint16_t bits; };
struct __nv_bfloat16 { uint16_t bits; };

inline float cuda_on_host_float(uint32_t bits) { float value; memcpy(&value, &bits, 4); return value; }
inline uint32_t cuda_on_host_bits(float value) { uint32_t bits; memcpy(&bits, &value, 4); return bits; }

inline float __bfloat162float(__nv_bfloat16 v) { return cuda_on_host_float(uint32_t(v.bits) << 16); }
inline __nv_bfloat16 __float2bfloat16(float v) {
  const uint32_t bits = cuda_on_host_bits(v);
  if (v != v) return {0x7FFF};
  return {uint16_t((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16)};
}
inline float __half2float(__half v) {
  const uint32_t sign = uint32_t(v.bits & 0x8000) << 16, exponent = (v.bits >> 10) & 31, fraction = v.bits & 0x3FF;
  if (exponent == 31) return cuda_on_host_float(sign | 0x7F800000 | fraction << 13);
  if (exponent) return cuda_on_host_float(sign | (exponent + 112) << 23 | fraction << 13);
  const float subnormal = ldexpf(float(fraction), -24);
  return sign ? -subnormal : subnormal;
}
inline __half __float2half(float v) {
  const uint32_t sign = (cuda_on_host_bits(v) >> 16) & 0x8000;
  const float size = fabsf(v);
  if (v != v) return {0x7FFF};
  if (size >= 65520.0f) return {uint16_t(sign | 0x7C00)};                            // rounds to infinity
  if (size < 6.103515625e-05f) return {uint16_t(sign | uint32_t(rintf(size * 16777216.0f)))};  // subnormal
  const uint32_t bits = cuda_on_host_bits(size);
  return {uint16_t(sign | ((bits + 0xFFF + ((bits >> 13) & 1)) >> 13) - (112 << 10))};
}

// operators that the compiler must not make one multiply-add of; here it makes none
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __dadd_rn(double a, double b) { return a + b; }

inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned((uint64_t(a) * b) >> 32); }
using std::max;
using std::min;

// ---- threads, blocks, barriers ----------------------------------------------------------------------------------

namespace cuda_on_host {

constexpr size_t STACK_BYTES = 64 * 1024;
constexpr unsigned WARP = 32;
constexpr unsigned MAX_THREADS = 1024;
constexpr size_t MAX_SHARED = 48 * 1024;  // bytes a block, without opting in to more

enum class Doing : uint8_t { RUNNABLE, AT_WARP_BARRIER, AT_BLOCK_BARRIER, DONE };

struct Place {
  const char* file;
  int line;
  bool operator==(const Place& other) const { return line == other.line && !strcmp(file, other.file); }
};

// A stack, and where to go on with it.
struct Fiber {
  ucontext_t entry;
  jmp_buf point;
  char* stack = nullptr;
  bool started = false;
  void* fake_stack = nullptr;
};

struct Thread {
  Doing doing = Doing::RUNNABLE;
  Fiber* fiber = nullptr;
  Place place{"", 0};
  unsigned mask = 0;       // lanes that a warp barrier waits for
  unsigned exchanges = 0;  // shuffles so far: their slots alternate, so that one barrier each is enough
};

// Who used an element of shared memory since the last block barrier.
struct Access {
  unsigned thread, warp_epoch;
};
struct Usage {
  unsigned epoch = ~0u;  // block barriers passed when this was noted
  bool written = false;
  Access writer{0, 0};
  std::vector<Access> readers;
};

struct SharedMemory {
  std::unique_ptr<char[]> bytes;
  std::vector<Usage> usage;
};

struct State {
  uint3 thread_index{}, block_index{};
  dim3 block_size, grid_size;
  unsigned count = 0;       // threads of a block
  unsigned current = 0;     // thread that runs
  unsigned next = 0;        // position in `order` of the next thread to start
  unsigned block_epoch = 0;
  unsigned warp_epoch[MAX_THREADS / WARP] = {};
  std::vector<unsigned> order;
  std::vector<Thread> threads;
  std::vector<std::unique_ptr<Fiber>> fibers;
  std::vector<Fiber*> idle;
  Fiber scheduler;
  Fiber* running = nullptr;
  std::map<const void*, SharedMemory> shared;
  size_t shared_bytes = 0;
  uint64_t exchange[2][MAX_THREADS];
  std::string error;
  void (*body)(void*) = nullptr;
  void* arguments = nullptr;
#ifdef CUDA_ON_HOST_ASAN
  const void* main_stack = nullptr;
  size_t main_stack_size = 0;
#endif
};
static State state;

static std::string name_of_thread(unsigned thread) {
  const dim3& size = state.block_size;
  const uint3& block = state.block_index;
  char text[120];
  snprintf(text, sizeof text, "thread (%u, %u, %u) of block (%u, %u, %u)", thread % size.x, thread / size.x % size.y,
           thread / (size.x * size.y), block.x, block.y, block.z);
  return text;
}
static std::string name_of_place(const Place& place) {
  return std::string(place.file) + ":" + std::to_string(place.line);
}

static void set_current(unsigned thread) {
  const dim3& size = state.block_size;
  state.current = thread;
  state.thread_index = {thread % size.x, thread / size.x % size.y, thread / (size.x * size.y)};
}

// Leave one stack for another. A fiber is entered once by setcontext; from then on setjmp and longjmp, which make no
// system call, do it.
static void switch_fiber(Fiber& from, Fiber& to) {
#ifdef CUDA_ON_HOST_ASAN
  const bool home = &to == &state.scheduler;
  __sanitizer_start_switch_fiber(&from.fake_stack, home ? state.main_stack : to.stack,
                                 home ? state.main_stack_size : STACK_BYTES);
#endif
  state.running = &to;
  if (!_setjmp(from.point)) {
    if (to.started) _longjmp(to.point, 1);
    to.started = true;
    setcontext(&to.entry);
  }
#ifdef CUDA_ON_HOST_ASAN
  __sanitizer_finish_switch_fiber(from.fake_stack, nullptr, nullptr);
#endif
}

// The life of a fiber: start threads until one waits or all have run, then wait for the next block.
static void live() {
#ifdef CUDA_ON_HOST_ASAN
  const void* bottom;
  size_t size;
  __sanitizer_finish_switch_fiber(nullptr, &bottom, &size);
  if (!state.main_stack) { state.main_stack = bottom; state.main_stack_size = size; }
#endif
  for (;;) {
    while (state.next < state.count) {
      const unsigned thread = state.order[state.next++];
      set_current(thread);
      state.threads[thread].fiber = state.running;
      state.body(state.arguments);
      state.threads[state.current].doing = Doing::DONE;
    }
    state.idle.push_back(state.running);
    switch_fiber(*state.running, state.scheduler);
  }
}

static Fiber& idle_fiber() {
  if (state.idle.empty()) {
    state.fibers.push_back(std::make_unique<Fiber>());
    Fiber& fiber = *state.fibers.back();
    // one guard page below the stack: an overflow faults instead of writing into the next stack
    const size_t guard = 4096;
    char* memory = static_cast<char*>(
        mmap(nullptr, STACK_BYTES + guard, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    mprotect(memory, guard, PROT_NONE);
    fiber.stack = memory + guard;
    getcontext(&fiber.entry);
    fiber.entry.uc_stack.ss_sp = fiber.stack;
    fiber.entry.uc_stack.ss_size = STACK_BYTES;
    fiber.entry.uc_link = nullptr;
    makecontext(&fiber.entry, live, 0);
    return fiber;
  }
  Fiber& fiber = *state.idle.back();
  state.idle.pop_back();
  return fiber;
}

// Give up the launch: note why and never come back to this thread.
[[noreturn]] static void fail(const std::string& message) {
  if (state.error.empty()) state.error = message;
  switch_fiber(*state.running, state.scheduler);
  __builtin_unreachable();
}

static void wait(Doing how, unsigned mask, Place place) {
  const unsigned me = state.current;
  Thread& thread = state.threads[me];
  thread.doing = how;
  thread.mask = mask;
  thread.place = place;
  switch_fiber(*thread.fiber, state.scheduler);
  set_current(me);
}

// Open the barriers at which all that must be there are; false if an error was found.
static bool open_barriers() {
  unsigned live = 0, at_block_barrier = 0;
  for (const Thread& thread : state.threads) {
    live += thread.doing != Doing::DONE;
    at_block_barrier += thread.doing == Doing::AT_BLOCK_BARRIER;
  }
  bool opened = false;
  for (unsigned start = 0; start < state.count; start += WARP) {
    const unsigned lanes = std::min(WARP, state.count - start);
    for (unsigned lane = 0; lane < lanes; lane++) {
      Thread& first = state.threads[start + lane];
      if (first.doing != Doing::AT_WARP_BARRIER) continue;
      bool complete = true;
      for (unsigned other = 0; other < WARP; other++) {
        if (!(first.mask >> other & 1)) continue;
        if (other >= lanes || state.threads[start + other].doing == Doing::DONE) {
          state.error = name_of_thread(start + lane) + " waits at " + name_of_place(first.place) + " for lane " +
                        std::to_string(other) + " of its warp, which " +
                        (other >= lanes ? "does not exist" : "has returned") + ": divergent barrier";
          return false;
        }
        const Thread& thread = state.threads[start + other];
        complete &= thread.doing == Doing::AT_WARP_BARRIER && thread.place == first.place && thread.mask == first.mask;
      }
      if (!complete) continue;
      opened = true;
      state.warp_epoch[start / WARP]++;
      for (unsigned other = 0; other < lanes; other++)
        if (first.mask >> other & 1) state.threads[start + other].doing = Doing::RUNNABLE;
    }
  }
  if (opened) return true;
  const Thread* first = nullptr;
  unsigned first_number = 0;
  for (unsigned t = 0; t < state.count; t++) {
    const Thread& thread = state.threads[t];
    if (thread.doing != Doing::AT_BLOCK_BARRIER) continue;
    if (!first) { first = &thread; first_number = t; }
    if (!(thread.place == first->place)) {
      state.error = name_of_thread(first_number) + " waits at " + name_of_place(first->place) + " and " +
                    name_of_thread(t) + " at " + name_of_place(thread.place) + ": divergent barrier";
      return false;
    }
  }
  if (first && at_block_barrier == state.count) {
    state.block_epoch++;
    for (Thread& thread : state.threads) thread.doing = Doing::RUNNABLE;
    return true;
  }
  // some are at a barrier that the others have not reached and never will
  unsigned waiting = 0, missing = 0;
  for (unsigned t = 0; t < state.count; t++) {
    const Doing doing = state.threads[t].doing;
    if (doing == Doing::AT_BLOCK_BARRIER || (doing == Doing::AT_WARP_BARRIER && !first)) waiting = t;
  }
  for (unsigned t = 0; t < state.count; t++)
    if (t != waiting && !(state.threads[t].place == state.threads[waiting].place &&
                          state.threads[t].doing == state.threads[waiting].doing)) missing = t;
  const Thread& other = state.threads[missing];
  state.error = name_of_thread(waiting) + " waits at " + name_of_place(state.threads[waiting].place) + " but " +
                name_of_thread(missing) +
                (other.doing == Doing::DONE ? " has returned" : " waits at " + name_of_place(other.place)) +
                ": divergent barrier (" + std::to_string(live) + " of " + std::to_string(state.count) +
                " threads live)";
  return false;
}

// The schedule: 0 in order, 1 in reverse order, else pseudo-random, another permutation each time.
static uint64_t random_state;
static void shuffle(std::vector<unsigned>& order, unsigned schedule) {
  for (size_t i = 0; i < order.size(); i++) order[i] = unsigned(schedule == 1 ? order.size() - 1 - i : i);
  if (schedule < 2) return;
  for (size_t i = order.size(); i > 1; i--) {
    random_state = random_state * 6364136223846793005ull + 1442695040888963407ull;
    std::swap(order[i - 1], order[(random_state >> 33) % i]);
  }
}

static void run_block(unsigned schedule) {
  state.shared.clear();
  state.shared_bytes = 0;
  state.block_epoch = 0;
  memset(state.warp_epoch, 0, sizeof state.warp_epoch);
  state.threads.assign(state.count, Thread());
  state.order.resize(state.count);
  shuffle(state.order, schedule);
  for (state.next = 0; state.next < state.count && state.error.empty();)
    switch_fiber(state.scheduler, idle_fiber());
  auto done = [](const Thread& thread) { return thread.doing == Doing::DONE; };
  std::vector<unsigned> order(state.count);
  while (state.error.empty() && !std::all_of(state.threads.begin(), state.threads.end(), done)) {
    if (!open_barriers()) return;
    shuffle(order, schedule);
    for (unsigned t : order)
      if (state.threads[t].doing == Doing::RUNNABLE && state.error.empty()) {
        set_current(t);
        switch_fiber(state.scheduler, *state.threads[t].fiber);
      }
  }
}

static void drop_fibers() {
  for (auto& fiber : state.fibers) munmap(fiber->stack - 4096, STACK_BYTES + 4096);
  state.fibers.clear();
  state.idle.clear();
}

// ---- shared memory ----------------------------------------------------------------------------------------------

// The part of a shared array that does not depend on the type of its elements: who reads and writes what.
class SharedBase {
 protected:
  SharedBase(const char* name, size_t size, size_t bytes, const void* key, Place place)
      : name_(name), size_(size), place_(place), memory_(state.shared[key]) {
    if (memory_.bytes) return;  // another thread was here before
    state.shared_bytes += bytes;
    if (state.shared_bytes > MAX_SHARED)
      fail(name_of_place(place) + ": shared array '" + name + "' brings the block to " +
           std::to_string(state.shared_bytes) + " bytes, over 48 KiB");
    memory_.bytes.reset(new char[bytes]);
    memset(memory_.bytes.get(), 0xFF, bytes);
    memory_.usage.resize(size);
  }
  char* bytes() const { return memory_.bytes.get(); }

  void note_read(size_t index) const {
    Usage& use = usage(index, " reads");
    if (use.written && !ordered(use.writer)) race(index, use.writer, "written", "read");
    use.readers.push_back({state.current, state.warp_epoch[state.current / WARP]});
  }
  void note_write(size_t index) const {
    Usage& use = usage(index, " writes");
    if (use.written && !ordered(use.writer)) race(index, use.writer, "written", "written");
    for (const Access& reader : use.readers)
      if (!ordered(reader)) race(index, reader, "read", "written");
    use.readers.clear();
    use.written = true;
    use.writer = {state.current, state.warp_epoch[state.current / WARP]};
  }

 private:
  Usage& usage(size_t index, const char* what) const {
    if (index >= size_)
      fail(name_of_place(place_) + ": " + name_of_thread(state.current) + what + " element " + std::to_string(index) +
           " of shared array '" + name_ + "', which has " + std::to_string(size_));
    Usage& usage = memory_.usage[index];
    if (usage.epoch != state.block_epoch) {
      usage.epoch = state.block_epoch;
      usage.written = false;
      usage.readers.clear();
    }
    return usage;
  }
  // Whether a barrier lies between an access of this block epoch and now.
  static bool ordered(const Access& before) {
    const unsigned warp = state.current / WARP;
    return before.thread == state.current ||
           (before.thread / WARP == warp && before.warp_epoch < state.warp_epoch[warp]);
  }
  [[noreturn]] void race(size_t index, const Access& before, const char* did, const char* does) const {
    fail("missing barrier: element " + std::to_string(index) + " of shared array '" + name_ + "' (" +
         name_of_place(place_) + ") was " + did + " by " + name_of_thread(before.thread) + " and is " + does + " by " +
         name_of_thread(state.current) + " with no barrier in between");
  }

  const char* name_;
  size_t size_;
  Place place_;
  SharedMemory& memory_;
};

template <class T>
class SharedArray : SharedBase {
 public:
  SharedArray(const char* name, size_t size, const void* key, Place place)
      : SharedBase(name, size, size * sizeof(T), key, place) {}

  // What array[index] gives: reading and writing go through the notes.
  struct Element {
    const SharedArray& array;
    size_t index;
    operator T() const { return array.read(index); }
    void operator=(T value) const { array.write(index, value); }
    void operator=(const Element& other) const { array.write(index, T(other)); }
    void operator+=(T value) const { array.write(index, array.read(index) + value); }
  };
  Element operator[](size_t index) const { return {*this, index}; }

 private:
  T* data() const { return reinterpret_cast<T*>(bytes()); }
  T read(size_t index) const {
    note_read(index);
    return data()[index];
  }
  void write(size_t index, T value) const {
    note_write(index);
    data()[index] = value;
  }
};

// ---- launching --------------------------------------------------------------------------------------------------

// How Python sees a parameter: "w" or "r" (pointer to writable or constant memory) or "v" (by value), then the type.
template <class T> struct TypeName {
  static std::string get() { return "struct" + std::to_string(sizeof(T)); }
};
#define CUDA_ON_HOST_TYPE(type, name) \
  template <> struct TypeName<type> { static std::string get() { return name; } };
CUDA_ON_HOST_TYPE(float, "float32")
CUDA_ON_HOST_TYPE(double, "float64")
CUDA_ON_HOST_TYPE(__half, "float16")
CUDA_ON_HOST_TYPE(__nv_bfloat16, "bfloat16")
CUDA_ON_HOST_TYPE(int, "int32")
CUDA_ON_HOST_TYPE(long long, "int64")
CUDA_ON_HOST_TYPE(unsigned, "uint32")
CUDA_ON_HOST_TYPE(unsigned long long, "uint64")
CUDA_ON_HOST_TYPE(unsigned char, "uint8")
CUDA_ON_HOST_TYPE(bool, "bool")
#undef CUDA_ON_HOST_TYPE

template <class P> std::string describe_parameter() {
  if constexpr (std::is_pointer_v<P>) {
    using Pointee = std::remove_pointer_t<P>;
    return (std::is_const_v<Pointee> ? "r:" : "w:") + TypeName<std::remove_cv_t<Pointee>>::get();
  } else {
    return "v:" + TypeName<std::decay_t<P>>::get();
  }
}
template <class... P> const char* describe(void (*)(P...)) {
  static std::string text = [] {
    std::string joined;
    ((joined += (joined.empty() ? "" : " ") + describe_parameter<P>()), ...);
    return joined;
  }();
  return text.c_str();
}

static void check_geometry(const unsigned* grid, const unsigned* block) {
  static const unsigned grid_limit[3] = {2147483647u, 65535u, 65535u}, block_limit[3] = {1024u, 1024u, 64u};
  for (int axis = 0; axis < 3; axis++) {
    const char name[2] = {"xyz"[axis], 0};
    if (grid[axis] < 1 || grid[axis] > grid_limit[axis])
      state.error = std::string("grid.") + name + " is " + std::to_string(grid[axis]) + ", CUDA takes 1 to " +
                    std::to_string(grid_limit[axis]);
    if (block[axis] < 1 || block[axis] > block_limit[axis])
      state.error = std::string("block.") + name + " is " + std::to_string(block[axis]) + ", CUDA takes 1 to " +
                    std::to_string(block_limit[axis]);
  }
  if (!state.error.empty()) return;
  if (uint64_t(block[0]) * block[1] * block[2] > MAX_THREADS)
    state.error = "a block of " + std::to_string(uint64_t(block[0]) * block[1] * block[2]) +
                  " threads, CUDA takes 1024 at most";
}

// Run `state.body` with `state.arguments` in every thread of the grid; returns what went wrong, or null.
static const char* run_grid(const unsigned* grid, const unsigned* block, unsigned schedule) {
  state.error.clear();
  state.scheduler.started = true;  // it runs already
  check_geometry(grid, block);
  if (!state.error.empty()) return state.error.c_str();
  state.grid_size = {grid[0], grid[1], grid[2]};
  state.block_size = {block[0], block[1], block[2]};
  state.count = block[0] * block[1] * block[2];
  const uint64_t blocks = uint64_t(grid[0]) * grid[1] * grid[2];
  std::vector<unsigned> order;
  if (blocks <= 1u << 20) order.resize(blocks);  // more are run in order
  random_state = schedule;
  shuffle(order, schedule);
  for (uint64_t i = 0; i < blocks && state.error.empty(); i++) {
    const uint64_t b = order.empty() ? i : order[i];
    state.block_index = {unsigned(b % grid[0]), unsigned(b / grid[0] % grid[1]), unsigned(b / grid[0] / grid[1])};
    run_block(schedule);
  }
  if (state.error.empty()) return nullptr;
  drop_fibers();  // some still stand in the middle of the kernel
  return state.error.c_str();
}

template <class... P, size_t... I>
const char* launch(void (*kernel)(P...), std::index_sequence<I...>, const unsigned* grid, const unsigned* block,
                   void** arguments, unsigned schedule) {
  auto body = [&] { kernel(*static_cast<std::decay_t<P>*>(arguments[I])...); };
  state.arguments = &body;
  state.body = [](void* self) { (*static_cast<decltype(body)*>(self))(); };
  return run_grid(grid, block, schedule);
}
template <class... P>
const char* launch(void (*kernel)(P...), const unsigned* grid, const unsigned* block, void** arguments,
                   unsigned schedule) {
  return launch(kernel, std::index_sequence_for<P...>{}, grid, block, arguments, schedule);
}

template <class T> T exchange(T value, unsigned lane, unsigned mask, Place place) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>, "a shuffle takes up to 8 bytes");
  const unsigned me = state.current, start = me - me % WARP;
  const unsigned slot = state.threads[me].exchanges++ % 2;
  if (!(mask >> (me % WARP) & 1))
    fail(name_of_place(place) + ": " + name_of_thread(me) + " is not in the mask of its own shuffle");
  memcpy(&state.exchange[slot][me], &value, sizeof value);
  wait(Doing::AT_WARP_BARRIER, mask, place);
  const unsigned from = start + lane % WARP;
  if (from >= state.count || !(mask >> (lane % WARP) & 1))
    fail(name_of_place(place) + ": " + name_of_thread(me) + " reads from lane " + std::to_string(lane % WARP) +
         ", which takes no part in the shuffle");
  T result;
  memcpy(&result, &state.exchange[slot][from], sizeof result);
  return result;
}

}  // namespace cuda_on_host

#define threadIdx (cuda_on_host::state.thread_index)
#define blockIdx (cuda_on_host::state.block_index)
#define blockDim (cuda_on_host::state.block_size)
#define gridDim (cuda_on_host::state.grid_size)

#define CUDA_ON_HOST_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()
inline void __syncthreads(CUDA_ON_HOST_HERE) {
  cuda_on_host::wait(cuda_on_host::Doing::AT_BLOCK_BARRIER, 0, {file, line});
}
inline void __syncwarp(unsigned mask = 0xFFFFFFFFu, CUDA_ON_HOST_HERE) {
  cuda_on_host::wait(cuda_on_host::Doing::AT_WARP_BARRIER, mask, {file, line});
}
template <class T> T __shfl_xor_sync(unsigned mask, T value, int lanes, int = 32, CUDA_ON_HOST_HERE) {
  return cuda_on_host::exchange(value, (cuda_on_host::state.current % 32) ^ unsigned(lanes), mask, {file, line});
}
template <class T> T __shfl_sync(unsigned mask, T value, int lane, int = 32, CUDA_ON_HOST_HERE) {
  return cuda_on_host::exchange(value, unsigned(lane), mask, {file, line});
}

// An array in shared memory; in CUDA a plain `__shared__ T name[size]`. The static names the array, once an instance.
#define SHARED_ARRAY(T, name, size)                                                                \
  static const char cuda_on_host_key_##name = 0;                                                   \
  const cuda_on_host::SharedArray<T> name(#name, size, &cuda_on_host_key_##name, {__FILE__, __LINE__})

// The two C functions through which Python sees kernel number `number` of a module.
#define CUDA_ON_HOST_KERNEL(number, ...)                                                                    \
  extern "C" __attribute__((visibility("default"))) const char* describe_##number() {                       \
    return cuda_on_host::describe(&::__VA_ARGS__);                                                            \
  }                                                                                                         \
  extern "C" __attribute__((visibility("default"))) const char* launch_##number(                            \
      const unsigned* grid, const unsigned* block, void** arguments, unsigned schedule) {                   \
    return cuda_on_host::launch(&::__VA_ARGS__, grid, block, arguments, schedule);                            \
  }
