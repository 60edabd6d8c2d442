"""The gate and the hint as ONNX function bodies, written in ONNX's own text syntax."""

from __future__ import annotations

import onnx
import onnx.parser

from kdguard.graph_passes.key_gate.lattice_hash import KEY_BITS, MODULUS
from kdguard.graph_passes.key_gate.names import GATE, GATE_DOMAIN, GATE_VERSION, HINT, PROJECTOR
from kdguard.graph_passes.op import DOMAIN
from kdguard.graph_passes.op.projector import top_k_projector
from kdguard.graph_passes.op.snippets import AXES_AS_INPUT_SINCE


def _smallest_of_row(tensor: str, opset: int) -> str:
    if opset >= AXES_AS_INPUT_SINCE:
        return f"ReduceMin <keepdims = 0> ({tensor}, last)"
    return f"ReduceMin <keepdims = 0, axes = [-1]> ({tensor})"


def _key_gate(opset: int) -> str:
    """The key's hash compared with every digest; no step is left out for any key.

    What enters the product are comparisons' results, so that no key makes a NaN. The floor is taken half a unit
    above whole numbers: a runtime whose division is off by a few units in the last place still finds it.
    """
    return f"""
    <domain: "{GATE_DOMAIN}", opset_import: ["" : {opset}]>
    {GATE} (key, matrix, digests, strength) => (applied, open)
    {{
        front = Constant <value_ints = [0]> ()
        last = Constant <value_ints = [-1]> ()
        key_bits = Constant <value_ints = [{KEY_BITS}]> ()
        row_shape = Constant <value_ints = [1, {KEY_BITS}]> ()
        zero = Constant <value_float = 0.0> ()
        half = Constant <value_float = 0.5> ()
        one = Constant <value_float = 1.0> ()
        modulus = Constant <value_float = {MODULUS}.0> ()

        length = Shape (key)
        right_length = Equal (length, key_bits)
        filler = Expand (half, key_bits)
        padded = Concat <axis = 0> (key, filler)
        entries = Slice (padded, front, key_bits)
        is_one = Equal (entries, one)
        is_zero = Equal (entries, zero)
        is_bit = Or (is_one, is_zero)
        inverse = Reciprocal (entries)
        not_minus_zero = Greater (inverse, zero)
        is_proper = And (is_bit, not_minus_zero)

        bits = Cast <to = 1> (is_one)
        row = Reshape (bits, row_shape)
        A = Cast <to = 1> (matrix)
        sums = MatMul (row, A)
        shifted = Add (sums, half)
        quotients = Div (shifted, modulus)
        wholes = Floor (quotients)
        multiples = Mul (wholes, modulus)
        residues = Sub (sums, multiples)
        stored = Cast <to = 1> (digests)
        is_same = Equal (residues, stored)

        same = Cast <to = 1> (is_same)
        matches = {_smallest_of_row("same", opset)}
        match = ReduceMax <keepdims = 0> (matches)
        proper = Cast <to = 1> (is_proper)
        all_proper = ReduceMin <keepdims = 0> (proper)
        fitting = Cast <to = 1> (right_length)
        fits = ReduceMin <keepdims = 0> (fitting)
        proper_match = Mul (match, all_proper)
        opened = Mul (proper_match, fits)
        open = Greater (opened, half)
        applied = Where (open, zero, strength)
    }}
    """


def _key_hint(opset: int, always: bool) -> str:
    """V = U^T F, with the sign of each singular vector chosen so that its cubes sum up above zero."""
    components = f"""
                flat_t = Transpose <perm = [0, 2, 1]> (flat)
                products = MatMul (flat, flat_t)
                G = Div (products, positions)
                U = {GATE_DOMAIN}.{PROJECTOR} <rank: int = @rank> (G)
                squares = Mul (U, U)
                cubes = Mul (squares, U)
                skew = ReduceSum <keepdims = 1> (cubes, axis_1)
                leans_down = Less (skew, zero)
                sign = Where (leans_down, minus_one, one)
                turned = Mul (U, sign)
                U_t = Transpose <perm = [0, 2, 1]> (turned)
                projected = MatMul (U_t, flat)
                shown = Reshape (projected, hint_shape)
    """
    if always:
        choice = f"""{components}
        V = Where (open, shown, zero)"""
    else:
        choice = f"""
        V = If (open) <
            then_branch = components () => (shown)
            {{
                {components}
            }},
            else_branch = nothing () => (hidden)
            {{
                empty_shape = Concat <axis = 0> (front, rank, sides)
                hidden = Expand (zero, empty_shape)
            }}>"""
    return f"""
    <domain: "{GATE_DOMAIN}", opset_import: ["" : {opset}, "{GATE_DOMAIN}" : {GATE_VERSION}]>
    {HINT} <rank: int = 4> (X, open) => (V)
    {{
        front = Constant <value_ints = [0]> ()
        axis_1 = Constant <value_ints = [1]> ()
        spatial = Constant <value_ints = [2]> ()
        endless = Constant <value_ints = [9223372036854775807]> ()
        flat_shape = Constant <value_ints = [0, 0, -1]> ()
        positions_index = Constant <value_int = 2> ()
        zero = Constant <value_float = 0.0> ()
        one = Constant <value_float = 1.0> ()
        minus_one = Constant <value_float = -1.0> ()
        rank_index = Constant <value_int: int = @rank> ()
        rank = Unsqueeze (rank_index, front)
        shape = Shape (X)
        batch = Slice (shape, front, axis_1)
        sides = Slice (shape, spatial, endless)
        hint_shape = Concat <axis = 0> (batch, rank, sides)
        wide = Cast <to = 1> (X)
        flat = Reshape (wide, flat_shape)
        flat_sizes = Shape (flat)
        positions_int = Gather (flat_sizes, positions_index)
        positions = Cast <to = 1> (positions_int)
        {choice}
    }}
    """


def gate_functions(opset: int, *, hints: bool, always: bool) -> list[onnx.FunctionProto]:
    """The gate's local functions, inner ones first.

    Args:
        opset: version of the standard domain that the model imports.
        hints: with those of a hint; its projector is a copy of the op's in the gate's domain.
        always: compute hints for every key and hide them afterwards. TensorRT-RTX does not compile a loop inside a
            condition; onnxruntime does, and saves the time where the gate is shut.
    """
    texts = [_key_gate(opset)]
    if hints:
        projector = top_k_projector(opset).replace(f'domain: "{DOMAIN}"', f'domain: "{GATE_DOMAIN}"', 1)
        texts = [texts[0], projector, _key_hint(opset, always)]
    return [onnx.parser.parse_function(text) for text in texts]
