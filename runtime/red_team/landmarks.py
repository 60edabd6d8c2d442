"""What students are to be compared with: the input as it is, the clean teacher and the hardened one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from pydantic import BaseModel, Field, ValidationError

from kdguard.export.files import write_json
from kdguard.export.image_pairs import ImagePair
from kdguard.export.model_card import ModelCard
from kdguard.export.tasks import Image, get_task
from kdguard.runtime.fidelity import Quality, measure_fidelity
from kdguard.runtime.metrics import psnr, ssim
from kdguard.runtime.red_team.bound import pooled_db
from kdguard.runtime.red_team.code_hash import hash_code
from kdguard.runtime.red_team.teacher_cache import asked_by
from kdguard.runtime.shipped import Shipped, start
from kdguard.runtime.terminal import progress_bar


class Landmarks(BaseModel):
    """On the test images."""

    degraded: Quality = Field(description="the input as it is; enlarged bicubically where the model enlarges")
    clean: Quality = Field(description="the clean teacher")
    hardened: Quality
    outputs_apart_db: float = Field(description="PSNR between the two teachers' outputs, errors pooled over the images")
    failures: list[str] = Field(description="gates of `kdguard verify` that the hardened model fails here")


def measure_landmarks(
    models: tuple[onnx.ModelProto, Shipped], card: ModelCard, pairs: Sequence[ImagePair]
) -> Landmarks:
    """Run the clean and the hardened model over the test images.

    Raises:
        UserError: a model fails on an image, or restores it to another size than the clean one's.
    """
    task = get_task(card.task)
    sessions = [start(model, card) for model in models]
    with progress_bar("scoring both teachers", len(pairs)) as advance:
        fidelity, restored = measure_fidelity(sessions[0], sessions[1], list(pairs), card.task, on_image=advance)
    inputs = [enlarged(pair.degraded, card.scale) for pair in pairs]
    scored = list(zip(inputs, pairs, strict=True))
    apart = [psnr(np.nan_to_num(r.hardened), r.teacher.clip(0, 1), task, card.scale) for r in restored]
    return Landmarks(
        degraded=Quality(
            psnr=float(np.mean([psnr(image, pair.clean, task, card.scale) for image, pair in scored])),
            ssim=float(np.mean([ssim(image, pair.clean, task, card.scale) for image, pair in scored])),
        ),
        clean=fidelity.teacher,
        hardened=fidelity.hardened,
        outputs_apart_db=pooled_db(apart),
        failures=fidelity.failures(),
    )


def kept_landmarks(
    models: tuple[onnx.ModelProto, Shipped],
    card: ModelCard,
    pairs: Sequence[ImagePair],
    identity: Sequence[str],
    folder: Path,
) -> Landmarks:
    """As `measure_landmarks`; measured once per folder.

    Args:
        identity: hashes of both models and of the pairs.
    """
    key = repr((*identity, card.model_dump_json(), hash_code(__name__), *asked_by()))
    path = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}-landmarks.json"
    try:
        return Landmarks.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        found = measure_landmarks(models, card, pairs)
    write_json(path, found.model_dump())
    return found


def enlarged(degraded: Image, scale: int) -> Image:
    """[H, W, C] to [H * scale, W * scale, C], bicubic."""
    import torch

    if scale == 1:
        return degraded
    tensor = torch.from_numpy(np.ascontiguousarray(degraded.transpose(2, 0, 1)[None]))
    larger = torch.nn.functional.interpolate(tensor, scale_factor=scale, mode="bicubic", align_corners=False)
    return larger[0].numpy().transpose(1, 2, 0)
