"""What the file of a loss does with its value."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterable, Iterator

from stillroom.diagnose.syntax import called_name, is_square, last_name


@functools.lru_cache(maxsize=8)
def multiplies_by_square(source: str, name: str) -> bool:
    """Whether a file that calls a loss multiplies its value by a square, as τ² outside the function that lacks it.

    Args:
        source: the file's text.
        name: the function or class; an instance is known by the variable that it is bound to.

    >>> multiplies_by_square("kd = soft(z, t, T)\\nloss = ce + alpha * T**2 * kd", "soft")
    True
    >>> multiplies_by_square("self.soft = Soft(T)\\nloss = self.soft(z, t) * (T * T)", "Soft")
    True
    >>> multiplies_by_square("loss = T * soft(z, t, T)", "soft")
    False
    >>> multiplies_by_square("def one():\\n    x = soft(z, t)\\ndef two(x):\\n    return x * w**2", "soft")
    False
    """
    try:
        tree = ast.parse(source)
    except SyntaxError:
        return False
    called = {name} | {bound for bound, value in _assigned(ast.walk(tree)) if called_name(value) == name}
    for scope in [tree, *(node for node in ast.walk(tree) if isinstance(node, _FUNCTIONS))]:
        nodes = list(_own(scope))
        values = {bound for bound, value in _assigned(nodes) if called_name(value) in called}
        for node in nodes:
            factors = list(_factors(node))
            if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Mult):
                factors = [node.target, *_factors(node.value)]
            if any(called_name(each) in called or last_name(each) in values for each in factors) and _has_square(
                factors
            ):
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
