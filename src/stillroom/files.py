"""Atomic writing, so that a crash leaves the old file or the new one; checksums of what is read again; input files.

A file that is read again has its SHA-256 in ``checksums.sha256`` of its folder, a line for each content that it was
given: ``HASH  NAME``. The line is written before the content, so a process that is killed in between leaves a file
whose earlier content is listed as well. Whoever reads the file hashes it and refuses one that is not listed. Once a run
is finished one line a file is left, which ``sha256sum --check checksums.sha256`` reads too.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from stillroom.errors import BadInput

DATA_VARIABLE = "STILLROOM_DATA"
CACHE_VARIABLE = "STILLROOM_CACHE"
_LONGEST_YAML, _MOST_VALUES, _LONGEST_NUMBER = 10**7, 10**5, 100
CHECKSUMS = "checksums.sha256"
_LINE = re.compile(rb"([0-9a-f]{64})  ([^\n]+)")


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to ``path``; when the block ends without an error, it replaces ``path`` in one step.

    Where the block raises, ``path`` is left as it was and the temporary file is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def is_partial(path: Path) -> bool:
    """Whether a file was left by a write that was killed.

    >>> is_partial(Path("run/.recipe.yaml.x1.part")), is_partial(Path("run/my.part"))
    (True, False)
    """
    return path.name.startswith(".") and path.suffix == ".part"


def remove_partial(folder: Path) -> None:
    """Remove the files that killed writes left in ``folder`` (its ``.NAME.*.part`` files)."""
    for leftover in filter(is_partial, folder.rglob("*.part")):
        leftover.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes, *, checksum: bool = False) -> None:
    """Write bytes atomically; with ``checksum``, whoever reads them by :func:`read_bytes` finds out about damage."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)
        if checksum:
            _record(path, hashlib.sha256(content).hexdigest(), sync=True)


def write_text(path: Path, content: str, *, checksum: bool = False) -> None:
    """Write UTF-8 text atomically."""
    write_bytes(path, content.encode("utf-8"), checksum=checksum)


def write_json(path: Path, content: Any, *, checksum: bool = False) -> None:
    """Write an object as indented JSON, atomically; NaN and infinity are refused."""
    text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    write_text(path, text, checksum=checksum)


class Log:
    """A file of lines, ``NAME.jsonl``, that grows; each state of it has its checksum.

    >>> folder = Path(tempfile.mkdtemp())
    >>> log = Log(folder / "steps.jsonl")
    >>> log.append("1\\n"); log.append("2\\n"); read_bytes(log.path)
    b'1\\n2\\n'
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._hash: Any = None

    def append(self, line: str) -> None:
        """Add a whole line, its newline included.

        Raises:
            BadInput: what is there already is not what was written.
        """
        content = line.encode("utf-8")
        grown = self._hash
        if grown is None:
            # Checked first: the checksum of what follows would vouch for damage before it.
            there = read_bytes(self.path) if self.path.exists() else b""
            if there and len(there) < self.path.stat().st_size:  # a line that a kill cut short
                os.truncate(self.path, len(there))
            grown = hashlib.sha256(there)
            if not there:
                _record(self.path, grown.hexdigest(), sync=False)
        self._hash = None  # until it is written
        grown.update(content)
        _record(self.path, grown.hexdigest(), sync=False)
        with self.path.open("ab") as log:
            log.write(content)
        self._hash = grown

    def cut(self, length: int) -> None:
        """Shorten the file to a length that it had; BadInput where it is shorter, or damaged before that length."""
        self._hash = None
        content = self.path.read_bytes() if self.path.exists() else b""
        if len(content) < length:
            expected = f"at least the {length} bytes it had at the last save, not {len(content)}"
            raise BadInput("--resume", str(self.path), expected)
        if length == 0:
            self.path.unlink(missing_ok=True)
        elif not _is_listed(content[:length], _listed(self.path)):
            raise _damaged(self.path)
        else:
            os.truncate(self.path, length)


def read_bytes(path: Path, *, required: bool = False) -> bytes:
    """Read a file whole, and check it against its checksum.

    A log's last line that a kill cut short is left out.

    Args:
        required: refuse a file without a checksum too.

    Raises:
        OSError: it cannot be read.
        BadInput: it is not what was written.
    """
    for patience in (0.02, 0.2, None):
        # In this order: what is written meanwhile is listed first.
        content = path.read_bytes()
        listed = _listed(path)
        if not listed and required:
            raise _damaged(path, "has no checksum")
        if not listed or _is_listed(content, listed):
            return content
        # A cut line ends anyhow; a whole one whose newline was damaged is listed with it.
        if path.suffix == ".jsonl" and content[-1:] != b"\n" and not _is_listed(content[:-1] + b"\n", listed):
            whole = content[: content.rfind(b"\n") + 1]
            if _is_listed(whole, listed):
                return whole
        if patience is not None:  # another process may be writing it
            time.sleep(patience)
    raise _damaged(path)


def verify(path: Path) -> None:
    """Check a file against its checksum, if it has one, without holding it in memory.

    Raises:
        OSError: it cannot be read.
        BadInput: it is not what was written.
    """
    for patience in (0.02, 0.2, None):
        found = file_hash(path)
        listed = _listed(path)
        if not listed or found in listed:
            return
        if patience is not None:
            time.sleep(patience)
    raise _damaged(path)


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content, 64 hex digits, without holding it in memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def compact_checksums(folder: Path) -> None:
    """Leave one line for each file in a folder's checksums, sorted by name; call it where no other process writes."""
    path = folder / CHECKSUMS
    if not path.exists():
        return
    before = path.read_bytes()
    lines = []
    for name in sorted({os.fsdecode(match[2]) for match in _LINE.finditer(before)}):
        file = folder / name
        listed = sorted(_listed(file)) if file.exists() else []
        if len(listed) > 1:
            found = file_hash(file)
            # One that is damaged keeps all, so that it stays refused.
            listed = [found] if found in listed else listed
        lines += [f"{each}  {name}\n" for each in listed]
    after = os.fsencode("".join(lines))
    if after != before:
        write_bytes(path, after)


def _record(path: Path, content_hash: str, *, sync: bool) -> None:
    """List a content that a file is about to have."""
    line = f"{content_hash}  {path.name}\n".encode()
    with (path.parent / CHECKSUMS).open("a+b") as checksums:
        # A whole file may have been given this content before; the states of a log differ.
        checksums.seek(0 if sync else max(checksums.seek(0, os.SEEK_END) - 1, 0))
        before = checksums.read()
        if line in before:
            return
        if before and not before.endswith(b"\n"):  # a line that a full disk cut short
            line = b"\n" + line
        checksums.write(line)
        if sync:
            checksums.flush()
            os.fsync(checksums.fileno())


def _listed(path: Path) -> set[str]:
    """The checksums of every content that a file was given."""
    try:
        checksums = (path.parent / CHECKSUMS).read_bytes()
    except FileNotFoundError:
        return set()
    name = os.fsencode(path.name)
    return {match[1].decode() for match in _LINE.finditer(checksums) if match[2] == name}


def _is_listed(content: bytes, listed: set[str]) -> bool:
    return hashlib.sha256(content).hexdigest() in listed


def _damaged(path: Path, how: str = f"is not what was written, by its SHA-256 in {CHECKSUMS}") -> BadInput:
    advice = f"restore it from a copy, or make it again; after an edit of your own remove its line in {CHECKSUMS}"
    return BadInput.with_message(path.name, str(path), f"{path}: {path.name} {how}: damaged or edited; {advice}")


class _YamlLoader(yaml.SafeLoader):
    """Plain objects alone, of mappings that name each key once: the safe loader would silently keep the last."""

    def get_single_node(self) -> yaml.Node | None:
        node: yaml.Node | None = super().get_single_node()
        if node is not None and _expanded_size(node, {}) > _MOST_VALUES:
            problem = f"it holds more than {_MOST_VALUES:,} values, those of its aliases counted"
            raise yaml.composer.ComposerError(None, None, problem, node.start_mark)
        return node

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        if len(node.value) > _LONGEST_NUMBER:  # Python refuses to write one of thousands of digits
            problem = f"a whole number of more than {_LONGEST_NUMBER} characters"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return int(super().construct_yaml_int(node))

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is there twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


_YamlLoader.add_constructor("tag:yaml.org,2002:int", _YamlLoader.construct_yaml_int)


def _expanded_size(node: yaml.Node, sizes: dict[int, int]) -> int:
    """How many values a node stands for: an alias is the same node again, and costs nothing before it is copied."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if (known := sizes.get(id(node))) is not None:
        return known
    sizes[id(node)] = _MOST_VALUES + 1  # a node inside itself has no end
    inner = itertools.chain.from_iterable(node.value) if isinstance(node, yaml.MappingNode) else node.value
    sizes[id(node)] = 1 + sum(_expanded_size(each, sizes) for each in inner)
    return sizes[id(node)]


def parse_yaml(text: str) -> Any:
    """The plain objects of a YAML text; its size is bounded, also once its aliases are expanded.

    Raises:
        yaml.YAMLError, ValueError, RecursionError: it is no YAML, names a key twice, or is too large.

    >>> parse_yaml("a: [1, 2]")
    {'a': [1, 2]}
    >>> parse_yaml("a: &a [1, *a]")
    Traceback (most recent call last):
    ...
    yaml.composer.ComposerError: it holds more than 100,000 values, those of its aliases counted
      in "<unicode string>", line 1, column 1:
        a: &a [1, *a]
        ^
    """
    if len(text) > _LONGEST_YAML:
        raise ValueError(f"{len(text):,} characters are more than {_LONGEST_YAML:,}")
    return yaml.load(text, _YamlLoader)


def canonical_json(content: Any) -> bytes:
    """JSON bytes that depend on the content alone: sorted keys, no spaces.

    >>> canonical_json({"b": 1, "a": [1.5]})
    b'{"a":[1.5],"b":1}'
    """
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode("utf-8")


def digest(*parts: bytes) -> str:
    """SHA-256 of the parts, each preceded by its length so that no two lists of parts collide; 64 hex digits."""
    total = hashlib.sha256()
    for part in parts:
        total.update(len(part).to_bytes(8, "little"))
        total.update(part)
    return total.hexdigest()


def find_input(path: str | Path) -> Path:
    """The file or folder a user named: as given, or else under the folder named by ``STILLROOM_DATA``.

    Returns the path as given where neither exists, so that the caller's error names what the user wrote.
    """
    given = Path(path).expanduser()
    if given.is_absolute() or given.exists():
        return given
    root = os.environ.get(DATA_VARIABLE)
    if root:
        under_root = Path(root).expanduser() / given
        if under_root.exists():
            return under_root
    return given


def cache_root() -> Path:
    """The folder of all caches: ``$STILLROOM_CACHE``, else ``$XDG_CACHE_HOME/stillroom``, else ``~/.cache/stillroom``.

    >>> before = os.environ.get(CACHE_VARIABLE)
    >>> os.environ[CACHE_VARIABLE] = "/scratch/answers"
    >>> cache_root().as_posix()
    '/scratch/answers'
    >>> _ = os.environ.pop(CACHE_VARIABLE) if before is None else os.environ.update({CACHE_VARIABLE: before})
    """
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named).expanduser().absolute()
    shared = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification has relative paths ignored.
    base = Path(shared) if os.path.isabs(shared) else Path.home() / ".cache"
    return base / "stillroom"
