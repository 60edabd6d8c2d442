"""What a teacher shares with its hardened model is found where it lies, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from kdguard.export import large_models
from kdguard.export.errors import UserError
from kdguard.export.onnx_files import load_onnx, model_files
from kdguard.runtime.box.contents import SealedFile
from kdguard.runtime.box.difference import CHUNK, read_range, shared_pieces, tensor_places
from tests.conftest import make_conv_net
from tests.runtime.box.release import Release, change_weight, harden, make_large_release


def put_together(pieces: SealedFile, file: Path, sources: list[Path]) -> bytes:
    """A file from its pieces, those of the box taken from itself."""
    content, joined = file.read_bytes(), b""
    for piece in pieces.pieces:
        source = content if piece.source is None else sources[piece.source].read_bytes()
        start = len(joined) if piece.source is None else piece.offset
        joined += source[start : start + piece.length]
    return joined


def test_places_are_where_the_bytes_lie(release: Release) -> None:
    content = release.teacher.read_bytes()
    weights = {tensor.name: tensor.raw_data for tensor in load_onnx(release.teacher).graph.initializer}
    places = tensor_places([release.teacher])
    assert places.keys() == weights.keys()
    for name, (file, offset, length) in places.items():
        assert file == 0
        assert content[offset : offset + length] == weights[name]


def test_all_but_the_graph_is_shared_where_no_weight_changed(release: Release) -> None:
    (pieces,) = shared_pieces([release.teacher], [release.hardened])
    assert put_together(pieces, release.teacher, [release.hardened]) == release.teacher.read_bytes()
    largest = max(len(tensor.raw_data) for tensor in load_onnx(release.teacher).graph.initializer)
    assert pieces.sealed_size == pieces.size - largest  # the others are small


def test_a_changed_weight_goes_into_the_box(release: Release, tmp_path: Path) -> None:
    change_weight(release.hardened, tmp_path / "refitted.onnx", "wc")
    before, after = (
        shared_pieces([release.teacher], [path])[0] for path in (release.hardened, tmp_path / "refitted.onnx")
    )
    assert after.sealed_size - before.sealed_size == tensor_places([release.teacher])["wc"].length
    assert put_together(after, release.teacher, [tmp_path / "refitted.onnx"]) == release.teacher.read_bytes()


@pytest.mark.parametrize("outside", [True, False])
def test_weights_in_data_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outside: bool) -> None:
    """The teacher's lie in a data file; the hardened model's in another, or inside its file."""
    monkeypatch.setattr(large_models, "INLINE_LIMIT", 100_000 if outside else 2**28)
    release = make_large_release(tmp_path, 160)
    files, sources = model_files(release.teacher), model_files(release.hardened)
    assert (len(files), len(sources)) == (2, 2 if outside else 1)
    pieces = shared_pieces(files, sources)
    for file, part in zip(files, pieces, strict=True):
        assert put_together(part, file, sources) == file.read_bytes()
    assert pieces[1].sealed_size == 0


def test_weights_that_share_their_bytes_are_copied_once(tmp_path: Path) -> None:
    model = make_conv_net(16)
    path = tmp_path / "t.onnx"
    onnx.save_model(model, str(path), save_as_external_data=True, location="w.bin", size_threshold=0)
    stored = onnx.load_model(str(path), load_external_data=False)
    tied = stored.graph.initializer.add()
    tied.CopyFrom(next(tensor for tensor in stored.graph.initializer if tensor.name == "wc"))
    tied.name = "tied"
    stored.graph.node.append(onnx.helper.make_node("Identity", ["tied"], ["unused"]))
    path.write_bytes(stored.SerializeToString())
    harden(path, tmp_path / "h.onnx")
    for sources in ([tmp_path / "h.onnx"], model_files(path)):
        pieces = shared_pieces(model_files(path), sources)
        for file, part in zip(model_files(path), pieces, strict=True):
            assert put_together(part, file, sources) == file.read_bytes()
        copied = sum(part.size - part.sealed_size for part in pieces)
        assert 0 < copied <= sum(source.stat().st_size for source in sources)


def test_ranges(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(CHUNK + 10))
    assert [len(chunk) for chunk in read_range(tmp_path / "f", 5, CHUNK + 5)] == [CHUNK, 5]
    with pytest.raises(UserError, match="has become shorter"):
        list(read_range(tmp_path / "f", 5, CHUNK + 6))
    with pytest.raises(UserError, match="cannot be read"):
        list(read_range(tmp_path / "absent", 0, 1))
