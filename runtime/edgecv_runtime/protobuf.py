"""Protocol Buffers' wire format, as far as reading and splicing ONNX files needs it.

https://protobuf.dev/programming-guides/encoding/. Everything raises ValueError or IndexError for malformed bytes; the
caller turns them into an error of its own that names the file.
"""

from __future__ import annotations

from collections.abc import Iterator

Value = int | memoryview


def fields(data: memoryview) -> Iterator[tuple[int, Value]]:
    """The fields of one message: number, and a varint or the bytes of the value."""
    for number, value, _, _ in _located(data):
        yield number, value


def spans(data: memoryview) -> Iterator[tuple[int, Value, memoryview]]:
    """The fields of one message, each with the bytes that hold tag, length and value together."""
    for number, value, start, end in _located(data):
        yield number, value, data[start:end]


def _located(data: memoryview) -> Iterator[tuple[int, Value, int, int]]:
    """The fields of one message, each with where it begins and ends."""
    end, whole = 0, len(data)
    while end < whole:
        start = end
        tag, end = _varint(data, end)
        number, wire = tag >> 3, tag & 7
        if number == 0:
            raise ValueError("field number 0")
        if wire == 0:
            value, end = _varint(data, end)
            yield number, value, start, end
            continue
        if wire == 2:
            size, end = _varint(data, end)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")
        begin, end = end, end + size
        if end > whole:
            raise ValueError("a field reaches beyond the end of the file")
        yield number, data[begin:end], start, end


def varints(data: memoryview) -> Iterator[int]:
    """The numbers of a packed repeated field."""
    at = 0
    while at < len(data):
        value, at = _varint(data, at)
        yield value


def message(value: Value | bytes) -> memoryview:
    """The value as a nested message."""
    if isinstance(value, int):
        raise ValueError("a number stands where a message is expected")  # noqa: TRY004 - caught as a malformed file
    return memoryview(value)


def text(value: Value | None) -> str:
    """The value as a string; "" when the field is not there."""
    return "" if value is None else bytes(message(value)).decode()


def integer(value: Value) -> int:
    """The value as an unsigned number."""
    if not isinstance(value, int):
        raise ValueError("bytes stand where a number is expected")  # noqa: TRY004 - caught as a malformed file
    return value


def encode(number: int, value: int | bytes) -> bytes:
    """One field: a varint for an int, else length and bytes."""
    if isinstance(value, int):
        return _encode_varint(number << 3) + _encode_varint(value)
    return _encode_varint(number << 3 | 2) + _encode_varint(len(value)) + value


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    if data[at] < 0x80:  # most of them
        return data[at], at + 1
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number is longer than 10 bytes")


def _encode_varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
