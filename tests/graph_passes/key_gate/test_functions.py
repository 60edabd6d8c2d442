"""The gate in onnxruntime, without a model behind it: what opens it, and everything that does not."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from kdguard.graph_passes.key_gate import KEY_BITS, KeyDigest, key_tensor
from kdguard.graph_passes.key_gate.functions import gate_functions
from kdguard.graph_passes.key_gate.lattice_hash import lattice_hash, public_matrix
from kdguard.graph_passes.pass_base import full_check_problem
from tests.graph_passes.key_gate.gate_models import GateSession, gate_only, secret

HOLDERS = [secret(0), secret(1), secret(2)]
RIGHT = key_tensor(HOLDERS[1])
SIXTY_FOUR = [secret(number) for number in range(64)]


@pytest.fixture(scope="module")
def gate() -> GateSession:
    return GateSession(gate_only(HOLDERS))


@pytest.mark.parametrize("opset", [15, 16, 17, 18, 19, 20, 21, 22, 23])
def test_every_holder_and_nobody_else(opset: int) -> None:
    model = gate_only(HOLDERS, opset)
    assert full_check_problem(model) is None
    gate = GateSession(model)
    assert [gate.opens(key_tensor(secret(number))) for number in range(5)] == [True, True, True, False, False]


def test_sixty_four_holders() -> None:
    gate = GateSession(gate_only(SIXTY_FOUR))
    assert all(gate.opens(key_tensor(holder)) for holder in SIXTY_FOUR)
    assert not gate.opens(key_tensor(secret(64)))


def test_ten_thousand_random_keys(gate: GateSession) -> None:
    keys = np.random.default_rng(3).integers(0, 2, (10_000, KEY_BITS)).astype(np.float32)
    assert sum(gate.opens(key) for key in keys) == 0
    # None comes near: by chance a digest has 1 of 251 residues right.
    right = (lattice_hash(keys) == lattice_hash(RIGHT)).sum(axis=1)
    assert right.max() < 12


def test_every_change_of_one_bit(gate: GateSession) -> None:
    assert gate.opens(RIGHT)
    for bit in range(KEY_BITS):
        key = RIGHT.copy()
        key[bit] = 1 - key[bit]
        assert not gate.opens(key), bit


def test_changes_of_several_bits(gate: GateSession) -> None:
    rng = np.random.default_rng(4)
    for count in (2, 3, 17, 512, KEY_BITS):
        for _ in range(100):
            key = RIGHT.copy()
            changed = rng.choice(KEY_BITS, count, replace=False)
            key[changed] = 1 - key[changed]
            assert not gate.opens(key)


@pytest.mark.parametrize(
    "key",
    [
        [],
        [0],
        [1],
        np.zeros(KEY_BITS),
        np.ones(KEY_BITS),
        RIGHT[:-1],
        RIGHT[1:],
        np.append(RIGHT, 0),
        np.append(RIGHT, 1),
        np.append(RIGHT, 0.5),
        np.append(0, RIGHT),
        np.tile(RIGHT, 2),
        np.zeros(100_000),
    ],
    ids=lambda key: f"length {len(key)}",
)
def test_wrong_lengths_and_constants(gate: GateSession, key: object) -> None:
    assert not gate.opens(np.asarray(key))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 0.5, -1.0, 2.0, 252.0, 1 + 2**-23, 1e-30, 3e38])
def test_values_that_are_no_bits(gate: GateSession, value: float) -> None:
    for bits in (0, 1):
        key = RIGHT.copy()
        key[np.flatnonzero(bits == RIGHT)[7]] = value
        assert not gate.opens(key)
    assert not gate.opens(np.full(KEY_BITS, value))


def test_minus_zero_is_no_bit(gate: GateSession) -> None:
    key = RIGHT.copy()
    key[np.flatnonzero(RIGHT == 0)[0]] = -0.0
    assert not gate.opens(key)
    assert not gate.opens(-RIGHT)


def test_real_numbers_with_the_right_hash(gate: GateSession) -> None:
    """Linear algebra alone finds such a vector in no time; that it must be binary is what makes it hard."""
    first, second = np.flatnonzero(RIGHT == 1)[:2]
    shifted = RIGHT.copy()
    shifted[[first, second]] += 251.0
    assert not gate.opens(shifted)


@pytest.mark.parametrize("error", [-4, -1, 1, 4])
def test_a_division_that_is_a_little_off_opens_and_shuts_alike(error: int) -> None:
    """As of GPUs that multiply by a reciprocal; a sum that the modulus divides is where it would tell."""
    holder = next(key for key in map(secret, range(100)) if not all(KeyDigest.of(key).residues))

    class Div(OpRun):
        def _run(self, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray]:
            return ((a / b * np.float32(1 + error * 2.0**-23)).astype(np.float32),)

    (function,) = gate_functions(18, hints=False, always=False)
    gate = ReferenceEvaluator(function, new_ops=[Div])
    stored = np.frombuffer(KeyDigest.of(holder).residues, np.uint8)[None]
    fed = {"matrix": public_matrix(), "digests": stored, "strength": np.array(1, np.float32)}
    for key, opens in ((holder, True), (secret(100), False)):
        strength, is_open = gate.run(None, {"key": key_tensor(key), **fed}, attributes={})
        assert (bool(is_open), float(strength)) == (opens, 0.0 if opens else 1.0)


def test_no_key_is_stored() -> None:
    model = gate_only(HOLDERS)
    content = model.SerializeToString()
    for holder in HOLDERS:
        key = key_tensor(holder)
        for form in (holder.value, key.tobytes(), np.packbits(key.astype(np.uint8)).tobytes()):
            assert form not in content


def test_no_step_depends_on_the_key() -> None:
    """The gate has no condition and no loop: one key takes as long as another."""
    (function,) = gate_only(HOLDERS).functions
    assert not {node.op_type for node in function.node} & {"If", "Loop", "Scan"}
    assert isinstance(function, onnx.FunctionProto)
