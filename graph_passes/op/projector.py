"""`TopKProjector` as ONNX text: the top k eigenvectors of a Gram matrix, without an SVD op.

The left singular vectors of F are eigenvectors of G = F F^T, and the largest one of a positive
semidefinite matrix falls out of repeated squaring: G^(2^p) tends to a multiple of u u^T. Each turn
of the loop projects the vectors already found out of G, squares, takes the column with the largest
diagonal entry and makes it orthogonal to its predecessors; a column that lies among them is
rounding noise and becomes zero. Power steps on the unsquared matrix, as a polish, were measured to
change nothing: what error there is comes from the rounding of G. The projector comes back factored,
P = U U^T, because applying U (U^T F) costs 2kCP multiplications instead of C^2 P.
"""

from __future__ import annotations

from kdguard.graph_passes.op.attributes import DOMAIN, PROJECTOR
from kdguard.graph_passes.op.snippets import TINY, normalised, reduce, rescaled

SQUARINGS = (3, 3, 3, 3, 3)
"""Squarings between two normalisations. Entries start at most 1, so three squarings of a matrix of
C channels stay below C^7: 1e19 for 512 channels, inside fp32. Fifteen in all: the second
eigenvalue is suppressed by (lambda_2 / lambda_1)^32768."""


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
        tiny = Constant <value_float = {TINY}> ()
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

        g_nan = IsNaN (G)
        g_known = Where (g_nan, zero, G)
        {rescaled("g_known", "g_scaled", opset)}
        g_bad = IsNaN (g_scaled)
        gram = Where (g_bad, zero, g_scaled)
        nothing = Mul (gram, zero)

        projector, vectors = Loop (rank, , nothing) <body = one_vector
            (int64 turn, bool go, float[?, ?, ?] found) => (bool go_on, float[?, ?, ?] found_now, float[?, ?, 1] u)
        {{
            go_on = Identity (always)
            rest = Sub (identity, found)
            left = MatMul (rest, gram)
            start = MatMul (left, rest)
            {squarings}
            masked = Mul ({current}, identity)
            diagonal = {reduce("ReduceSum", "masked", 2, opset)}
            largest = ArgMax <axis = 1, keepdims = 1> (diagonal)
            chosen = Equal (column_index, largest)
            selector = Cast <to = 1> (chosen)
            column = MatMul ({current}, selector)
            {normalised("column", "raw", opset)}
            inside = MatMul (rest, raw)
            {normalised("inside", "unit", opset)}
            genuine = Greater (unit_norm, half)
            keep = Cast <to = 1> (genuine)
            u = Mul (unit, keep)
            u_row = Transpose <perm = [0, 2, 1]> (u)
            outer = MatMul (u, u_row)
            found_now = Add (found, outer)
        }}>
        columns = Squeeze (vectors, last)
        U = Transpose <perm = [1, 2, 0]> (columns)
    }}
    """
