"""What the file of a loss does with its value."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterable, Iterator


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
    called = {name} | {bound for bound, value in _assigned(ast.walk(tree)) if _is_call(value, {name})}
    for scope in [tree, *(node for node in ast.walk(tree) if isinstance(node, _FUNCTIONS))]:
        nodes = list(_own(scope))
        values = {bound for bound, value in _assigned(nodes) if _is_call(value, called)}
        for node in nodes:
            factors = list(_factors(node))
            if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Mult):
                factors = [node.target, *_factors(node.value)]
            if any(_is_call(each, called) or _last(each) in values for each in factors) and _has_square(factors):
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
                if bound := _last(target):
                    yield bound, node.value


def _last(node: ast.AST) -> str:
    """The name of a variable, or of an attribute; else empty."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _is_call(node: ast.AST, names: set[str]) -> bool:
    return isinstance(node, ast.Call) and _last(node.func) in names


def _factors(node: ast.AST) -> Iterator[ast.expr]:
    """What a product is made of; only the thing itself where it is none."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        yield from _factors(node.left)
        yield from _factors(node.right)
    elif isinstance(node, ast.expr):
        yield node


def _has_square(factors: list[ast.expr]) -> bool:
    for each in factors:
        if isinstance(each, ast.BinOp) and isinstance(each.op, ast.Pow):
            if isinstance(each.right, ast.Constant) and each.right.value == 2:
                return True
        elif _is_call(each, {"square"}) or (_is_call(each, {"pow"}) and "2" in ast.unparse(each)):
            return True
    named = [ast.unparse(each) for each in factors if _last(each)]
    return len(named) > len(set(named))
