"""What expressions of a user's code say, for those who read it: the audit, and the checks of a loss."""

from __future__ import annotations

import ast


def last_name(node: ast.AST) -> str:
    """The name of a variable, or of an attribute; else empty.

    >>> [last_name(ast.parse(text, mode="eval").body) for text in ("T", "self.T", "T()")]
    ['T', 'T', '']
    """
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def called_name(node: ast.AST) -> str:
    """The name of the function that a call calls; empty where it is no call, or that has no name."""
    return last_name(node.func) if isinstance(node, ast.Call) else ""


def is_square(node: ast.AST) -> bool:
    """Whether an expression squares a number by a power of 2; a product of a number with itself is not looked for.

    >>> texts = "T ** 2", "T.pow(2)", "square(T)", "T * T", "T ** 0.2", "T.pow(0.2)"
    >>> [is_square(ast.parse(text, mode="eval").body) for text in texts]
    [True, True, True, False, False, False]
    """
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        return _is_two(node.right)
    name = called_name(node)
    return name == "square" or (
        isinstance(node, ast.Call) and name in ("pow", "power") and bool(node.args) and _is_two(node.args[-1])
    )


def _is_two(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value == 2
