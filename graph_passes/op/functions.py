"""The op as ONNX function bodies, written in ONNX's own text syntax.

Everything is fp32 inside. Non-finite Gram entries switch the perturbation off (U = 0) instead of
spreading, so the op never makes a NaN of an input that had none. The dense product mixes all channels
of a position, so it is left to maps without NaN or infinity: the Gram matrix tells, except for rows
that it did not see.

Conditions on attributes are written as `If` on constants: runtimes fold them when they load the
model, so that what is switched off costs nothing.
"""

from __future__ import annotations

import onnx
import onnx.parser

from kdguard.graph_passes.op.attributes import DOMAIN, PERTURB, PROJECTOR, RESTORE, VERSION
from kdguard.graph_passes.op.conventions import UNDO_SHARE
from kdguard.graph_passes.op.projector import top_k_projector
from kdguard.graph_passes.op.snippets import TINY, finite_or_zero, reduce
from kdguard.graph_passes.op.thin_products import thin_products

MIN_OPSET = 15
"""CastLike, which lets one body serve fp32, fp16 and bf16, appeared in opset 15."""

DENSE_CHANNELS = 96
"""Up to here one product with I + (h - 1) U U^T is faster than two thin ones and an addition,
which are bound by memory: 2.1 ms against 5.0 ms on a 64 x 256 x 256 map."""

_SIGNATURE_ATTRIBUTES = (
    "rank: int = 4, gain: float = 1.0, centred: int = 0, adaptive: float = 0.0, "
    "modulation: int = 0, pattern: floats = [0.0], coherence: float = 0.0, stride: int = 1, shared: int = 1, "
    'plugin_namespace: string = ""'
)

_STRENGTH = """
        upper = Clip (one, , strength)
        applied = Clip (upper, zero)
"""
"""strength in [0, 1], 1 where the input is left out: Clip's own bounds are optional inputs."""


def _constants() -> str:
    return f"""
        axis_1 = Constant <value_ints = [1]> ()
        axis_2 = Constant <value_ints = [2]> ()
        axis_1_2 = Constant <value_ints = [1, 2]> ()
        last = Constant <value_ints = [-1]> ()
        flat_shape = Constant <value_ints = [0, 0, -1]> ()
        front = Constant <value_ints = [0]> ()
        endless = Constant <value_ints = [9223372036854775807]> ()
        zero = Constant <value_float = 0.0> ()
        one = Constant <value_float = 1.0> ()
        tiny = Constant <value_float = {TINY}> ()
        zero_index = Constant <value_int = 0> ()
        one_index = Constant <value_int = 1> ()
        two_index = Constant <value_int = 2> ()
        rank = Constant <value_int: int = @rank> ()
        gain = Constant <value_float: float = @gain> ()
        adaptive = Constant <value_float: float = @adaptive> ()
        modulation = Constant <value_int: int = @modulation> ()
        pattern = Constant <value_floats: floats = @pattern> ()
        coherence = Constant <value_float: float = @coherence> ()
        centred_switch = Constant <value_int: int = @centred> ()
        stride_index = Constant <value_int: int = @stride> ()
        stride = Unsqueeze (stride_index, front)
        strided = Greater (stride_index, one_index)
        centre = Cast <to = 9> (centred_switch)
        by_spectrum = Greater (adaptive, zero)
        by_tail = Equal (modulation, two_index)
        by_pattern = Equal (modulation, one_index)
        modulated = Cast <to = 9> (modulation)
        capped = Greater (coherence, zero)
        uneven = Or (modulated, capped)
        shared_switch = Constant <value_int: int = @shared> ()
        handed_out = Cast <to = 9> (shared_switch)
        uneven_or_centred = Or (uneven, centre)
        thin = Or (uneven_or_centred, handed_out)
    """


def _subspace(opset: int) -> str:
    """Mean, Gram matrix and singular vectors, from every stride-th row; and the excess gain."""
    return f"""
        sampled = If (strided) <
            then_branch = some_rows () => (float[?, ?, ?] flat_rows)
            {{
                rows = Slice (wide, front, endless, axis_2, stride)
                flat_rows = Reshape (rows, flat_shape)
            }},
            else_branch = every_row () => (float[?, ?, ?] whole_map)
            {{
                whole_map = Identity (flat)
            }}>
        sampled_sizes = Shape (sampled)
        positions_int = Gather (sampled_sizes, two_index)
        positions = Cast <to = 1> (positions_int)
        mean, features = If (centre) <
            then_branch = subtract () => (float[?, ?, 1] mean_of, float[?, ?, ?] less)
            {{
                mean_of = {reduce("ReduceMean", "sampled", 2, opset)}
                less = Sub (sampled, mean_of)
            }},
            else_branch = keep () => (float[?, ?, 1] no_mean, float[?, ?, ?] same)
            {{
                two = Constant <value_ints = [2]> ()
                leading = Slice (sampled_sizes, front, two)
                mean_shape = Concat <axis = 0> (leading, axis_1)
                no_mean = Expand (zero, mean_shape)
                same = Identity (sampled)
            }}>
        features_t = Transpose <perm = [0, 2, 1]> (features)
        products = MatMul (features, features_t)
        G = Div (products, positions)
        U = {DOMAIN}.{PROJECTOR} <rank: int = @rank, plugin_namespace: string = @plugin_namespace> (G)
        U_t = Transpose <perm = [0, 2, 1]> (U)
        channels = Gather (sampled_sizes, one_index)
        index = Range (zero_index, channels, one_index)
        column_index = Unsqueeze (index, last)
        on_diagonal = Equal (column_index, index)
        identity = Cast <to = 1> (on_diagonal)
        plain_excess = Sub (gain, one)
        excess = If (by_spectrum) <
            then_branch = follow () => (float[?, 1, 1] followed)
            {{
                GU = MatMul (G, U)
                top_terms = Mul (U, GU)
                top = {reduce("ReduceSum", "top_terms", (1, 2), opset)}
                own_terms = Mul (G, identity)
                total = {reduce("ReduceSum", "own_terms", (1, 2), opset)}
                half = Constant <value_float = 0.5> ()
                exponent = Mul (adaptive, half)
                safe_top = Max (top, tiny)
                raw_ratio = Div (total, safe_top)
                {finite_or_zero("raw_ratio", "ratio")}
                growth = Pow (ratio, exponent)
                followed = Mul (plain_excess, growth)
            }},
            else_branch = fixed () => (float[?, 1, 1] one_excess)
            {{
                cube = Constant <value_ints = [1, 1, 1]> ()
                one_excess = Reshape (plain_excess, cube)
            }}>
    """


def _svd_perturb(opset: int, exact_change: bool) -> str:
    # Where the output is rounded to 16 bits, the change that really happened is the difference of what
    # was read and written. Taking it back errs by less than 16 bits show, unless the value read is below
    # 1/2048 of the change or the output overflowed: such elements stay as they are. The test leaves room
    # for more than 16 bits in X, because onnxruntime's CPU provider drops roundings between fp16 nodes.
    if exact_change:
        outputs = f"""
        rounded = CastLike (shaped, X)
        written = Cast <to = 1> (rounded)
        happened = Sub (written, wide)
        back = Sub (written, happened)
        error = Sub (back, wide)
        error_size = Abs (error)
        read_size = Abs (wide)
        share = Constant <value_float = {UNDO_SHARE}> ()
        allowed_error = Mul (read_size, share)
        exact = LessOrEqual (error_size, allowed_error)
        change = Where (exact, happened, zero)
        kept = Add (wide, change)
        Y = CastLike (kept, X)"""
    else:
        outputs = """
        change = Reshape (change_flat, change_shape)
        Y = CastLike (shaped, X)"""
    return f"""
    <domain: "{DOMAIN}", opset_import: ["" : {opset}, "{DOMAIN}" : {VERSION}]>
    {PERTURB} <{_SIGNATURE_ATTRIBUTES}> (X, strength) => (Y, change)
    {{
        {_constants()}
        {_STRENGTH}
        wide = Cast <to = 1> (X)
        flat = Reshape (wide, flat_shape)
        {_subspace(opset)}
        shape = Shape (X)
        change_shape = If (thin) <
            then_branch = as_the_map () => (int64[?] whole_shape)
            {{
                whole_shape = Identity (shape)
            }},
            else_branch = single_zero () => (int64[?] one_value)
            {{
                one_value = Identity (axis_1)
            }}>
        moved, change_flat = If (thin) <
            then_branch = by_thin_products () => (float[?, ?, ?] moved_thin, float[?, ?, ?] change_thin)
            {{
                {thin_products(opset)}
            }},
            else_branch = plain () => (float[?, ?, ?] moved_plain, float[?, ?, ?] nothing)
            {{
                limit = Constant <value_int = {DENSE_CHANNELS + 1}> ()
                few = Less (channels, limit)
                watched = If (strided) <
                    then_branch = all_rows () => (float[?, ?, ?] unsampled)
                    {{
                        unsampled = Identity (flat)
                    }},
                    else_branch = gram () => (float[?, ?, ?] squares)
                    {{
                        squares = Identity (G)
                    }}>
                watched_sum = ReduceSum <keepdims = 0> (watched)
                probe = Mul (watched_sum, zero)
                finite = Equal (probe, zero)
                dense = And (few, finite)
                strong = Mul (excess, applied)
                scaled_U = Mul (U, strong)
                cube = Constant <value_ints = [1, 1, 1]> ()
                nothing = Reshape (zero, cube)
                moved_plain = If (dense) <
                    then_branch = one_product () => (float[?, ?, ?] moved_dense)
                    {{
                        extra = MatMul (scaled_U, U_t)
                        amplifier = Add (identity, extra)
                        moved_dense = MatMul (amplifier, flat)
                    }},
                    else_branch = two_products () => (float[?, ?, ?] moved_sum)
                    {{
                        V_plain = MatMul (U_t, flat)
                        {finite_or_zero("V_plain", "V_finite")}
                        change_sum = MatMul (scaled_U, V_finite)
                        moved_sum = Add (flat, change_sum)
                    }}>
            }}>
        shaped = Reshape (moved, shape)
        {outputs}
    }}
    """


def _svd_restore(opset: int) -> str:
    return f"""
    <domain: "{DOMAIN}", opset_import: ["" : {opset}]>
    {RESTORE} <plugin_namespace: string = ""> (Y, change) => (X)
    {{
        wide = Cast <to = 1> (Y)
        restored = Sub (wide, change)
        X = CastLike (restored, Y)
    }}
    """


def op_functions(opset: int, *, exact_change: bool = False) -> list[onnx.FunctionProto]:
    """The three local functions for a model of this opset, inner function first.

    Args:
        opset: version of the standard domain that the model imports, at least `MIN_OPSET`;
            function and model must agree or the full checker rejects the mix.
        exact_change: for fp16 and bf16: compute the change from what was written and leave alone the
            few elements where that cannot be undone, so that restoring is exact bit for bit. It costs
            some passes over the map.
    """
    if opset < MIN_OPSET:
        raise ValueError(f"opset {opset} is below {MIN_OPSET}")
    texts = (top_k_projector(opset), _svd_perturb(opset, exact_change), _svd_restore(opset))
    return [onnx.parser.parse_function(text) for text in texts]
