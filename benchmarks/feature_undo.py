"""What an attacker recovers of the paired maps that `kdguard harden` perturbs by default.

    python benchmarks/feature_undo.py [TASK...] > benchmarks/results/feature_undo.json

He holds clean and perturbed maps of 50 photographs, fits the best static C x C matrix and a small
1x1 network (two hidden layers of 128) from perturbed to clean, and is scored on published test
images. Errors are relative Frobenius norms of features centred per image and channel: 1 is what
guessing zero gives. Needs the models that benchmarks/zoo_harden.py leaves in build/zoo. The same
layers with plain ASVP (rank 4, gain 10) stand beside them.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
import zoo
from numpy.typing import NDArray
from output import write_results

from kdguard.export.image_pairs import load_pairs
from kdguard.export.image_tensor import image_to_tensor
from kdguard.export.model_card import ModelCard
from kdguard.export.onnx_files import load_onnx
from kdguard.export.tasks import get_task
from kdguard.graph_passes.insert_svd_perturb import InsertSvdPerturb
from kdguard.graph_passes.inventory import hardened_layers
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.runtime.analysis.crops import centre_crops
from kdguard.runtime.resolve_card import resolve_card
from kdguard.runtime.session import RestorationSession

Maps = list[NDArray[np.float32]]
FIT_IMAGES, SIDE = 50, 96
HIDDEN, STEPS, BATCH, SAMPLES = 128, 2000, 2048, 100_000
LAYERS_PER_TEACHER = 3


def maps_of(
    model: onnx.ModelProto, card: ModelCard, layers: Sequence[str], tensors: Sequence[np.ndarray]
) -> dict[str, Maps]:
    """Per layer one [C, P] matrix per image."""
    session = RestorationSession(model, card, taps=layers)
    found: dict[str, Maps] = {layer: [] for layer in layers}
    for tensor in tensors:
        for layer, values in zip(layers, session.run(tensor)[1:], strict=True):
            found[layer].append(values[0].reshape(values.shape[1], -1))
    return found


def centred(maps: Maps) -> NDArray[np.float32]:
    return np.concatenate([F - F.mean(axis=1, keepdims=True) for F in maps], axis=1)


def relative(error: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.linalg.norm(error) / np.linalg.norm(wanted))


def linear_undo(seen: np.ndarray, wanted: np.ndarray, test_seen: np.ndarray, test_wanted: np.ndarray) -> float:
    gram = seen.astype(np.float64) @ seen.T
    ridge = 1e-6 * np.trace(gram) / len(gram) * np.eye(len(gram))
    matrix = np.linalg.solve(gram + ridge, seen.astype(np.float64) @ wanted.T).T
    return relative(test_wanted - matrix @ test_seen, test_wanted)


def network_undo(seen: np.ndarray, wanted: np.ndarray, test_seen: np.ndarray, test_wanted: np.ndarray) -> float:
    torch.manual_seed(0)
    scale_in, scale_out = seen.std(axis=1, keepdims=True) + 1e-9, wanted.std()
    chosen = np.random.default_rng(0).choice(seen.shape[1], min(SAMPLES, seen.shape[1]), replace=False)
    x, y = (torch.from_numpy((a / s).T[chosen].astype(np.float32)) for a, s in ((seen, scale_in), (wanted, scale_out)))
    channels = len(seen)
    network = torch.nn.Sequential(
        torch.nn.Linear(channels, HIDDEN),
        torch.nn.ReLU(),
        torch.nn.Linear(HIDDEN, HIDDEN),
        torch.nn.ReLU(),
        torch.nn.Linear(HIDDEN, channels),
    )
    optimiser = torch.optim.Adam(network.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 3e-3, STEPS)
    for _ in range(STEPS):
        batch = torch.randint(0, len(x), (BATCH,))
        loss = torch.nn.functional.mse_loss(network(x[batch]), y[batch])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        found = network(torch.from_numpy((test_seen / scale_in).T.astype(np.float32))).numpy().T * scale_out
    return relative(test_wanted - found, test_wanted)


def measure(task: str, data: Path) -> list[dict[str, object]]:
    teacher, hardened = load_onnx(zoo.ZOO / task / "teacher.onnx"), load_onnx(zoo.HARDENED / f"{task}.onnx")
    card = resolve_card(hardened, task)
    entries = [entry for entry in hardened_layers(hardened) if entry.placement == "paired"]
    spread = np.linspace(0, len(entries) - 1, min(LAYERS_PER_TEACHER, len(entries))).round().astype(int)
    layers = [entries[index].layer for index in spread]
    train = load_pairs(data, get_task(task), card.channels, card.scale, seed=3)[:FIT_IMAGES]
    test = zoo.test_pairs(task, card)
    fit, held_out = (
        [image_to_tensor(pair.degraded, card) for pair in centre_crops(pairs, card, len(pairs), SIDE)]
        for pairs in (train, test)
    )
    plain = InsertSvdPerturb(layers, SvdPerturbAttributes(rank=4, gain=10.0))(teacher).model
    clean = [maps_of(teacher, card, layers, tensors) for tensors in (fit, held_out)]
    rows = []
    for name, model in (("default", hardened), ("plain ASVP", plain)):
        moved = [maps_of(model, card, layers, tensors) for tensors in (fit, held_out)]
        for layer in layers:
            pairs = list(zip(clean[1][layer], moved[1][layer], strict=True))
            sets = [centred(m[layer]) for m in (moved[0], clean[0], moved[1], clean[1])]
            rows.append(
                {
                    "task": task,
                    "layer": layer,
                    "channels": len(sets[0]),
                    "op": name,
                    "relative_distortion": round(float(np.mean([relative(b - a, a) for a, b in pairs])), 3),
                    "linear_undo_error": round(linear_undo(*sets), 3),
                    "network_undo_error": round(network_undo(*sets), 3),
                    "held_out_images": len(held_out),
                }
            )
            print(json.dumps(rows[-1]), file=sys.stderr)
    return rows


def main() -> None:
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        data = zoo.calibration_folder(Path(scratch))
        for task in zoo.tasks(sys.argv[1:]):
            rows += measure(task, data)
    write_results(
        what="held-out relative error of centred features after the best static C x C undo and after a 1x1 "
        "network, both fitted on 50 images; scored on published test images",
        results=rows,
    )


if __name__ == "__main__":
    main()
