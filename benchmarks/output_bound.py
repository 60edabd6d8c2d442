"""Does the bound on output-only students hold where its assumptions do?

    python benchmarks/output_bound.py [TASK...] > benchmarks/results/output_bound.json

Students are linear filters on a 9x9 window of the degraded image (a convex set), fitted by least
squares (trained to the end) to the outputs of a clean and of a defended teacher on the zoo's training
photographs. Recorded are how far apart the two students' outputs lie on the very inputs they were
fitted to, as a share of what their teachers' do, and their drop on published test images beside the
bound. Defended versions: the models that benchmarks/zoo_harden.py left in build/zoo, and output noise
and rounding of the strength that costs the teacher 0.1 dB. Below KDGUARD_ZOO, default ../shared/zoo.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

import numpy as np
import onnx
import zoo
from numpy.typing import NDArray
from output import write_results

from kdguard.export.image_pairs import ImagePair
from kdguard.export.model_card import ModelCard
from kdguard.export.onnx_files import load_onnx
from kdguard.export.tasks import get_task
from kdguard.runtime.defences import Subject, get_defence
from kdguard.runtime.defences.calibrate import calibrate
from kdguard.runtime.metrics import psnr
from kdguard.runtime.red_team.bound import drop_bound_db
from kdguard.runtime.red_team.landmarks import measure_landmarks
from kdguard.runtime.red_team.pieces import Scissors
from kdguard.runtime.session import RestorationSession

TAPS = 9
TILES, TILE = 24, 64
TEST_IMAGES = 4
CALIBRATION_IMAGES = 8
BUDGET_DB = 0.1


def windows(image: NDArray[np.float32]) -> NDArray[np.float64]:
    """[H * W, TAPS^2 * C + 1]: what the filter sees at every position, and a one."""
    reach = TAPS // 2
    padded = np.pad(image, [(reach, reach), (reach, reach), (0, 0)], mode="edge")
    seen = np.lib.stride_tricks.sliding_window_view(padded, (TAPS, TAPS), axis=(0, 1))
    flat = seen.reshape(image.shape[0] * image.shape[1], -1).astype(np.float64)
    return np.hstack([flat, np.ones((len(flat), 1))])


def per_pixel(output: NDArray[np.float32], scale: int) -> NDArray[np.float64]:
    """[H * W, scale^2 * C]: what an image of `scale` times the size shows at every input pixel."""
    height, width, channels = output.shape
    blocks = output.reshape(height // scale, scale, width // scale, scale, channels).swapaxes(1, 2)
    return blocks.reshape(height // scale * (width // scale), -1).astype(np.float64)


def as_image(values: NDArray[np.float64], shape: Sequence[int], scale: int) -> NDArray[np.float32]:
    """The other way round; `shape` is the degraded image's."""
    height, width, channels = shape
    blocks = values.reshape(height, width, scale, scale, channels).swapaxes(1, 2)
    return blocks.reshape(height * scale, width * scale, channels).astype(np.float32)


def fit(inputs: NDArray[np.float64], answers: NDArray[np.float64]) -> NDArray[np.float64]:
    """The least-squares filter."""
    return np.linalg.lstsq(inputs, answers, rcond=None)[0]


def rms(values: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(values**2)))


def defended_versions(task: str, model: onnx.ModelProto, card: ModelCard) -> Iterator[tuple[str, onnx.ModelProto]]:
    yield "kdguard harden", zoo.open_hardened(task)[0]
    pairs = zoo.calibration_pairs(task, card, CALIBRATION_IMAGES)
    for name in ("output-noise", "output-rounding"):
        yield name, calibrate(get_defence(name), Subject(model, card, [], pairs, 0), BUDGET_DB).model


def measure(task: str) -> list[dict[str, object]]:
    model, (_, card) = load_onnx(zoo.ZOO / task / "teacher.onnx"), zoo.open_hardened(task)
    scale = card.scale
    tiles = Scissors(zoo.calibration_pairs(task, card), card, TILES, TILE, seed=0).own().train
    test: list[ImagePair] = zoo.test_pairs(task, card)[:TEST_IMAGES]
    inputs = np.concatenate([windows(tile.degraded) for tile in tiles])

    def answers(session: RestorationSession) -> NDArray[np.float64]:
        return np.concatenate([per_pixel(session.restore(tile.degraded), scale) for tile in tiles])

    def score(student: NDArray[np.float64]) -> float:
        images = [as_image(windows(pair.degraded) @ student, pair.degraded.shape, scale) for pair in test]
        scored = zip(images, test, strict=True)
        return float(np.mean([psnr(image, pair.clean, get_task(task), scale) for image, pair in scored]))

    clean_answers = answers(RestorationSession(model, card))
    clean = fit(inputs, clean_answers)
    clean_db, rows = score(clean), []
    for name, defended in defended_versions(task, model, card):
        found = answers(RestorationSession(defended, card))
        student = fit(inputs, found)
        apart = measure_landmarks((model, defended), card, test).outputs_apart_db
        rows.append(
            {
                "task": task,
                "model": name,
                "taps": TAPS,
                "teachers_rms": rms(found - clean_answers),
                "students_rms": rms(inputs @ (student - clean)),
                "clean_db": clean_db,
                "drop_db": clean_db - score(student),
                "teachers_apart_db": apart,
                "bound_db": drop_bound_db(clean_db, apart),
            }
        )
        print(rows[-1], file=sys.stderr)
    return rows


def main() -> None:
    tasks = zoo.tasks(sys.argv[1:])
    write_results(
        tiles=TILES, tile=TILE, test_images=TEST_IMAGES, results=[row for task in tasks for row in measure(task)]
    )


if __name__ == "__main__":
    main()
