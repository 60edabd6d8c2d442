// How work on a CPU is cut into pieces that threads take.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>

#include "../map_shape.h"

namespace kdguard {

static inline std::int64_t min(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

// Calls `work(piece)` for every piece below `count`, in any order and on any threads.
class Parallel {
public:
    virtual void run(std::size_t count, void (*work)(void*, std::size_t), void* argument) const = 0;

protected:
    ~Parallel() = default;
};

// An exception on another thread would never reach whoever waits for the pieces, who would wait for ever. So it is
// caught there and thrown again here, once all are done.
template <class Work>
void in_parallel(const Parallel& parallel, std::size_t count, Work work) {
    struct Guarded {
        Work& work;
        std::atomic<bool> failed;
        std::exception_ptr failure;
    } guarded{work, {false}, nullptr};
    parallel.run(
        count,
        [](void* argument, std::size_t piece) {
            auto& own = *static_cast<Guarded*>(argument);
            try {
                own.work(piece);
            } catch (...) {
                if (!own.failed.exchange(true)) own.failure = std::current_exception();
            }
        },
        &guarded);
    if (guarded.failure) std::rethrow_exception(guarded.failure);
}

}  // namespace kdguard
