"""What known attacks on the key gate's hash cost, in bits, by the usual estimates; nothing is attacked.

    python benchmarks/key_gate_hardness.py > benchmarks/results/key_gate_hardness.json

The problem: given A [n, m] and key A mod q, find a key in {0, 1}^n. Costs are base-2 logarithms of operations; memory
and polynomial factors count for nothing, in the attacker's favour.
"""

from __future__ import annotations

from math import comb, e, log, log2, pi, sqrt

from output import write_results

from kdguard.graph_passes.key_gate.keys import SECRET_BYTES
from kdguard.graph_passes.key_gate.lattice_hash import KEY_BITS, MODULUS, RESIDUES

CLASSICAL, QUANTUM = 0.292, 0.2570
"""Exponents of sieving per block dimension: Becker, Ducas, Gama, Laarhoven 2016; Chailloux, Loyer 2021."""


def log_delta(block: int) -> float:
    """Natural logarithm of the root Hermite factor that BKZ with this block size reaches (Chen 2013)."""
    return log((pi * block) ** (1 / block) * block / (2 * pi * e)) / (2 * (block - 1))


def block_size(unknown: int) -> int | None:
    """Smallest block that finds the key by Kannan's embedding, where all but `unknown` bits were guessed.

    Centred, the key has norm sqrt(unknown) / 2; the lattice has dimension unknown + 1 and volume q^m. The condition is
    that of Alkim, Ducas, Poeppelmann, Schwabe 2016. None: not even one block of the whole dimension does.
    """
    dimension = unknown + 1
    volume = RESIDUES * log(MODULUS) / dimension
    for block in range(50, dimension + 1):
        if 0.5 * log(block) + log(0.5) <= (2 * block - dimension - 1) * log_delta(block) + volume:
            return block
    return None


def lattice(exponent: float, per_guess: float) -> dict[str, float]:
    """The cheapest number of guessed bits.

    Args:
        per_guess: cost of a guessed bit, in bits; 0.5 stands for meeting in the middle, or Grover.
    """
    best: dict[str, float] = {}
    for guessed in range(0, KEY_BITS - 100, 4):
        block = block_size(KEY_BITS - guessed)
        if block is None:
            continue
        bits = per_guess * guessed + exponent * block
        if not best or bits < best["bits"]:
            best = {"bits": round(bits, 1), "guessed": guessed, "block": block}
    return best


def groebner() -> dict[str, float]:
    """Linear equations used up, x^2 = x is left: n quadratic equations in n - m unknowns, taken as semi-regular."""
    unknown, degree = KEY_BITS - RESIDUES, 0
    while coefficient(unknown, degree) > 0:
        degree += 1
    return {"degree": degree, "bits": round(2 * log2(comb(unknown + degree, degree)), 1)}


def coefficient(unknown: int, degree: int) -> int:
    """Of t^degree in (1 - t^2)^n / (1 - t)^unknown."""
    return sum(
        (-1) ** i * comb(KEY_BITS, i) * comb(unknown + degree - 2 * i - 1, degree - 2 * i)
        for i in range(degree // 2 + 1)
    )


def main() -> None:
    digest_bits = RESIDUES * log2(MODULUS)
    write_results(
        what="parameters of the key gate's hash, and base-2 logarithms of what known attacks cost",
        parameters={"n": KEY_BITS, "m": RESIDUES, "q": MODULUS, "secret_bits": 8 * SECRET_BYTES},
        counting={
            "digest_bits": round(digest_bits, 1),
            "density": round(KEY_BITS / digest_bits, 3),
            "other_keys_per_digest_log2": round(KEY_BITS - digest_bits, 1),
            "random_key_opens_64_digests_log2": round(6 - digest_bits, 1),
            "centred_key_norm": sqrt(KEY_BITS) / 2,
            "gaussian_heuristic": round(
                sqrt((KEY_BITS + 1) / (2 * pi * e)) * MODULUS ** (RESIDUES / (KEY_BITS + 1)), 2
            ),
        },
        results=[{"attack": name, **cost} for name, cost in attacks().items()],
    )


def attacks() -> dict[str, dict[str, float]]:
    return {
        "guessing the secret": {"bits": 8.0 * SECRET_BYTES},
        "guessing the secret, Grover": {"bits": 4.0 * SECRET_BYTES},
        "subset sum, Bonnetain and others 2020": {"bits": round(0.283 * KEY_BITS, 1)},
        "subset sum, the same, quantum": {"bits": round(0.216 * KEY_BITS, 1)},
        "lattice": lattice(CLASSICAL, 1.0),
        "lattice, guesses met in the middle": lattice(CLASSICAL, 0.5),
        "lattice, quantum sieve and search": lattice(QUANTUM, 0.5),
        "Groebner bases": groebner(),
    }


if __name__ == "__main__":
    main()
