"""What a script's source says around a line: the loops that it stands in, how often they run, lists of weights."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections import defaultdict, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from stillroom.diagnose.checks.loop.record import NO_KEY
from stillroom.diagnose.syntax import called_name, is_square, last_name

# A line further away belongs to another list.
_NEAR = 2
_ARITHMETIC: Mapping[type[ast.operator], Any] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.FloorDiv: lambda a, b: a // b if b else None,
}


@cache
def source_text(file: str) -> str:
    """What a file holds; empty where it cannot be read."""
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""


@cache
def _tree(file: str) -> ast.Module | None:
    try:
        return ast.parse(source_text(file))
    except (SyntaxError, ValueError):
        return None


@cache
def _nodes_at(tree: ast.Module, line: int) -> tuple[ast.expr | ast.stmt, ...]:
    """The statements and expressions that a line lies in, each before those inside it."""
    found: list[ast.expr | ast.stmt] = []
    waiting: deque[ast.AST] = deque([tree])
    while waiting:
        for node in ast.iter_child_nodes(waiting.popleft()):
            if isinstance(node, ast.expr | ast.stmt):
                if not node.lineno <= line <= (node.end_lineno or node.lineno):
                    continue
                found.append(node)
            waiting.append(node)
    return tuple(found)


@cache
def _loops(file: str, line: int) -> tuple[ast.For, ...]:
    """The ``for`` statements whose body holds a line, within its own function, the innermost first."""
    tree = _tree(file)
    if tree is None:
        return ()
    scopes = (ast.For, ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)
    inside = [node for node in _nodes_at(tree, line) if isinstance(node, scopes)]
    inside.sort(key=lambda node: (node.lineno, -(node.end_lineno or 0)), reverse=True)
    found = []
    for node in inside:
        if not isinstance(node, ast.For):
            break
        if node.body[0].lineno <= line:
            found.append(node)
    return tuple(found)


@dataclass(frozen=True)
class CountedLoop:
    """A ``for … in range(…)`` that encloses a line."""

    key: tuple[str, int]  # its file and line
    count: int  # how often it runs
    value: int | None  # its variable, now; None where that is no number


def counted_loops(frame: Any, depth: int = 12) -> list[CountedLoop]:
    """The ``for … in range(…)`` statements that a frame and its callers stand in, the innermost first.

    Names, attributes of plain objects and entries of mappings are looked up, nothing is called: a length that is
    computed otherwise is not known.
    """
    found = []
    while frame is not None and depth:
        for loop, given in _ranges_at(frame):
            bounds = [_value(each, frame) for each in given.args]
            if bounds and all(isinstance(each, int) and not isinstance(each, bool) for each in bounds):
                count = len(range(*bounds)) if len(bounds) < 3 or bounds[2] else 0
                now = frame.f_locals.get(loop.target.id) if isinstance(loop.target, ast.Name) else None
                key = frame.f_code.co_filename, loop.lineno
                found.append(CountedLoop(key, count, now if isinstance(now, int) else None))
        frame, depth = frame.f_back, depth - 1
    return found


# By a code object and the instruction in it: the line of an instruction costs more to read.
_ranges: dict[tuple[int, int], tuple[Any, tuple[tuple[ast.For, ast.Call], ...]]] = {}


def _ranges_at(frame: Any) -> tuple[tuple[ast.For, ast.Call], ...]:
    """The loops that a frame stands in whose lengths are said by a ``range``, and its call."""
    code = frame.f_code
    key = id(code), frame.f_lasti
    seen = _ranges.get(key)
    if seen is not None and seen[0] is code:
        return seen[1]
    file = code.co_filename
    loops = _loops(file, frame.f_lineno) if file.endswith(".py") else ()
    found = tuple((loop, given) for loop in loops if (given := _range(loop.iter)) is not None)
    if len(_ranges) < 10_000:
        _ranges[key] = code, found
    return found


def overwritten_input(frame: Any, tensor: Any, depth: int = 6) -> str | None:
    """The variable of a frame, or of a caller, that was handed something else, and that now holds a tensor.

    Handed by a parameter or by the loop that the frame stands in, and assigned anew from what is none of these.
    """
    while frame is not None and depth:
        file = frame.f_code.co_filename
        names = _overwritten(file, frame.f_lineno) if file.endswith(".py") else frozenset()
        for name in names:
            variable, _, key = name.partition("[")
            value = frame.f_locals.get(variable)
            if key and isinstance(value, Mapping):
                value = next((each for one, each in value.items() if f"{one!r}]" == key), None)
            if value is tensor:
                return name
        frame, depth = frame.f_back, depth - 1
    return None


@cache
def _overwritten(file: str, line: int) -> frozenset[str]:
    """Variables of the function around a line that hold an input at first, and are assigned anew from another thing."""
    tree = _tree(file)
    if tree is None:
        return frozenset()
    functions = [
        node
        for node in _nodes_at(tree, line)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.body[0].lineno <= line
    ]
    scope: ast.AST = max(functions, key=lambda node: node.lineno, default=tree)
    given: set[str] = set()
    if isinstance(scope, ast.FunctionDef | ast.AsyncFunctionDef):
        given = {each.arg for each in (*scope.args.posonlyargs, *scope.args.args, *scope.args.kwonlyargs)}
    looped = {name for loop in _loops(file, line) for name in _stored(loop.target)}
    assigned = [
        (name, node.value)
        for node in ast.walk(scope)
        if isinstance(node, ast.Assign) and node.lineno <= line
        for target in node.targets
        for name in _stored(target)
    ]
    # What is unpacked from the loop's variable is handed by the loop, too.
    given |= looped | {name for name, value in assigned if _root(value) in looped}
    return frozenset(
        name for name, value in assigned if name.partition("[")[0] in given and _root(value) not in {name, *looped}
    )


def _stored(target: ast.expr) -> list[str]:
    """The variables, and entries of mappings by a constant key, that an assignment stores in."""
    if isinstance(target, ast.Name):
        return [target.id]
    if isinstance(target, ast.Tuple | ast.List):
        return [name for each in target.elts for name in _stored(each)]
    if (
        isinstance(target, ast.Subscript)
        and isinstance(target.value, ast.Name)
        and isinstance(target.slice, ast.Constant)
        and isinstance(target.slice.value, str)
    ):
        return [f"{target.value.id}[{target.slice.value!r}]"]
    return []


def _root(node: ast.expr) -> str | None:
    """The variable that an expression picks from or converts: of ``batch["y"].to(device)`` it is ``batch``."""
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
        if isinstance(node, ast.Call):
            if not isinstance(node.func, ast.Attribute):
                return None
            node = node.func
        node = node.value
    return node.id if isinstance(node, ast.Name) else None


def _range(node: ast.expr) -> ast.Call | None:
    """The call of ``range`` in what a loop runs over, be it inside a progress bar's."""
    if not isinstance(node, ast.Call):
        return None
    if called_name(node) in ("range", "trange"):
        return node if not any(isinstance(each, ast.Starred) for each in node.args) else None
    return next((found for each in node.args[:1] if (found := _range(each)) is not None), None)


def _value(node: ast.expr, frame: Any) -> Any:
    """The value of a plain expression; None where finding it would run code of the user's."""
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        return frame.f_locals.get(node.id, frame.f_globals.get(node.id))
    if isinstance(node, ast.Attribute):
        owner = _value(node.value, frame)
        own = getattr(owner, "__dict__", None)
        if isinstance(own, Mapping) and node.attr in own:
            return own[node.attr]
        plain = [vars(cls)[node.attr] for cls in type(owner).__mro__ if node.attr in vars(cls)]
        return plain[0] if plain and isinstance(plain[0], int) else None
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
        owner = _value(node.value, frame)
        return owner.get(node.slice.value) if type(owner) is dict else None
    if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        left, right = _value(node.left, frame), _value(node.right, frame)
        if isinstance(left, int) and isinstance(right, int):
            return _ARITHMETIC[type(node.op)](left, right)
    return None


# Calls that cut a number to a whole one.
_CUTS = frozenset(("int", "round", "floor", "trunc", "floor_divide"))
# Definitions that are looked at for one factor.
_MOST_DEFINITIONS = 200


def truncated_weight(frame: Any) -> str:
    """Why a factor of the line that a frame stands at is 0, where nobody means it to be.

    An expression that cuts it to a whole number: the factor's names are followed through assignments, properties and
    functions of the user's files. Or a name that is looked up in a dictionary which has no such key, and is 0 then:
    the sentence that says so (``NO_KEY`` is part of it). Empty for a constant, a weight that begins at 0, steps of a
    fixed number of epochs (``epoch // 10``).
    """
    file, line = frame.f_code.co_filename, frame.f_lineno
    tree = _tree(file)
    if tree is None:
        return ""
    for factor in _factors(tree, line):
        absent = _absent_key(factor, frame)
        if absent:
            return absent
        value = _value(factor, frame)
        if isinstance(factor, ast.BinOp) and value is None:
            rest = _value(factor.right, frame)
            value = 1 - rest if isinstance(rest, int | float) else None
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if isinstance(factor, ast.Constant) or (value is not None and not (number and value == 0)):
            continue
        others = (_defined_in(each, frame) for each in ast.walk(factor))
        found = _cutting(tuple(dict.fromkeys([tree, *(each for each in others if each is not None)])), factor)
        if found is not None:
            return ast.unparse(found)
    return ""


def _absent_key(factor: ast.expr, frame: Any) -> str:
    """What is said of ``weights.get(name, 0)`` where the dictionary has other keys alone; else empty."""
    if not isinstance(factor, ast.Call) or not isinstance(factor.func, ast.Attribute) or factor.func.attr != "get":
        return ""
    if len(factor.args) != 2 or factor.keywords or not isinstance(factor.args[1], ast.Constant):
        return ""
    held, key = _value(factor.func.value, frame), _value(factor.args[0], frame)
    # Of a dictionary that holds no weight at all, 0 is what is meant.
    if factor.args[1].value != 0 or type(held) is not dict or type(key) is not str or key in held or not held:
        return ""
    return f"`{ast.unparse(factor.func.value)}`{NO_KEY}{key!r}, but {', '.join(map(repr, list(held)[:8]))}"


def _nodes_of(tree: ast.Module, line: int) -> Iterator[ast.AST]:
    """The innermost statement at a line, and what it holds."""
    statements = [node for node in _nodes_at(tree, line) if isinstance(node, ast.stmt)]
    return ast.walk(min(statements, key=lambda node: (node.end_lineno or 0) - node.lineno, default=ast.Pass()))


@cache
def _factors(tree: ast.Module, line: int) -> tuple[ast.expr, ...]:
    """What the statement at a line multiplies."""
    found: list[ast.expr] = []
    for node in _nodes_of(tree, line):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
            found += [each for each in (node.left, node.right) if not isinstance(each, ast.BinOp) or _is_rest(each)]
        elif isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Mult):
            found.append(node.value)
    return tuple(found)


@cache
def squares_at(file: str, line: int) -> bool:
    """Whether the statement at a line squares a number: ``T ** 2``, ``T * T``, ``T.pow(2)``."""
    tree = _tree(file)
    for node in _nodes_of(tree, line) if tree is not None else ():
        if is_square(node):
            return True
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
            # Of a * T * T, which is (a * T) * T, the last two factors are compared.
            left = node.left.right if isinstance(node.left, ast.BinOp) else node.left
            if ast.unparse(left) == ast.unparse(node.right):
                return True
    return False


def _is_rest(node: ast.BinOp) -> bool:
    """Whether it is what a weight leaves of 1."""
    return isinstance(node.op, ast.Sub) and isinstance(node.left, ast.Constant) and node.left.value == 1


def _defined_in(node: ast.AST, frame: Any) -> ast.Module | None:
    """The file that defines a property or a function that an expression names."""
    function: Any = None
    if isinstance(node, ast.Attribute):
        owner = _value(node.value, frame)
        function = getattr(type(owner), "__dict__", {}).get(node.attr) if owner is not None else None
        function = getattr(function, "fget", function)
    elif isinstance(node, ast.Name):
        function = frame.f_locals.get(node.id, frame.f_globals.get(node.id))
        function = function if hasattr(function, "__code__") else None
    code = getattr(function, "__code__", None)
    return _tree(code.co_filename) if code is not None and code.co_filename.endswith(".py") else None


@cache
def _cutting(trees: tuple[ast.Module, ...], expression: ast.expr, depth: int = 4) -> ast.expr | None:
    """The first operation that cuts a number, in an expression or in what defines the names in it."""
    todo: list[tuple[ast.AST, int]] = [(expression, depth)]
    seen: set[tuple[str, bool]] = set()
    for _ in range(_MOST_DEFINITIONS):
        if not todo:
            break
        node, left = todo.pop(0)
        for each in ast.walk(node):
            if _cuts(each):
                return each  # type: ignore[return-value]
        if left:
            names = set(_names(node))
            new = [(tree, name) for name in sorted(names - seen) for tree in trees]
            todo += [(each, left - 1) for tree, name in new for each in _definitions(tree).get(name, ())]
            seen |= names
    return None


def _names(node: ast.AST) -> Iterator[tuple[str, bool]]:
    """The variables and attributes (then with True) whose values an expression takes, not the owners of these."""
    if isinstance(node, ast.Attribute):
        yield node.attr, True
    elif isinstance(node, ast.Name):
        yield node.id, False
    for child in ast.iter_child_nodes(node):
        if not (isinstance(node, ast.Attribute) and isinstance(child, ast.Name | ast.Attribute)):
            yield from _names(child)


def _cuts(node: ast.AST) -> bool:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.FloorDiv):
        return not isinstance(node.right, ast.Constant)
    if not isinstance(node, ast.Call) or not node.args:
        return False
    name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
    inner = ast.walk(node.args[0])
    parts = [isinstance(each, ast.Call) or isinstance(getattr(each, "op", None), ast.Div) for each in inner]
    return name in _CUTS and any(parts)


@cache
def _definitions(tree: ast.Module) -> Mapping[tuple[str, bool], list[ast.AST]]:
    """By the name of a variable, or of an attribute: what it is assigned, what a function of that name computes, and
    what is handed to a parameter of it.
    """
    found: dict[tuple[str, bool], list[ast.AST]] = defaultdict(list)
    handed: dict[str, list[ast.Call]] = defaultdict(list)
    functions: list[ast.FunctionDef] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign) and node.value is not None:
            for each in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(each, ast.Name | ast.Attribute):
                    found[last_name(each), isinstance(each, ast.Attribute)].append(node.value)
        elif isinstance(node, ast.FunctionDef):
            functions.append(node)
            own = [each for each in ast.walk(node) if isinstance(each, ast.Return | ast.Assign)]
            for is_attribute in (False, True):
                found[node.name, is_attribute] += own
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            handed[last_name(node.func)].append(node)
    for function in functions:
        places = [each.arg for each in function.args.args]
        for call in handed[function.name]:
            bound = places[:1] == ["self"] and isinstance(call.func, ast.Attribute)
            for name, value in zip(places[bound:], call.args, strict=False):
                found[name, False].append(value)
            for keyword in call.keywords:
                if keyword.arg in places:
                    found[keyword.arg, False].append(keyword.value)
    return found


def only_steps(file: str, lines: frozenset[int]) -> bool:
    """Whether all ``.step(…)`` of a file stand at these lines; false where it cannot be read, or one is elsewhere."""
    return bool(source_text(file)) and _step_lines(file) == lines


@cache
def _step_lines(file: str) -> frozenset[int] | None:
    tree = _tree(file)
    if tree is None:
        return None
    return frozenset(
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("step", "step_update", "lr_step")
    )


@cache
def listed_weights(file: str) -> Mapping[float, str]:
    """What the numbers of a list stand for, where a comment at the list names as many things as it holds.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile("w", suffix=".py") as script:
    ...     _ = script.write("# labels, teacher\\nWEIGHTS = [0.3, 0.7]\\n")
    ...     script.flush()
    ...     print(listed_weights(script.name))
    {0.3: 'labels', 0.7: 'teacher'}
    """
    tree = _tree(file)
    if tree is None:
        return {}
    comments = dict(_comments(source_text(file)))
    found: dict[float, str] = {}
    twice: set[float] = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.List | ast.Tuple) or len(node.elts) < 2:
            continue
        numbers = [each.value for each in node.elts if isinstance(each, ast.Constant) and type(each.value) is float]
        if len(numbers) != len(node.elts) or len(set(numbers)) != len(numbers):
            continue
        for line in range(node.lineno, node.lineno - _NEAR, -1):
            names = [each.strip() for each in re.split(r"[,/|;]| and ", comments.get(line, "")) if each.strip()]
            names[:1] = [each.rpartition(":")[2].strip() for each in names[:1]]
            if len(names) == len(numbers):
                twice |= set(numbers) & set(found)
                found |= dict(zip(numbers, names, strict=True))
                break
    return {number: name for number, name in found.items() if number not in twice}


def _comments(source: str) -> Iterator[tuple[int, str]]:
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string.lstrip("# ")
    except (tokenize.TokenError, IndentationError):
        return
