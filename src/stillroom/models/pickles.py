"""Checkpoints of later pickle protocols, rewritten in protocol 2, which torch's reader of tensors alone takes.

Operations are replaced one by one and nothing is made of them, so no code of the file runs. What is read then goes
through the same reader, and the same refusals, as any other checkpoint.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
import zipfile
from pathlib import Path
from typing import BinaryIO

# Pickles that precede the tensors' bytes in torch's old format: magic number, protocol, system, content, keys.
_OLD_FORMAT = 5
# The same in protocol 2. Bytes and sets hold no weights: None and a list take their places.
_REPLACED = {
    "EMPTY_SET": pickle.EMPTY_LIST,
    "ADDITEMS": pickle.APPENDS,
    "FROZENSET": pickle.TUPLE,
    **dict.fromkeys(("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"), pickle.NONE),
}
_TEXTS = ("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8")


def as_protocol_2(path: Path) -> io.BytesIO:
    """A checkpoint, a zip file or of the old format, with its pickles in protocol 2.

    Raises:
        ValueError: a pickle is damaged, or holds what protocol 2 does not have.
    """
    if not zipfile.is_zipfile(path):
        content, out = io.BytesIO(path.read_bytes()), io.BytesIO()
        for _ in range(_OLD_FORMAT):
            place = content.tell()
            is_pickle = content.read(1) == pickle.PROTO
            content.seek(place)
            if not is_pickle:
                break
            out.write(rewrite(content))
        out.write(content.read())
        out.seek(0)
        return out
    out = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w") as new:
        for entry in old.infolist():
            part = old.read(entry)
            new.writestr(entry.filename, rewrite(io.BytesIO(part)) if entry.filename.endswith("data.pkl") else part)
    out.seek(0)
    return out


def rewrite(content: BinaryIO) -> bytes:
    """One pickle in protocol 2; ``content`` then stands behind it.

    >>> later = pickle.dumps("x", protocol=4)
    >>> [[each.name for each, _, _ in pickletools.genops(one)] for one in (later, rewrite(io.BytesIO(later)))]
    [['PROTO', 'FRAME', 'SHORT_BINUNICODE', 'MEMOIZE', 'STOP'], ['PROTO', 'BINUNICODE', 'STOP']]
    """
    source = content.read()
    out = bytearray()
    memo: dict[int, str] = {}
    kept = 0  # objects in the memo, which later protocols number as they come
    waiting: list[str] = []  # texts that the name of a class may be made of
    last: str | None = None  # the text that was read just now

    def flush() -> None:
        for text in waiting:
            encoded = text.encode("utf-8", "surrogatepass")
            out.extend(pickle.BINUNICODE + struct.pack("<I", len(encoded)) + encoded)
        waiting.clear()

    operations = [*pickletools.genops(source)]
    end = (operations[-1][2] or 0) + 1
    places = [place or 0 for _, _, place in operations] + [end]
    for number, (operation, argument, _) in enumerate(operations):
        name, text, last = operation.name, last, None
        if name in ("PROTO", "FRAME"):
            out += b"\x80\x02" if name == "PROTO" else b""
        elif name in _TEXTS or (name in ("BINGET", "LONG_BINGET") and argument in memo):
            last = str(argument) if name in _TEXTS else memo[int(str(argument))]
            waiting.append(last)
        elif name in ("MEMOIZE", "BINPUT", "LONG_BINPUT"):
            index = kept if name == "MEMOIZE" else int(str(argument))
            kept += 1
            if text is not None:
                memo[index] = last = text
            else:
                memo.pop(index, None)
                out += pickle.LONG_BINPUT + struct.pack("<I", index)
        elif name == "STACK_GLOBAL":
            if len(waiting) < 2 or any("\n" in each for each in waiting[-2:]):
                raise ValueError("a class without a name")
            *before, module, called = waiting
            waiting[:] = before
            flush()
            out += pickle.GLOBAL + f"{module}\n{called}\n".encode()
        else:
            flush()
            if name in ("NEWOBJ_EX", "NEXT_BUFFER", "READONLY_BUFFER"):
                raise ValueError(f"{name} is none of protocol 2")
            out += _REPLACED.get(name, source[places[number] : places[number + 1]])
    content.seek(content.tell() - len(source) + end)
    return bytes(out)
