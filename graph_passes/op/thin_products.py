"""`SvdPerturb` by two thin products, as ONNX text: what the modulations, the cap and centring need.

Plain amplification has a cheaper way where there are few channels; see `functions`.
"""

from __future__ import annotations

from kdguard.graph_passes.op.conventions import TAIL_GROUPS
from kdguard.graph_passes.op.snippets import finite_or_zero, reduce


def _components() -> str:
    """Lines for V [N, k, P] and the factor on it less one, `beyond`."""
    groups = ", ".join(f"T{group}" for group in range(1, TAIL_GROUPS + 1))
    return f"""
        V, beyond = If (by_tail) <
            then_branch = tail () => (float[?, ?, ?] V_tail, float[?, ?, ?] signed)
            {{
                parts_count = Constant <value_ints = [{TAIL_GROUPS + 1}]> ()
                tail_groups = Constant <value_int = {TAIL_GROUPS}> ()
                tail_count = Mul (rank, tail_groups)
                weight_count = Mul (tail_count, channels)
                weight_index = Range (zero_index, weight_count, one_index)
                period = Size (pattern)
                wrapped = Mod (weight_index, period)
                weights = Gather (pattern, wrapped)
                count_1 = Unsqueeze (tail_count, front)
                weights_shape = Concat <axis = 0> (axis_1, count_1, last)
                W = Reshape (weights, weights_shape)
                WU = MatMul (W, U)
                W_top = MatMul (WU, U_t)
                W_tail = Sub (W, W_top)
                rows_all = Concat <axis = 1> (U_t, W_tail)
                all_raw = MatMul (rows_all, flat)
                all_offset = MatMul (rows_all, mean)
                all_projected = Sub (all_raw, all_offset)
                rank_1 = Unsqueeze (rank, front)
                parts = Expand (rank_1, parts_count)
                V_tail, {groups} = Split <axis = 1> (all_projected, parts)
                product = Mul (T1, T2)
                either = Max (T3, T4)
                both = Min (product, either)
                flip = Greater (both, zero)
                full = Add (excess, one)
                minus_full = Neg (full)
                flipped = Sub (minus_full, one)
                signed = Where (flip, flipped, excess)
            }},
            else_branch = top_only () => (float[?, ?, ?] V_top, float[?, ?, ?] even)
            {{
                V_raw = MatMul (U_t, flat)
                V_offset = MatMul (U_t, mean)
                V_top = Sub (V_raw, V_offset)
                even = If (by_pattern) <
                    then_branch = keyed () => (float[?, ?, ?] powered)
                    {{
                        flat_sizes = Shape (flat)
                        length = Gather (flat_sizes, two_index)
                        place = Range (zero_index, length, one_index)
                        pattern_length = Size (pattern)
                        place_in_pattern = Mod (place, pattern_length)
                        exponents = Gather (pattern, place_in_pattern)
                        whole = Add (excess, one)
                        raised = Pow (whole, exponents)
                        powered = Sub (raised, one)
                    }},
                    else_branch = level () => (float[?, ?, ?] everywhere)
                    {{
                        everywhere = Identity (excess)
                    }}>
            }}>
    """


def thin_products(opset: int) -> str:
    """Lines for `moved_thin` [N, C, P] and `change_thin`, its difference from the map.

    They read, among the constants, `flat` [N, C, P], `mean` [N, C, 1], `U` [N, C, k], `U_t`, the gain
    less one as `excess` [N or 1, 1, 1], `channels` and `applied`, the clipped strength.
    """
    return f"""
        {_components()}
        Z_full = Mul (V, beyond)
        Z_strong = Mul (Z_full, applied)
        Z_raw = If (capped) <
            then_branch = cap () => (float[?, ?, ?] Z_capped)
            {{
                local = Sub (flat, mean)
                local_norm = {reduce("ReduceL2", "local", 1, opset)}
                allowed = Mul (coherence, local_norm)
                size = {reduce("ReduceL2", "Z_strong", 1, opset)}
                safe_size = Max (size, tiny)
                room = Div (allowed, safe_size)
                kept = Min (room, one)
                Z_capped = Mul (Z_strong, kept)
            }},
            else_branch = free () => (float[?, ?, ?] Z_free)
            {{
                Z_free = Identity (Z_strong)
            }}>
        {finite_or_zero("Z_raw", "Z")}
        change_thin = MatMul (U, Z)
        moved_thin = Add (flat, change_thin)
    """
