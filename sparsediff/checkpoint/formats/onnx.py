"""ONNX: a protobuf message; which files hold the tensors that it does not hold itself.

Enters: a file. Leaves: the files its tensors lie in, and how long each is at least. No
spans: its tensors are bytes like others. Only the fields that lead to tensors are
entered, everything else is stepped over; work is bounded.
"""

from __future__ import annotations

from sparsediff.checkpoint.formats.span import MalformedError, Reference
from sparsediff.disk.inputs import InputFile, OpenFiles

_WINDOW = 1 << 16  # bytes read at once
_MAX_FIELDS = 1 << 20
_MAX_TEXT = 4096

_TENSOR, _ENTRY = "tensor", "entry"
# Fields that lead to tensors, by the kind of message they are in, and what they hold.
_FIELDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: _TENSOR, 15: "sparse"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: _TENSOR, 6: "graph", 10: _TENSOR, 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: _TENSOR, 2: _TENSOR},
    _TENSOR: {13: _ENTRY},
    _ENTRY: {},
}


def references(file: InputFile) -> list[Reference]:
    """Files that tensors of the model lie in, sorted; not all of them if it has too many fields.

    Raises:
        MalformedError: it is no such message, or was cut off.
    """
    with OpenFiles() as files:
        return _Walk(files, file).references()


class _Walk:
    """Goes through a file from front to back, entering what leads to tensors."""

    def __init__(self, files: OpenFiles, file: InputFile) -> None:
        self._files, self._file = files, file
        self._start, self._window = 0, b""
        self.at = 0

    def references(self) -> list[Reference]:
        # The messages that are open: kind, end, and of a tensor what is said of its place.
        stack: list[tuple[str, int, dict[bytes, bytes]]] = [("model", self._file.size, {})]
        ends: dict[str, int] = {}
        seen: set[int] = set()
        for _ in range(_MAX_FIELDS):
            while stack and self.at >= stack[-1][1]:
                kind, _, place = stack.pop()
                if kind == _TENSOR and b"location" in place:
                    name = place[b"location"].decode("utf-8", "surrogateescape")
                    ends[name] = max(ends.get(name, 0), _end(place))
            if not stack:
                break
            kind, end, place = stack[-1]
            field, length = self._field(end)
            if kind == "model":
                seen.add(field)
            inner = _FIELDS[kind].get(field) if length is not None else None
            if inner == _ENTRY:
                self._entry(self.at + (length or 0), place)
            elif inner is not None:
                stack.append((inner, self.at + (length or 0), {}))
            else:
                self.at += length or 0
        if not stack and not {7, 8} <= seen:
            raise self._bad("no graph or no versions of operators (cut off?)")
        return [Reference(name, end) for name, end in sorted(ends.items())]

    def _entry(self, end: int, place: dict[bytes, bytes]) -> None:
        """Put the key and value of an entry that goes to ``end`` into ``place``."""
        texts = {1: b"", 2: b""}
        while self.at < end:
            field, length = self._field(end)
            if length is not None:
                texts[field] = self._take(min(length, _MAX_TEXT))
                self.at += max(0, length - _MAX_TEXT)
        place[texts[1]] = texts[2]

    def _field(self, end: int) -> tuple[int, int | None]:
        """Number of the next field, and how long it is; None if it is a number, and skipped."""
        field, wire = divmod(self._varint(end), 8)
        if wire == 0:
            self._varint(end)
            return field, None
        if wire not in (1, 2, 5) or field == 0:
            raise self._bad("no such kind of field")
        length = self._varint(end) if wire == 2 else {1: 8, 5: 4}[wire]
        if length > end - self.at:
            raise self._bad("field exceeds the file or message (cut off?)")
        if wire != 2:
            self.at += length
            return field, None
        return field, length

    def _varint(self, end: int) -> int:
        value = shift = 0
        while shift < 70 and self.at < end:
            byte = self._take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
        raise self._bad("number has no end (cut off?)")

    def _take(self, n_bytes: int) -> bytes:
        first = self.at
        if not self._start <= first <= first + n_bytes <= self._start + len(self._window):
            buffer = bytearray(min(max(_WINDOW, n_bytes), self._file.size - first))
            self._files.read(self._file, first, buffer)
            self._start, self._window = first, bytes(buffer)
        self.at += n_bytes
        return self._window[first - self._start : self.at - self._start]

    def _bad(self, what: str) -> MalformedError:
        return MalformedError(f"malformed ONNX: {what}", file=self._file.path, offset=self.at)


def _end(place: dict[bytes, bytes]) -> int:
    """Where a tensor ends in its file, as far as that is said."""
    try:
        return int(place.get(b"offset", b"0")) + int(place.get(b"length", b"0"))
    except ValueError:
        return 0
