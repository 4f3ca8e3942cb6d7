"""What the file of a loss does with its value."""

from __future__ import annotations

import ast
import functools
import math
from collections.abc import Iterable, Iterator

from stillroom.diagnose.syntax import called_name, is_square, last_name


@functools.lru_cache(maxsize=8)
def makes_up_for_square(source: str, name: str, tau: float) -> bool:
    """Whether a file that calls a loss multiplies its value by τ², outside the function that lacks it.

    A square of anything does, and so does a number that can only be a weight with τ² in it: above 1, and from half of
    τ² on.

    Args:
        source: the file's text.
        name: the function or class; an instance is known by the variable that it is bound to.
        tau: the loss's temperature.

    >>> makes_up_for_square("kd = soft(z, t, T)\\nloss = ce + alpha * T**2 * kd", "soft", 4)
    True
    >>> makes_up_for_square("self.soft = Soft(T)\\nloss = self.soft(z, t) * (T * T)", "Soft", 4)
    True
    >>> makes_up_for_square("W = 14.4\\nloss = .1 * ce + W * soft(z, t)", "soft", 4)
    True
    >>> makes_up_for_square("loss = .9 * T * soft(z, t, T)", "soft", 4)
    False
    >>> makes_up_for_square("def one():\\n    x = soft(z, t)\\ndef two(x):\\n    return x * w**2", "soft", 4)
    False
    """
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return False
    bound_to = list(_assigned(ast.walk(tree)))
    called = {name} | {bound for bound, value in bound_to if called_name(value) == name}
    numbers = {bound: value.value for bound, value in bound_to if isinstance(value, ast.Constant)}
    for scope in [tree, *(node for node in ast.walk(tree) if isinstance(node, _FUNCTIONS))]:
        nodes = list(_own(scope))
        values = {bound for bound, value in _assigned(nodes) if called_name(value) in called}
        for node in nodes:
            factors = list(_factors(node))
            if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Mult):
                factors = [node.target, *_factors(node.value)]
            if not any(called_name(each) in called or last_name(each) in values for each in factors):
                continue
            known = [each.value if isinstance(each, ast.Constant) else numbers.get(last_name(each)) for each in factors]
            weight = math.prod(each for each in known if isinstance(each, int | float))
            if _has_square(factors) or weight > max(1, tau**2 / 2):
                return True
    return False


_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def _own(scope: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a scope without those of functions inside it: their variables are others."""
    for node in ast.iter_child_nodes(scope):
        yield node
        if not isinstance(node, _FUNCTIONS):
            yield from _own(node)


def _assigned(nodes: Iterable[ast.AST]) -> Iterator[tuple[str, ast.expr]]:
    for node in nodes:
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if bound := last_name(target):
                    yield bound, node.value


def _factors(node: ast.AST) -> Iterator[ast.expr]:
    """What a product is made of; only the thing itself where it is none."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        yield from _factors(node.left)
        yield from _factors(node.right)
    elif isinstance(node, ast.expr):
        yield node


def _has_square(factors: list[ast.expr]) -> bool:
    named = [ast.unparse(each) for each in factors if last_name(each)]
    return any(map(is_square, factors)) or len(named) > len(set(named))
