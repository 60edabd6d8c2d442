"""Ridge regression of a convolution onto a perturbed input, in closed form from streamed covariances.

A convolution is linear in the patches of its input: output = A w. With the map perturbed by a gain
of 1 + e, its patches are A(e) = A0 + e A1, where A0 holds the clean map's patches and A1 those of
its top-k part U U^T F. What is wanted is w' with A(e) w' = A0 w, so three covariances, A0'A0,
A0'A1 and A1'A1, answer every gain at once: the best w', what is left over, and what an attacker
gets who deletes the perturbation (A0 w').
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.graph_passes.op.reference import top_singular_vectors_of_gram
from kdguard.graph_passes.refit_consumers import ConvReader

Float64 = NDArray[np.float64]
CHUNK = 8192
"""Patches per product: float32 inside a chunk, float64 between them."""
RIDGE = 1e-7
"""Relative to the mean diagonal; what float32 patches can resolve."""


@dataclass(frozen=True)
class Refit:
    """A convolution's new weights and what they do on the images of the statistics.

    Attributes:
        weight: [O, C / group, kh, kw].
        bias: [O].
        left_over: energy of (new output - clean output) over energy of the clean output.
        stripped: the same where the perturbation is deleted and the new weights stay.
    """

    weight: Float64
    bias: Float64
    left_over: float
    stripped: float


def top_part(F: NDArray[np.float32], attributes: SvdPerturbAttributes) -> NDArray[np.float32]:
    """U U^T (F - mean) of one map [C, H, W], like F: what one unit of extra gain adds."""
    flat, sampled = (part.reshape(len(F), -1) for part in (F, F[:, :: attributes.stride]))
    mean = sampled.mean(axis=1, keepdims=True) if attributes.centred else np.zeros((len(flat), 1), np.float32)
    seen = (sampled - mean).astype(np.float64)
    narrow = top_singular_vectors_of_gram(seen @ seen.T, attributes.rank).astype(np.float32)
    top: NDArray[np.float32] = (narrow @ (narrow.T @ (flat - mean))).reshape(F.shape)
    return top


class RefitStatistics:
    """Covariances of the patches of one map, for all readers of one geometry.

    Attributes:
        patches: how many went in.
    """

    def __init__(self, reader: ConvReader, seed: int = 0) -> None:
        self._reader = reader
        self._sum: Float64 | None = None
        self._rng = np.random.default_rng(seed)
        self.patches = 0

    def add(self, F: NDArray[np.float32], top: NDArray[np.float32], limit: int | None = None) -> None:
        """Take in one image.

        Args:
            F: clean map [C, H, W].
            top: its `top_part`.
            limit: at most this many patches, drawn at random; all by default.
        """
        clean, extra = (_patches(values, self._reader) for values in (F, top))
        count = clean.shape[1] * clean.shape[2]
        chosen = np.arange(count)
        if limit is not None and limit < count:
            chosen = np.sort(self._rng.choice(count, limit, replace=False))
        width = int(np.prod(clean.shape[0:1] + clean.shape[3:])) + 1
        if self._sum is None:
            self._sum = np.zeros((2 * width, 2 * width))
        for start in range(0, len(chosen), CHUNK):
            rows, columns = np.divmod(chosen[start : start + CHUNK], clean.shape[2])
            block = np.zeros((2 * width, len(rows)), np.float32)
            for offset, patches in ((0, clean), (width, extra)):
                picked = patches[:, rows, columns]  # [C, count, kh, kw]
                block[offset : offset + width - 1] = picked.transpose(0, 2, 3, 1).reshape(width - 1, -1)
            block[width - 1] = 1
            self._sum += block @ block.T
        self.patches += len(chosen)

    def refit(self, reader: ConvReader, seen: float, wanted: float = 0.0) -> Refit:
        """The weights that make of the map at one gain what the reader's own make of it at another.

        Args:
            reader: its weights are the old ones.
            seen: excess gain of the map that the new weights will read.
            wanted: excess gain at which the old weights give the output to reproduce; 0 is the clean
                map. A defender sees e and wants 0; an attacker who stripped the node sees 0 and wants e.
        """
        outputs = len(reader.weight) // reader.group
        weights, biases = [], []
        left = stripped = energy = 0.0
        for group in range(reader.group):
            mine = slice(group * outputs, (group + 1) * outputs)
            old = np.concatenate([reader.weight[mine].reshape(outputs, -1), reader.bias[mine, None]], axis=1).T
            normal = self._covariance(reader, group, seen, seen)
            right = self._covariance(reader, group, seen, wanted) @ old
            target_energy = float(np.sum(old * (self._covariance(reader, group, wanted, wanted) @ old)))
            # The ridge pulls towards the old weights, not towards zero: without evidence nothing changes.
            ridge = RIDGE * np.trace(normal) / len(normal)
            new = np.linalg.solve(normal + ridge * np.eye(len(normal)), right + ridge * old)
            left += float(np.sum(new * (normal @ new)) - 2 * np.sum(new * right)) + target_energy
            stripped += float(np.sum((new - old) * (self._covariance(reader, group, 0, 0) @ (new - old))))
            energy += target_energy
            weights.append(new[:-1].T.reshape(reader.weight[mine].shape))
            biases.append(new[-1])
        scale = max(energy, 1e-300)
        return Refit(np.concatenate(weights), np.concatenate(biases), max(left, 0.0) / scale, stripped / scale)

    def _covariance(self, reader: ConvReader, group: int, first: float, second: float) -> Float64:
        """A(first)' A(second) over the input channels of one group, the constant column last."""
        assert self._sum is not None
        width = len(self._sum) // 2
        per_group = reader.weight[0].size
        S00, S01, S11 = (
            self._sum[a * width : (a + 1) * width, b * width : (b + 1) * width] for a, b in ((0, 0), (0, 1), (1, 1))
        )
        mixed = (S00 + second * S01 + first * S01.T + first * second * S11) / self.patches
        if reader.group == 1:
            return mixed
        rows = np.array([*range(group * per_group, (group + 1) * per_group), width - 1])
        return mixed[np.ix_(rows, rows)]


def _patches(values: NDArray[np.float32], reader: ConvReader) -> NDArray[np.float32]:
    """What the convolution sees of [C, H, W], as a view [C, rows, columns, kh, kw] of the padded map."""
    top, left, bottom, right = reader.pads
    padded = np.pad(values, ((0, 0), (top, bottom), (left, right)))
    extents = [(k - 1) * d + 1 for k, d in zip(reader.weight.shape[2:], reader.dilations, strict=True)]
    windows = np.lib.stride_tricks.sliding_window_view(padded, extents, axis=(1, 2))
    (down, across), (dy, dx) = reader.strides, reader.dilations
    return windows[:, ::down, ::across, ::dy, ::dx]
