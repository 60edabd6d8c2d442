"""How exactly paired nodes restore: PSNR of the hardened model against the clean teacher.

    python benchmarks/paired_fidelity.py > benchmarks/results/paired_fidelity.json

The quickstart teacher, and the published teachers below KDGUARD_ZOO (default ../shared/zoo) where
that folder exists. Nodes after three convolutions a quarter, a half and three quarters through
the network, rank 4; scored on real test images.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import onnx
import zoo
from output import write_results

from kdguard.export.image_pairs import load_pairs
from kdguard.export.onnx_files import load_onnx
from kdguard.export.tasks import TASKS, get_task
from kdguard.export.torch_export import export_teacher
from kdguard.export.user_code import import_callable
from kdguard.graph_passes.insert_svd_perturb import InsertSvdPerturb
from kdguard.graph_passes.layers import find_layers
from kdguard.graph_passes.op import SvdPerturbAttributes
from kdguard.runtime.analysis.crops import centre_crops
from kdguard.runtime.fidelity import measure_fidelity
from kdguard.runtime.resolve_card import resolve_card
from kdguard.runtime.session import RestorationSession

GAINS = (10.0, 40.0, 100.0)
IMAGES, SIDE = 4, 192


def measure(name: str, teacher: onnx.ModelProto, task: str, test: Path) -> list[dict[str, object]]:
    card = resolve_card(teacher, task)
    pairs = load_pairs(test, get_task(task), card.channels, card.scale)[:IMAGES]
    pairs = centre_crops(pairs, card, IMAGES, SIDE)
    convolutions = [layer.name for layer in find_layers(teacher) if layer.op_type == "Conv"]
    layers = [convolutions[int(share * (len(convolutions) - 1))] for share in (0.25, 0.5, 0.75)]
    rows = []
    for gain in GAINS:
        hardened = InsertSvdPerturb(layers, SvdPerturbAttributes(gain=gain))(teacher).model
        sessions = RestorationSession(teacher, card), RestorationSession(hardened, card)
        report, _ = measure_fidelity(*sessions, pairs, task)
        rows.append(
            {
                "teacher": name,
                "layers": layers,
                "gain": gain,
                "images": report.n,
                "psnr_between_db": round(report.psnr_between_db, 1),
                "loss_db": round(report.delta_psnr_db, 6),
            }
        )
        print(json.dumps(rows[-1]), file=sys.stderr)
    return rows


def main() -> None:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        quickstart = zoo.ROOT / "examples" / "quickstart"
        path = Path(folder) / "teacher.onnx"
        weights = quickstart / "teacher.safetensors"
        export_teacher("teacher:derain_edsr", weights, path, task="deraining", search_path=quickstart)
        import_callable("photographs:prepare", quickstart)(Path(folder) / "data")
        rows += measure("quickstart", load_onnx(path), "deraining", Path(folder) / "data" / "test")
    for task in TASKS if zoo.ZOO.is_dir() else ():
        rows += measure(task, load_onnx(zoo.ZOO / task / "teacher.onnx"), task, zoo.ZOO / task / "test")
    write_results(
        what="PSNR between hardened and clean teacher, paired placement, rank 4, onnxruntime CPU, fp32",
        results=rows,
    )


if __name__ == "__main__":
    main()
