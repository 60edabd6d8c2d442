// Feature maps as the CPU code sees them, and how work is cut into pieces that threads take.
#pragma once

#include <cstddef>
#include <cstdint>

namespace kdguard {

// X [N, C, rows, run]: `rows` is the first spatial axis, whose every stride-th row is looked at, `run` all others.
struct MapShape {
    std::int64_t images, channels, rows, run;

    std::int64_t positions() const { return rows * run; }
};

static inline std::int64_t min(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

// Calls `work(piece)` for every piece below `count`, in any order and on any threads.
class Parallel {
public:
    virtual void run(std::size_t count, void (*work)(void*, std::size_t), void* argument) const = 0;

protected:
    ~Parallel() = default;
};

template <class Work>
void in_parallel(const Parallel& parallel, std::size_t count, Work work) {
    parallel.run(count, [](void* argument, std::size_t piece) { (*static_cast<Work*>(argument))(piece); }, &work);
}

}  // namespace kdguard
