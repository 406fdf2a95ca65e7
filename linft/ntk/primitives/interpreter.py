"""A traced program run again, with rules of ours for primitives whose derivatives JAX would compute slowly.

Calls of other programs are inlined. All else keeps the derivative that JAX or the user's own code gives it
(`custom_jvp`, `custom_vjp`), so that a primitive without a rule is never wrong. Rules are looked for inside
scans, branches and what is rematerialized, which go on as they were.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
from jax.extend.core import Literal
from jaxtyping import Array

from linft.ntk.primitives import convolution


class PrimitiveRule(NamedTuple):
    """What runs in the place of a primitive."""

    covers: Callable[[Mapping[str, Any]], bool]
    """Whether it does for these parameters of the primitive."""
    run: Callable[..., Array]
    """(parameters, operands …) -> output, with a derivative of its own."""


RULES = {"conv_general_dilated": PrimitiveRule(convolution.covers, convolution.convolution)}
"""By the name of the primitive."""

CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "core_call": "call_jaxpr"}
"""Primitives that only call a program, and the parameter that has it."""
REPEATED = ("scan", "cond", "while", "checkpoint", "remat2")
"""Primitives that run programs in ways of their own."""


def evaluate(program: Any, *operands: Any) -> list[Any]:
    """The outputs of a traced program, closed or without constants."""
    jaxpr, constants = getattr(program, "jaxpr", program), getattr(program, "consts", ())
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*constants, *operands), strict=True))

    def read(variable: Any) -> Any:
        return variable.val if isinstance(variable, Literal) else values[variable]

    for equation in jaxpr.eqns:
        values.update(zip(equation.outvars, _outputs(equation, [read(v) for v in equation.invars]), strict=True))
    return [read(variable) for variable in jaxpr.outvars]


def _outputs(equation: Any, operands: list[Any]) -> list[Any]:
    name, parameters = equation.primitive.name, equation.params
    if name in RULES and RULES[name].covers(parameters):
        return [RULES[name].run(parameters, *operands)]
    if name in CALLS:
        return evaluate(parameters[CALLS[name]], *operands)
    if name in REPEATED:
        parameters = {name: _with_rules(value) for name, value in parameters.items()}
    found = equation.primitive.get_bind_params(parameters)
    functions, named = found if isinstance(found, tuple) else ((), found)  # a dict in newer versions of JAX
    outputs = equation.primitive.bind(*functions, *operands, **named)
    return list(outputs) if equation.primitive.multiple_results else [outputs]


def inside(equation: Any) -> Iterator[Any]:
    """The programs that an equation has among its parameters."""
    for value in equation.params.values():
        for each in value if isinstance(value, tuple | list) else (value,):
            if _is_program(each):
                yield each


def _is_program(value: Any) -> bool:
    return hasattr(getattr(value, "jaxpr", value), "eqns")


def _has_rule(program: Any) -> bool:
    equations = getattr(program, "jaxpr", program).eqns
    return any(e.primitive.name in RULES or any(map(_has_rule, inside(e))) for e in equations)


def _with_rules(value: Any) -> Any:
    """A parameter of an equation: with rules in the programs that it has, traced anew; anything else as it is."""
    if type(value) in (tuple, list):
        return type(value)(map(_with_rules, value))
    if not _is_program(value) or not _has_rule(value):
        return value
    operands = [variable.aval for variable in getattr(value, "jaxpr", value).invars]
    closed = jax.make_jaxpr(partial(evaluate, value))(*operands)
    return closed if hasattr(value, "jaxpr") else closed.jaxpr
