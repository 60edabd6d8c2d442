"""The op as ONNX function bodies, written in ONNX's own text syntax.

`TopKProjector` replaces the SVD that ONNX lacks. The left singular vectors of F are eigenvectors
of G = F F^T, and the largest one of a symmetric matrix falls out of repeated squaring: G^(2^p)
tends to a multiple of u u^T. Each turn of the loop projects the vectors already found out of G,
squares, takes the column with the largest diagonal entry and makes it orthogonal to its
predecessors; a column that lies among them is rounding noise and becomes zero. Power steps on the
unsquared matrix, as a polish, were measured to change nothing: what error there is comes from the
rounding of G. The projector comes back factored, P = U U^T, because applying U (U^T F) costs 2kCP
multiplications instead of C^2 P.

Everything is fp32 inside. Non-finite Gram entries switch the perturbation off (U = 0) instead of
spreading, so the op never makes a NaN of an input that had none. NaN is taken out of G before
scaling, because runtimes differ on whether ReduceMax ignores it, and once more after, where
infinity was divided by infinity.
"""

from __future__ import annotations

import onnx
import onnx.parser

from kdguard.graph_passes.op.attributes import DOMAIN, PERTURB, PROJECTOR, RESTORE, VERSION

MIN_OPSET = 15
"""CastLike, which lets one body serve fp32, fp16 and bf16, appeared in opset 15."""

AXES_AS_INPUT_SINCE = 18
SQUARINGS = (3, 3, 3, 3, 3)
"""Squarings between two normalisations. Entries start at most 1, so three squarings of a matrix of
C channels stay below C^7: 1e19 for 512 channels, inside fp32. Fifteen in all: the second
eigenvalue is suppressed by (lambda_2 / lambda_1)^32768."""

_TINY = "1e-37"
_SIGNATURE_ATTRIBUTES = (
    "rank: int = 4, gain: float = 1.0, centred: int = 0, adaptive: float = 0.0, "
    "modulation: int = 0, pattern: floats = [0.0], coherence: float = 0.0, "
    'plugin_namespace: string = ""'
)


def _reduce(op: str, tensor: str, axis: int, opset: int) -> str:
    """A reduction that keeps its axis; opset 18 (13 for sums) made `axes` an input."""
    if op == "ReduceSum" or opset >= AXES_AS_INPUT_SINCE:
        return f"{op} <keepdims = 1> ({tensor}, axis_{axis})"
    return f"{op} <keepdims = 1, axes = [{axis}]> ({tensor})"


def _normalised(source: str, target: str, opset: int) -> str:
    """Lines that scale a [N, C, 1] vector to unit length and leave a zero vector zero."""
    return f"""
        {target}_norm = {_reduce("ReduceL2", source, 1, opset)}
        {target}_safe = Max ({target}_norm, tiny)
        {target} = Div ({source}, {target}_safe)
    """


def _rescaled(source: str, target: str, opset: int) -> str:
    """Lines that scale a [N, C, C] matrix so that its largest entry is 1; zero stays zero."""
    return f"""
        {target}_abs = Abs ({source})
        {target}_rows = {_reduce("ReduceMax", f"{target}_abs", 2, opset)}
        {target}_max = {_reduce("ReduceMax", f"{target}_rows", 1, opset)}
        {target}_safe = Max ({target}_max, tiny)
        {target} = Div ({source}, {target}_safe)
    """


def _finite_or_zero(source: str, target: str) -> str:
    """Lines that replace NaN and infinity by 0; infinity times zero is NaN, so one test finds both."""
    return f"""
        {source}_probe = Mul ({source}, zero)
        {source}_unknown = IsNaN ({source}_probe)
        {target} = Where ({source}_unknown, zero, {source})
    """


def _top_k_projector(opset: int) -> str:
    squarings, current = "", "start"
    for group, count in enumerate(SQUARINGS):
        squarings += _rescaled(current, f"s{group}", opset)
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
        last = Constant <value_ints = [-1]> ()
        zero = Constant <value_float = 0.0> ()
        half = Constant <value_float = 0.5> ()
        tiny = Constant <value_float = {_TINY}> ()
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
        {_rescaled("g_known", "g_scaled", opset)}
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
            diagonal = {_reduce("ReduceSum", "masked", 2, opset)}
            largest = ArgMax <axis = 1, keepdims = 1> (diagonal)
            chosen = Equal (column_index, largest)
            selector = Cast <to = 1> (chosen)
            column = MatMul ({current}, selector)
            {_normalised("column", "raw", opset)}
            inside = MatMul (rest, raw)
            {_normalised("inside", "unit", opset)}
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


_STRENGTH = """
        one = Constant <value_float = 1.0> ()
        upper = Clip (one, , strength)
        applied = Clip (upper, zero)
        gain = Constant <value_float: float = @gain> ()
        excess = Sub (gain, one)
        extra = Mul (applied, excess)
"""
"""strength in [0, 1], 1 where the input is left out: Clip's own bounds are optional inputs."""


def _svd_perturb(opset: int) -> str:
    mean = _reduce("ReduceMean", "flat", 2, opset)
    return f"""
    <domain: "{DOMAIN}", opset_import: ["" : {opset}, "{DOMAIN}" : {VERSION}]>
    {PERTURB} <{_SIGNATURE_ATTRIBUTES}> (X, strength) => (Y, U, mean)
    {{
        axis_2 = Constant <value_ints = [2]> ()
        flat_shape = Constant <value_ints = [0, 0, -1]> ()
        zero = Constant <value_float = 0.0> ()
        two_index = Constant <value_int = 2> ()
        centred_switch = Constant <value_int: int = @centred> ()
        centre = Cast <to = 9> (centred_switch)

        wide = Cast <to = 1> (X)
        flat = Reshape (wide, flat_shape)
        sizes = Shape (flat)
        positions_int = Gather (sizes, two_index)
        positions = Cast <to = 1> (positions_int)
        mean, features = If (centre) <
            then_branch = subtract () => (float[?, ?, 1] mean_of, float[?, ?, ?] less)
            {{
                mean_of = {mean}
                less = Sub (flat, mean_of)
            }},
            else_branch = keep () => (float[?, ?, 1] no_mean, float[?, ?, ?] same)
            {{
                front = Constant <value_ints = [0]> ()
                two = Constant <value_ints = [2]> ()
                single = Constant <value_ints = [1]> ()
                leading = Slice (sizes, front, two)
                mean_shape = Concat <axis = 0> (leading, single)
                no_mean = Expand (zero, mean_shape)
                same = Identity (flat)
            }}>
        features_t = Transpose <perm = [0, 2, 1]> (features)
        products = MatMul (features, features_t)
        G = Div (products, positions)
        U = {DOMAIN}.{PROJECTOR} <rank: int = @rank, plugin_namespace: string = @plugin_namespace> (G)
        U_t = Transpose <perm = [0, 2, 1]> (U)
        projected = MatMul (U_t, features)
        {_finite_or_zero("projected", "V")}
        {_STRENGTH}
        scaled_U = Mul (U, extra)
        change = MatMul (scaled_U, V)
        moved = Add (flat, change)
        shape = Shape (X)
        shaped = Reshape (moved, shape)
        Y = CastLike (shaped, X)
    }}
    """


def _svd_restore(opset: int) -> str:
    return f"""
    <domain: "{DOMAIN}", opset_import: ["" : {opset}]>
    {RESTORE} <{_SIGNATURE_ATTRIBUTES}> (Y, U, mean, strength) => (X)
    {{
        flat_shape = Constant <value_ints = [0, 0, -1]> ()
        zero = Constant <value_float = 0.0> ()
        wide = Cast <to = 1> (Y)
        flat = Reshape (wide, flat_shape)
        U_t = Transpose <perm = [0, 2, 1]> (U)
        projected = MatMul (U_t, flat)
        offset = MatMul (U_t, mean)
        less = Sub (projected, offset)
        {_finite_or_zero("less", "V")}
        {_STRENGTH}
        factor = Add (one, extra)
        share = Div (extra, factor)
        scaled_U = Mul (U, share)
        change = MatMul (scaled_U, V)
        moved = Sub (flat, change)
        shape = Shape (Y)
        shaped = Reshape (moved, shape)
        X = CastLike (shaped, Y)
    }}
    """


def op_functions(opset: int) -> list[onnx.FunctionProto]:
    """The three local functions for a model of this opset, inner function first.

    Args:
        opset: version of the standard domain that the model imports, at least `MIN_OPSET`;
            function and model must agree or the full checker rejects the mix.
    """
    if opset < MIN_OPSET:
        raise ValueError(f"opset {opset} is below {MIN_OPSET}")
    texts = (_top_k_projector(opset), _svd_perturb(opset), _svd_restore(opset))
    return [onnx.parser.parse_function(text) for text in texts]
