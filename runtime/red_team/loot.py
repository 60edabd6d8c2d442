"""What the thief gets hold of: the tensors he reads, and the model's answers to his tiles."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import onnx

from kdguard.export.errors import UserError
from kdguard.export.image_tensor import image_to_tensor
from kdguard.export.model_card import ModelCard
from kdguard.graph_passes.inventory import hardened_layers
from kdguard.runtime.engines.session import Engine
from kdguard.runtime.image_session import ImageSession
from kdguard.runtime.recipes.base import ENGINE_HIDES, Loot, Recipe, Source
from kdguard.runtime.red_team.code_hash import hash_code, modules_of
from kdguard.runtime.red_team.material import Material, Tiles
from kdguard.runtime.red_team.pieces import Pieces
from kdguard.runtime.red_team.teacher_cache import OUTPUT, SPREAD, Answers, SessionOpener, TeacherCache, asked_by
from kdguard.runtime.session import RestorationSession, check_taps
from kdguard.runtime.shipped import Shipped, layers_of, start

Edit = Callable[[Loot], onnx.ModelProto]
Views = Callable[[Loot], tuple[int, ...]]

LOOK_BACK = 48
"""Tensors before the tap that are looked at for a second one."""


def resolve_tap(wanted: str | None, teacher: onnx.ModelProto, hardened: Shipped) -> str | None:
    """The tensor to read, present in both models: an attacker cannot tap what is not there.

    Args:
        wanted: what the user asks for; None takes the last layer that misleads.

    Returns:
        Its name; None where none was asked for and the hardened model is an engine, which hides all.

    Raises:
        UserError: no such tensor, or nothing hardened to take.
    """
    if isinstance(hardened, Engine):
        if wanted is None:
            return None
        raise UserError(f"--tap {wanted}: {ENGINE_HIDES}")
    layers = hardened_layers(hardened)
    if wanted is None and not layers:
        raise UserError("the hardened model has no hardened layer to tap; name one with --tap")
    # A compensated layer moves little; what misleads an attacker is a paired one, where there is one.
    misleading = [layer for layer in layers if layer.placement == "paired"] or layers
    tap = misleading[-1].layer if wanted is None else wanted
    check_taps([tap], teacher, "teacher")
    check_taps([tap], hardened, "hardened model")
    return tap


def find_earlier_tap(tap: str, teacher: Shipped, hardened: Shipped, card: ModelCard, tile: np.ndarray) -> str | None:
    """A map of the tap's height and width that comes before it in both models, hardened ones first; or None.

    Args:
        tile: [H, W, C], to see the maps' sizes on.
    """
    if isinstance(teacher, Engine) or isinstance(hardened, Engine):
        return None
    there = {name for node in hardened.graph.node for name in node.output}
    order = [name for node in teacher.graph.node for name in node.output if name]
    before = [name for name in order[: order.index(tap)] if name in there][-LOOK_BACK:]
    layers = [layer.layer for layer in hardened_layers(hardened) if layer.placement == "paired"]
    before.reverse()
    candidates = sorted(before, key=lambda name: name not in layers)
    session = RestorationSession(teacher, card, taps=[tap, *candidates])
    wanted, *others = session.run(image_to_tensor(tile, card))[1:]
    session.release()
    for name, values in zip(candidates, others, strict=True):
        if values.ndim == 4 and values.shape[2:] == wanted.shape[2:]:
            return name
    return None


class Thief:
    """Asks one model what recipes want to know, each thing once."""

    def __init__(self, loot: Loot, source: Source, cache: TeacherCache, model_hash: str) -> None:
        self._loot, self._source, self._cache, self._model_hash = loot, source, cache, model_hash
        self._hardened = bool(layers_of(loot.shipped))

    def material_for(self, recipe: Recipe, pieces: Pieces, tiles: Tiles) -> Material:
        """The recipe's material, from the cache where the answers are there.

        Outputs are those of the file as shipped; an edited one is read for its maps only.

        Raises:
            NothingToWorkWithError: this model has not what the recipe takes.
            UserError: the model fails on a tile.
        """
        query = recipe.query(self._loot)
        if not self._hardened:
            # There is nothing to strip, refit or substitute in the clean file.
            query = replace(query, edit=None, edit_name="")
        what = f"asking the {self._source} model ({recipe.name})"
        asked = [*pieces.train, *pieces.validation]
        plain = (self._model_hash, tiles.identity, self._loot.card.model_dump_json(), *asked_by())
        code = hash_code(*modules_of(type(recipe)))
        # Whoever holds the file asks the file: what he edits gives him maps, and its outputs would be worse.
        whole = query.edit is None and query.views is None
        of_views = (*plain, "views", recipe.name, code) if query.views else plain
        outputs = (OUTPUT, SPREAD) if query.spread else (OUTPUT,)
        tensors = (*outputs, *query.taps) if whole else outputs
        output, *rest = self._cache.ask(of_views, asked, tensors, self._opener(None, query.views), what)
        spread = rest.pop(0) if query.spread else None
        maps = rest
        if query.taps and not whole:
            edited = (*plain, "edit", query.edit_name, code) if query.edit else plain
            maps = [*self._cache.ask(edited, asked, query.taps, self._opener(query.edit, None), what)]
        answers = Answers(output, tuple(maps), spread)
        if query.rework is not None:
            answers = self._cache.rework(answers, (recipe.name, code), query.rework)
        # The files' names are hashes of all that is in them.
        names = [path.name for path in (answers.output, *answers.maps, answers.spread) if path is not None]
        return Material(tiles, answers, hashlib.sha256(repr((plain, names)).encode()).hexdigest()[:32])

    def _opener(self, edit: Edit | None, views: Views | None) -> SessionOpener:
        """Opens the file as it is shipped or edited, to be asked in one view or several."""

        def open_session(taps: Sequence[str]) -> tuple[ImageSession, tuple[int, ...]]:
            shipped = edit(self._loot) if edit else self._loot.shipped
            return start(shipped, self._loot.card, taps=taps), views(self._loot) if views else (0,)

        return open_session
