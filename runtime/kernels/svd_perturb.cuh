// SvdPerturb on a GPU: which kernels run, over which grids, in which part of the scratch memory.
//
// Images are taken in groups, so that scratch memory stays within SCRATCH_FLOATS and grids within what they can be. An
// image's result does not depend on the group that it is in.
#pragma once

#include "device.h"
#include "kernels.cu"

namespace kdguard {

constexpr std::size_t SCRATCH_FLOATS = 32u << 20;  // of a group, about
#if defined(KDGUARD_GROUP_IMAGES)
constexpr long long GROUP_IMAGES = KDGUARD_GROUP_IMAGES;
#else
constexpr long long GROUP_IMAGES = 32768;
#endif
constexpr int RESTORE_THREADS = 256, RESTORE_BLOCKS = 8192;

// Queues kernels until one cannot be queued.
class Launches {
public:
    explicit Launches(device::Stream stream) : stream_(stream) {}

    template <class... Parameters, class... Arguments>
    void operator()(dim3 grid, int threads, std::size_t shared_bytes, void (*kernel)(Parameters...),
                    Arguments&&... arguments) {
        if (status_) return;
        status_ = device::launch(stream_, grid, dim3(threads), shared_bytes, kernel,
                                 std::forward<Arguments>(arguments)...);
    }

    void expect(int status) {
        if (!status_) status_ = status;
    }
    int status() const { return status_; }

private:
    device::Stream stream_;
    int status_ = 0;
};

inline dim3 grid_of(long long blocks, long long images) {
    return dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(images));
}

// What a group of images works in. Parts start at multiples of 64 floats.
struct Scratch {
    std::size_t floats = 0;
    std::size_t partial, mean_sums, mean, gram, vectors, projector, rows, offsets, excess;

    Scratch(const Settings& settings, const MapShape& shape, const GramPlan& plan, std::size_t images) {
        const std::size_t channels = shape.channels, projections = settings.projections();
        partial = take(images * plan.pieces * plan.partial_floats());
        mean_sums = take(settings.centred ? images * channels * plan.mean_pieces : 0);
        mean = take(settings.centred ? images * channels : 0);
        gram = take(images * channels * channels);
        vectors = take(images * channels * settings.rank);
        projector = take(images * projector_workspace(shape.channels, settings.rank));
        rows = take(images * projections * channels);
        offsets = take(images * projections);
        excess = take(images);
    }

private:
    std::size_t take(std::size_t count) {
        const std::size_t start = floats;
        floats += (count + 63) / 64 * 64;
        return start;
    }
};

inline long long images_of_a_group(const Settings& settings, const MapShape& shape, const GramPlan& plan) {
    const std::size_t each = Scratch(settings, shape, plan, 1).floats;
    const long long room = static_cast<long long>(SCRATCH_FLOATS / each);
    const long long most = room < 1 ? 1 : room < GROUP_IMAGES ? room : GROUP_IMAGES;
    return shape.images < most ? shape.images : most;
}

inline bool is_within_limits(const Settings& settings, const MapShape& shape) {
    return shape.channels >= 1 && shape.channels <= MAX_CHANNELS && settings.rank >= 1 && settings.rank <= MAX_RANK &&
           settings.stride >= 1 && (settings.modulation == NO_MODULATION || settings.pattern_size >= 1);
}

template <class Element, int SIDE>
void launch_gram(Launches& launch, const Settings& settings, const MapShape& shape, const GramPlan& plan,
                 const Element* map, const float* mean, float* partial, float* gram) {
    const long long others = plan.pairs() - plan.panels;
    if (SIDE == 64 && gram_fits_mma(shape, settings.stride, mean != nullptr, map)) {
        launch(grid_of(plan.pieces, shape.images), GRAM_THREADS, gram_shared_bytes<true>(64),
               kdguard_gram_mma<Element>, shape, plan, map, partial);
    } else {
        launch(grid_of(plan.pieces * plan.panels, shape.images), GRAM_THREADS, gram_shared_bytes<true>(SIDE),
               kdguard_gram_pieces<Element, SIDE, true>, shape, settings.stride, plan, map, mean, partial);
    }
    if (SIDE == 64 && others > 0) {
        launch(grid_of(plan.pieces * others, shape.images), GRAM_THREADS, gram_shared_bytes<false>(64),
               kdguard_gram_pieces<Element, 64, false>, shape, settings.stride, plan, map, mean, partial);
    }
    launch(grid_of(pieces_of(plan.partial_floats(), GRAM_THREADS), shape.images), GRAM_THREADS, 0,
           kdguard_gram_totals<SIDE>, plan, partial, static_cast<int>(shape.channels), gram);
}

// The Gram matrices of one group, and its means where they are subtracted. mean: null where they are not.
template <class Element>
void launch_gram(Launches& launch, const Settings& settings, const MapShape& shape, const GramPlan& plan,
                 const Element* map, const Scratch& scratch, float* floats, float* gram) {
    const int channels = static_cast<int>(shape.channels);
    float* const mean = settings.centred ? floats + scratch.mean : nullptr;
    if (settings.centred) {
        float* const sums = floats + scratch.mean_sums;
        launch(grid_of(static_cast<long long>(plan.mean_pieces) * channels, shape.images), MEAN_THREADS,
               WARP * sizeof(float), kdguard_channel_sums<Element>, shape, settings.stride, plan, map, sums);
        launch(grid_of(pieces_of(channels, MEAN_THREADS), shape.images), MEAN_THREADS, 0,
               kdguard_channel_means<MEAN_THREADS>, channels, plan, sums, mean);
    }
    float* const partial = floats + scratch.partial;
    switch (plan.side) {
        case 16: return launch_gram<Element, 16>(launch, settings, shape, plan, map, mean, partial, gram);
        case 32: return launch_gram<Element, 32>(launch, settings, shape, plan, map, mean, partial, gram);
        default: return launch_gram<Element, 64>(launch, settings, shape, plan, map, mean, partial, gram);
    }
}

// Threads for which there is a tile in most turns of a squaring.
inline int projector_threads(int channels) {
    const int line = padded(channels) / TILE, tiles = line * (line + 1) / 2;
    const int whole = (tiles + WARP - 1) / WARP * WARP;
    return whole < 2 * WARP ? 2 * WARP : whole < PROJECTOR_THREADS ? whole : PROJECTOR_THREADS;
}

// In shared memory where the device has so much, else in `workspace`: the bits are the same.
inline void launch_projector(Launches& launch, long long images, int channels, int rank, const float* gram,
                             float* vectors, float* workspace) {
    const std::size_t apart = WARP * sizeof(float);
    const std::size_t wanted = apart + projector_workspace(channels, rank) * sizeof(float);
    std::size_t most = device::SHARED_WITHOUT_ASKING;
    if (wanted > most) {
        launch.expect(device::most_shared_bytes(&most));
        // All of it, whatever is wanted: another thread may be about to launch with more.
        if (wanted <= most) launch.expect(device::allow_shared_bytes(kdguard_top_k_projector, most));
    }
    const bool fits = wanted <= most;
    launch(grid_of(images, 1), projector_threads(channels), fits ? wanted : apart, kdguard_top_k_projector, gram,
           vectors, fits ? nullptr : workspace, channels, rank);
}

inline void (*amplify_kernel(const float*))(Settings, const float*, const float*, const float*, const float*,
                                            const float*, const float*, float, long long, int, float*, float*) {
    return kdguard_amplify_float;
}
inline void (*amplify_kernel(const Half*))(Settings, const Half*, const float*, const float*, const float*,
                                           const float*, const float*, float, long long, int, Half*, float*) {
    return kdguard_amplify_half;
}
inline void (*amplify_kernel(const Bfloat16*))(Settings, const Bfloat16*, const float*, const float*, const float*,
                                               const float*, const float*, float, long long, int, Bfloat16*, float*) {
    return kdguard_amplify_bfloat16;
}

template <class Element>
void perturb_group(Launches& launch, const Settings& settings, const MapShape& shape, const GramPlan& plan,
                   const float* strength, float stated, const Element* map, Element* output, float* change,
                   float* floats) {
    const Scratch scratch(settings, shape, plan, shape.images);
    const int channels = static_cast<int>(shape.channels);
    const float* const mean = settings.centred ? floats + scratch.mean : nullptr;
    float* const gram = floats + scratch.gram;
    float* const vectors = floats + scratch.vectors;
    float *rows = floats + scratch.rows, *offsets = floats + scratch.offsets, *excess = floats + scratch.excess;
    launch_gram(launch, settings, shape, plan, map, scratch, floats, gram);
    launch_projector(launch, shape.images, channels, settings.rank, gram, vectors, floats + scratch.projector);
    const std::size_t keyed = static_cast<std::size_t>(TAIL_GROUPS) * settings.rank * settings.rank;
    launch(grid_of(shape.images, 1), 4 * WARP, (WARP + keyed) * sizeof(float), kdguard_prepare_rows, settings, gram,
           vectors, mean, channels, rows, offsets, excess);
    const long long length = shape.positions();
    if (amplifies_held(settings, channels, length, map, output, change)) {
        const auto kernel = channels <= 16   ? kdguard_amplify_held<Element, 16>
                            : channels <= 32 ? kdguard_amplify_held<Element, 32>
                                             : kdguard_amplify_held<Element, HELD_CHANNELS>;
        launch(grid_of(pieces_of(length, 2 * HELD_THREADS), shape.images), HELD_THREADS,
               HELD_RANK * HELD_CHANNELS * sizeof(float), kernel, settings, map, rows, offsets, mean, excess, strength,
               stated, length, channels, output, change);
        return;
    }
    launch(grid_of(pieces_of(length, amplify_positions(channels, settings)), shape.images), AMPLIFY_THREADS,
           amplify_shared_bytes(channels, settings), amplify_kernel(map), settings, map, rows, offsets, mean, excess,
           strength, stated, length, channels, output, change);
}

// Calls `work(group's shape, first element, first image)` for one group of images after the other.
template <class Work>
void in_groups(const MapShape& shape, long long most, Work work) {
    const long long whole = shape.channels * shape.positions();
    for (long long image = 0; image < shape.images; image += most) {
        MapShape group = shape;
        group.images = shape.images - image < most ? shape.images - image : most;
        work(group, image * whole, image);
    }
}

template <class Element>
int svd_perturb(const Settings& settings, const MapShape& shape, const float* strength, float stated,
                const Element* map, Element* output, float* change, float* scratch, device::Stream stream) {
    const GramPlan plan = gram_plan(shape, settings.stride);
    Launches launch(stream);
    in_groups(shape, images_of_a_group(settings, shape, plan), [&](const MapShape& group, long long first, long long) {
        perturb_group(launch, settings, group, plan, strength, stated, map + first, output + first,
                      change == nullptr ? nullptr : change + first, scratch);
    });
    return launch.status();
}

template <class Element>
int gram_matrices(const Settings& settings, const MapShape& shape, const Element* map, float* gram, float* scratch,
                  device::Stream stream) {
    const GramPlan plan = gram_plan(shape, settings.stride);
    Launches launch(stream);
    in_groups(shape, images_of_a_group(settings, shape, plan),
              [&](const MapShape& group, long long first, long long image) {
                  launch_gram(launch, settings, group, plan, map + first, Scratch(settings, group, plan, group.images),
                              scratch, gram + image * shape.channels * shape.channels);
              });
    return launch.status();
}

template <class Element>
int svd_restore(long long count, const Element* perturbed, const float* change, Element* restored,
                device::Stream stream) {
    const long long blocks = pieces_of(count, RESTORE_THREADS);
    Launches launch(stream);
    launch(grid_of(blocks < RESTORE_BLOCKS ? blocks : RESTORE_BLOCKS, 1), RESTORE_THREADS, 0, kdguard_restore<Element>,
           count, perturbed, change, restored);
    return launch.status();
}

}  // namespace kdguard
