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
    if name in FOLLOWED and any(map(_has_rule, inside(equation))):
        return FOLLOWED[name](parameters, operands)
    found = equation.primitive.get_bind_params(parameters)
    functions, named = found if isinstance(found, tuple) else ((), found)  # a dict in newer versions of JAX
    outputs = equation.primitive.bind(*functions, *operands, **named)
    return list(outputs) if equation.primitive.multiple_results else [outputs]


def inside(equation: Any) -> Iterator[Any]:
    """The programs that an equation has among its parameters."""
    for value in equation.params.values():
        for each in value if isinstance(value, tuple | list) else (value,):
            if hasattr(getattr(each, "jaxpr", each), "eqns"):
                yield each


def _has_rule(program: Any) -> bool:
    equations = getattr(program, "jaxpr", program).eqns
    return any(e.primitive.name in RULES or any(map(_has_rule, inside(e))) for e in equations)


def _scanned(parameters: Mapping[str, Any], operands: list[Any]) -> list[Any]:
    held, carried = parameters["num_consts"], parameters["num_carry"]
    constants, start, along = operands[:held], operands[held : held + carried], operands[held + carried :]

    def step(state: list[Any], now: list[Any]) -> tuple[list[Any], list[Any]]:
        outputs = evaluate(parameters["jaxpr"], *constants, *state, *now)
        return outputs[:carried], outputs[carried:]

    how = {name: parameters[name] for name in ("length", "reverse", "unroll")}
    end, stacked = jax.lax.scan(step, start, along, **how)
    return [*end, *stacked]


def _branched(parameters: Mapping[str, Any], operands: list[Any]) -> list[Any]:
    which, *others = operands
    return jax.lax.switch(which, [partial(evaluate, branch) for branch in parameters["branches"]], *others)


def _rematerialized(parameters: Mapping[str, Any], operands: list[Any]) -> list[Any]:
    how = {name: parameters[name] for name in ("prevent_cse", "policy")}
    return jax.checkpoint(partial(evaluate, parameters["jaxpr"]), **how)(*operands)


FOLLOWED = {"scan": _scanned, "cond": _branched, "checkpoint": _rematerialized, "remat2": _rematerialized}
"""(parameters, operands) -> outputs, of primitives that run programs in ways of their own."""
