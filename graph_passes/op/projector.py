"""`TopKProjector` as ONNX text: the top k eigenvectors of a Gram matrix, without an SVD op.

The left singular vectors of F are eigenvectors of G = F F^T, and the largest one of a positive
semidefinite matrix falls out of repeated squaring: G^(2^p) tends to a multiple of u u^T. Each turn
of the loop projects the vectors already found out of G, squares, multiplies a fixed vector twice by
the result and makes that orthogonal to its predecessors; what lies among them is rounding noise and
becomes zero. Power steps on the unsquared matrix, as a polish, were measured to
change nothing: what error there is comes from the rounding of G. The projector comes back factored,
P = U U^T, because applying U (U^T F) costs 2kCP multiplications instead of C^2 P.

The matrices are so small that calling a node costs more than what it computes, so every node in the
loop counts. Zero matrices and underflow are left to become NaN, which the last test turns into zero.
"""

from __future__ import annotations

from kdguard.graph_passes.op.attributes import DOMAIN, PROJECTOR
from kdguard.graph_passes.op.snippets import normalised, rescaled

SQUARINGS = (3, 3, 3, 3, 2)
"""Squarings between two divisions by the largest entry. Such a division leaves the largest eigenvalue of C channels
between 1 and C, so that three squarings stay below C^8, 5e21 for 512 channels. The last group is shorter because
the norm of the product behind it squares its entries. The second eigenvalue is suppressed by
(lambda_2 / lambda_1)^32768."""

STEP = 2.4
"""Radians between neighbours of the fixed vector, the golden angle: no eigenvector that a network is likely to
have is orthogonal to it. How small the overlap is does not matter, because of the second multiplication."""


def top_k_projector(opset: int) -> str:
    """The function's text for one opset.

    NaN is taken out of G before scaling, because runtimes differ on whether ReduceMax ignores it,
    and once more after, where infinity was divided by infinity.
    """
    squarings, current = "", "start"
    for group, count in enumerate(SQUARINGS):
        squarings += rescaled(current, f"s{group}", opset)
        current = f"s{group}"
        for turn in range(count):
            squarings += f"{current}_{turn} = MatMul ({current}, {current})\n"
            current = f"{current}_{turn}"
    return f"""
    <domain: "{DOMAIN}", opset_import: ["" : {opset}]>
    {PROJECTOR} <rank: int = 4, plugin_namespace: string = ""> (G) => (U)
    {{
        axis_1 = Constant <value_ints = [1]> ()
        axis_2 = Constant <value_ints = [2]> ()
        axis_1_2 = Constant <value_ints = [1, 2]> ()
        last = Constant <value_ints = [-1]> ()
        zero = Constant <value_float = 0.0> ()
        half = Constant <value_float = 0.5> ()
        step = Constant <value_float = {STEP}> ()
        zero_index = Constant <value_int = 0> ()
        one_index = Constant <value_int = 1> ()
        rank = Constant <value_int: int = @rank> ()
        always = Cast <to = 9> (one_index)

        shape = Shape (G)
        channels = Gather (shape, one_index)
        index = Range (zero_index, channels, one_index)
        column_index = Unsqueeze (index, last)
        on_diagonal = Equal (column_index, index)
        identity = Cast <to = 1> (on_diagonal)
        column_number = Cast <to = 1> (column_index)
        angle = Mul (column_number, step)
        direction = Cos (angle)

        g_nan = IsNaN (G)
        g_known = Where (g_nan, zero, G)
        {rescaled("g_known", "g_raw", opset)}
        g_bad = IsNaN (g_raw)
        gram = Where (g_bad, zero, g_raw)
        nothing = Mul (gram, zero)
        everything = Add (nothing, identity)

        projector, vectors = Loop (rank, , everything) <body = one_vector
            (int64 turn, bool go, float[?, ?, ?] rest) => (bool go_on, float[?, ?, ?] rest_now, float[?, ?, 1] u)
        {{
            go_on = Identity (always)
            left = MatMul (rest, gram)
            start = MatMul (left, rest)
            {squarings}
            product = MatMul ({current}, direction)
            {normalised("product", "once", opset)}
            twice = MatMul ({current}, once)
            {normalised("twice", "raw", opset)}
            inside = MatMul (rest, raw)
            {normalised("inside", "unit", opset)}
            genuine = Greater (unit_norm, half)
            u = Where (genuine, unit, zero)
            u_row = Transpose <perm = [0, 2, 1]> (u)
            outer = MatMul (u, u_row)
            rest_now = Sub (rest, outer)
        }}>
        columns = Squeeze (vectors, last)
        U = Transpose <perm = [1, 2, 0]> (columns)
    }}
    """
