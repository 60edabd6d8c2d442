// SvdPerturb and SvdRestore on a CPU: which pieces of work there are, and in which order.
#pragma once

#include "../settings.h"
#include "map.h"

namespace kdguard {

// map, output: X [N, C, rows, run]; change: float of the same shape, or null. The result depends neither on
// the number of threads nor on the order in which they come.
template <class Element>
void perturb(const Parallel&, const Settings&, const MapShape&, float strength, const Element* map, Element* output,
             float* change);

template <class Element>
void restore(const Parallel&, std::int64_t count, const Element* perturbed, const float* change, Element* restored);

// gram [N, C, C] -> vectors [N, C, k].
void project(const Parallel&, std::int64_t images, int channels, int rank, const float* gram, float* vectors);

}  // namespace kdguard
