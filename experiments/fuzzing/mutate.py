"""Mutators: random bytes, YAML tokens, JSON values, and parts of PNG and zip files with corrected checksums."""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from random import Random
from typing import Any

Mutator = Callable[[bytes, Random], bytes]

_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_JSON_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 3, 0.5, -0.5, 1e9, 1e300, 2**31, 2**63, 2**64, 10**400, float("nan"), float("inf")),
    *("", "a", "7", "../a.png", "/a.png", "a.png", "\0", "\ud800", "é", [], {}, [[]], [1], [None], {"id": 1}),
)
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
TOKENS = (
    *("!!python/object/apply:os.getcwd []", "!!bool x", "!!timestamp x", "!!binary x", "!!set {a}", "!a b"),
    *("<<: *a", "&a", "*a", "{", "}", "[", "]", ": ", "- ", "? ", "| ", "> ", "#", "'", '"', ",", ";", "é;ü"),
    *("%YAML 9.9\n", "---\n", "...\n", "\t", "\n", "\r", "\0", "\u2028", '"\\0"', '"\\ud800"'),
    *("null", "~", "yes", "1e999", ".nan", "-.inf", "0x", "1_0", "9" * 30, "9" * 5000, "2020-13-45", "1:60:60"),
    *("-1", "1.5", "_BASE_: ", "..", "/", "*", "**x", "~nobody/x", "{0: 1}", "[a, b]"),
)


def mutate_bytes(content: bytes, random: Random) -> bytes:
    """Make one to four changes that disks, networks or attackers cause."""
    data = bytearray(content)
    for _ in range(random.randint(1, 4)):
        random.choice(_CHANGES)(data, random)
    return bytes(data)


def mutate_text(content: bytes, random: Random) -> bytes:
    """Insert or replace one or two tokens that have a meaning in YAML."""
    text = content.decode(errors="surrogateescape")
    for _ in range(random.randint(1, 2)):  # with more, readers stop at the first
        start = random.randint(0, len(text))
        end = start + random.choice((0, 0, 1, random.randint(0, 12)))
        text = text[:start] + random.choice((*TOKENS, "")) + text[end:]
    content = text.encode(errors="surrogateescape")
    return mutate_bytes(content, random) if random.random() < 0.2 else content


def mutate_json(content: bytes, random: Random) -> bytes:
    """Replace, remove or repeat one or two values of a JSON file."""
    value = json.loads(content)
    for _ in range(random.randint(1, 2)):
        holders = [holder for holder in _list_holders(value) if holder]
        if not holders:
            break
        holder = random.choice(holders)
        key = random.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        change = random.random()
        if change < 0.2:
            del holder[key]
        elif change < 0.3 and isinstance(holder, list):
            holder.insert(key, holder[key])
        else:
            holder[key] = random.choice((*_JSON_VALUES, holder[key], [holder[key]], {"a": holder[key]}))
    return json.dumps(value).encode()


def _list_holders(value: Any) -> list[Any]:
    """Return all lists and dicts in a value."""
    if not isinstance(value, dict | list):
        return []
    inner = value.values() if isinstance(value, dict) else value
    return [value, *(holder for part in inner for holder in _list_holders(part))]


def mutate_png(content: bytes, random: Random) -> bytes:
    """Mutate a chunk or its uncompressed data, and correct its checksum."""
    if not content.startswith(_SIGNATURE):
        return mutate_bytes(content, random)
    chunks, start = [], len(_SIGNATURE)
    while start + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, start)
        chunks.append((kind, content[start + 8 : start + 8 + length]))
        start += length + 12
    index = random.randrange(len(chunks))
    kind, data = chunks[index]
    if kind == b"IDAT" and random.random() < 0.7:
        data = zlib.compress(mutate_bytes(zlib.decompress(data), random))
    else:
        data = mutate_bytes(data, random)
    chunks[index] = kind, data
    if random.random() < 0.1:
        chunks.insert(random.randint(0, len(chunks)), chunks[random.randrange(len(chunks))])
    return _SIGNATURE + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def mutate_zip(content: bytes, random: Random) -> bytes:
    """Mutate one file of an archive, and write the archive again."""
    if not zipfile.is_zipfile(io.BytesIO(content)):
        return mutate_bytes(content, random)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        parts = [(info, archive.read(info)) for info in archive.infolist()]
    index = random.randrange(len(parts))
    info, data = parts[index]
    parts[index] = info, mutate_bytes(data, random)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for info, data in parts:
            archive.writestr(info, data)
    return stream.getvalue()


def _flip_bit(data: bytearray, random: Random) -> None:
    if data:
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)


def _replace_byte(data: bytearray, random: Random) -> None:
    if data:
        data[random.randrange(len(data))] = random.randrange(256)


def _replace_number(data: bytearray, random: Random) -> None:
    """Replace an integer, often of the header, with an extreme or a similar value."""
    form = random.choice(("<H", ">H", "<I", ">I", "<Q", ">Q"))
    size = struct.calcsize(form)
    if len(data) >= size:
        start = random.randint(0, min(len(data), random.choice((64, len(data)))) - size)
        (value,) = struct.unpack_from(form, data, start)
        value = random.choice((*_NUMBERS, value + 1, value - 1, value * 2))
        struct.pack_into(form, data, start, value % 256**size)


def _delete(data: bytearray, random: Random) -> None:
    del data[_choose_slice(data, random)]


def _repeat(data: bytearray, random: Random) -> None:
    part = _choose_slice(data, random)
    data[part.start : part.start] = data[part] * random.choice((1, 2, 50))


def _move(data: bytearray, random: Random) -> None:
    part = _choose_slice(data, random)
    moved = data[part]
    del data[part]
    start = random.randint(0, len(data))
    data[start:start] = moved


def _insert(data: bytearray, random: Random) -> None:
    start = random.randint(0, len(data))
    data[start:start] = random.randbytes(random.randint(1, 8))


def _truncate(data: bytearray, random: Random) -> None:
    del data[random.randint(0, len(data)) :]


def _choose_slice(data: bytearray, random: Random) -> slice:
    start = random.randint(0, len(data))
    return slice(start, min(len(data), start + random.choice((1, 4, 16, 200))))


_CHANGES = (
    *(_flip_bit, _flip_bit, _replace_byte, _replace_byte, _replace_number, _replace_number, _replace_number),
    *(_delete, _repeat, _move, _insert, _truncate),
)
