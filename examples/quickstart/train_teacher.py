"""Train the quickstart's teacher and write teacher.safetensors and training_log.jsonl.

    python examples/quickstart/train_teacher.py

Seeded; sees the training regions only. The calibration regions are scored for the log and
decide nothing: the last weights are the ones that ship.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import photographs
import torch
from safetensors.torch import save_file
from teacher import derain_edsr
from torch.nn.functional import l1_loss, mse_loss

from kdguard.export.tasks import get_task

HERE = Path(__file__).parent
PATCH, BATCH, SEED = 64, 8, 2026


def to_tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def batch(images: list[np.ndarray], rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Random patches with fresh rain, flipped left to right half of the time."""
    task, pairs = get_task("deraining"), []
    for _ in range(BATCH):
        image = images[rng.integers(len(images))]
        top, left = (rng.integers(side - PATCH + 1) for side in image.shape[:2])
        clean = image[top : top + PATCH, left : left + PATCH]
        if rng.random() < 0.5:
            clean = clean[:, ::-1]
        pairs.append((to_tensor(task.degrade(clean, rng)), to_tensor(clean)))
    degraded, clean = zip(*pairs, strict=True)
    return torch.stack(degraded), torch.stack(clean)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--out", type=Path, default=HERE)
    args = parser.parse_args()

    torch.manual_seed(SEED)
    rng = np.random.default_rng(SEED)
    train = [photographs.region(n, "train").astype(np.float32) / 255 for n in photographs.PHOTOGRAPHS]
    held = [photographs.region(n, "calibration").astype(np.float32) / 255 for n in photographs.PHOTOGRAPHS]
    held_rng = np.random.default_rng(SEED + 1)
    held_pairs = [(get_task("deraining").degrade(image, held_rng), image) for image in held]

    model = derain_edsr()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=1e-3, total_steps=args.steps, pct_start=0.05)
    log, started, losses = [], time.time(), []
    for step in range(1, args.steps + 1):
        degraded, clean = batch(train, rng)
        loss = l1_loss(model(degraded), clean)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
        if step % 250 == 0 or step == args.steps:
            with torch.no_grad():
                errors = [
                    mse_loss(model(to_tensor(d)[None]).clamp(0, 1)[0], to_tensor(c)).item() for d, c in held_pairs
                ]
            entry = {
                "step": step,
                "train_l1": round(float(np.mean(losses)), 6),
                "calibration_psnr_db": round(float(np.mean(-10 * np.log10(errors))), 3),
                "seconds": round(time.time() - started),
            }
            losses = []
            log.append(entry)
            print(json.dumps(entry), flush=True)
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(weights, args.out / "teacher.safetensors")
    (args.out / "training_log.jsonl").write_text("".join(json.dumps(e) + "\n" for e in log))


if __name__ == "__main__":
    main()
