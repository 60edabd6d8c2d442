from __future__ import annotations

import numpy as np
import pytest

from tests.runtime.torch_graph.agreement import agree, values

MAP = values(2, 3, 5, 7)
OTHER = values(3, 1, 7, seed=1)


@pytest.mark.parametrize("operator", ["Add", "Sub", "Mul", "Div", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"])
def test_two_tensors_broadcast(operator: str) -> None:
    agree(operator, [MAP, OTHER])
    agree(operator, [MAP, np.array(0.5, np.float32)])


@pytest.mark.parametrize("operator", ["Sum", "Min", "Max", "Mean"])
def test_any_number_of_tensors(operator: str) -> None:
    agree(operator, [MAP])
    agree(operator, [MAP, OTHER, np.zeros((7,), np.float32)])


ONE_TENSOR = "Abs Neg Sign Exp Sin Cos Tan Atan Sinh Cosh Floor Ceil Round Reciprocal IsNaN IsInf"


@pytest.mark.parametrize("operator", ONE_TENSOR.split())
def test_one_tensor(operator: str) -> None:
    agree(operator, [MAP])


@pytest.mark.parametrize("operator", ["Sqrt", "Log", "Asin", "Acos"])
def test_one_tensor_on_its_domain(operator: str) -> None:
    agree(operator, [np.abs(MAP) / 5 + np.float32(0.01)])


def test_round_takes_halves_to_even() -> None:
    agree("Round", [np.array([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5], np.float32)])


def test_integer_division_cuts_towards_zero() -> None:
    agree("Div", [np.array([-7, 7, -8, 8]), np.array([2, -2, 3, 3])])


def test_modulo() -> None:
    numbers, by = np.array([-7, 7, -8, 8]), np.array([3, -3, 3, -3])
    agree("Mod", [numbers, by])
    agree("Mod", [numbers, by], fmod=1)
    agree("Mod", [MAP, np.array([0.7], np.float32)], fmod=1)


@pytest.mark.parametrize("exponent", [np.array(2.0), np.array([0.0, 1.0, 3.0]).reshape(3, 1, 1), np.array(3)])
def test_power(exponent: np.ndarray) -> None:
    kind = np.int64 if exponent.dtype.kind == "i" else np.float32
    agree("Pow", [MAP, exponent.astype(kind)])


@pytest.mark.parametrize("operator", ["And", "Or", "Xor"])
def test_logic(operator: str) -> None:
    agree(operator, [MAP > 0, OTHER > 0])


def test_choice() -> None:
    agree("Not", [MAP > 0])
    agree("Equal", [np.array([1, 2, 3]), np.array([1, 0, 3])])
    agree("Where", [MAP > 0, OTHER, np.array(0.25, np.float32)])
