"""Spoils files: bytes at random, words of YAML, and parts of PNG and zip files whose checksums are then made right."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from random import Random

Mutation = Callable[[bytes, Random], bytes]

_MOST_CHANGES = 4
_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
WORDS = (
    *("!!python/object/apply:os.getcwd []", "!!bool x", "!!timestamp x", "!!binary x", "!!set {a}", "!a b"),
    *("<<: *a", "&a", "*a", "{", "}", "[", "]", ": ", "- ", "? ", "| ", "> ", "#", "'", '"', ",", ";", "é;ü"),
    *("%YAML 9.9\n", "---\n", "...\n", "\t", "\n", "\r", "\0", "\u2028", '"\\0"', '"\\ud800"'),
    *("null", "~", "yes", "1e999", ".nan", "-.inf", "0x", "1_0", "9" * 30, "9" * 5000, "2020-13-45", "1:60:60"),
    *("-1", "1.5", "_BASE_: ", "..", "/", "*", "**x", "~nobody/x", "{0: 1}", "[a, b]"),
)


def bytes_at_random(content: bytes, random: Random) -> bytes:
    """One to four changes of a kind that disks, networks and enemies make."""
    data = bytearray(content)
    for _ in range(random.randint(1, _MOST_CHANGES)):
        random.choice(_CHANGES)(data, random)
    return bytes(data)


def words_at_random(content: bytes, random: Random) -> bytes:
    """One or two changes of text, which put in words that mean something to its reader."""
    text = content.decode(errors="surrogateescape")
    for _ in range(random.randint(1, 2)):  # more leave little that is read beyond the first
        place = random.randint(0, len(text))
        end = place + random.choice((0, 0, 1, random.randint(0, 12)))
        text = text[:place] + random.choice((*WORDS, "")) + text[end:]
    content = text.encode(errors="surrogateescape")
    return bytes_at_random(content, random) if random.random() < 0.2 else content


def parts_of_a_png(content: bytes, random: Random) -> bytes:
    """Spoil a chunk, or what is compressed in it, and give it the checksum that belongs to it."""
    if not content.startswith(_SIGNATURE):
        return bytes_at_random(content, random)
    chunks, place = [], len(_SIGNATURE)
    while place + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, place)
        chunks.append((kind, content[place + 8 : place + 8 + length]))
        place += length + 12
    index = random.randrange(len(chunks))
    kind, data = chunks[index]
    if kind == b"IDAT" and random.random() < 0.7:
        data = zlib.compress(bytes_at_random(zlib.decompress(data), random))
    else:
        data = bytes_at_random(data, random)
    chunks[index] = kind, data
    if random.random() < 0.1:
        chunks.insert(random.randint(0, len(chunks)), chunks[random.randrange(len(chunks))])
    return _SIGNATURE + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def parts_of_a_zip(content: bytes, random: Random) -> bytes:
    """Spoil one file of an archive, which is then written anew."""
    if not zipfile.is_zipfile(io.BytesIO(content)):
        return bytes_at_random(content, random)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        parts = [(info, archive.read(info)) for info in archive.infolist()]
    index = random.randrange(len(parts))
    info, data = parts[index]
    parts[index] = info, bytes_at_random(data, random)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for info, data in parts:
            archive.writestr(info, data)
    return stream.getvalue()


def _flip(data: bytearray, random: Random) -> None:
    if data:
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)


def _set(data: bytearray, random: Random) -> None:
    if data:
        data[random.randrange(len(data))] = random.randrange(256)


def _number(data: bytearray, random: Random) -> None:
    """A number of a header that is as small or as large as can be, or off by little."""
    form = random.choice(("<H", ">H", "<I", ">I", "<Q", ">Q"))
    size = struct.calcsize(form)
    if len(data) >= size:
        place = random.randint(0, min(len(data), random.choice((64, len(data)))) - size)
        (value,) = struct.unpack_from(form, data, place)
        value = random.choice((*_NUMBERS, value + 1, value - 1, value * 2))
        struct.pack_into(form, data, place, value % 256**size)


def _cut_out(data: bytearray, random: Random) -> None:
    start, end = _slice(data, random)
    del data[start:end]


def _repeat(data: bytearray, random: Random) -> None:
    start, end = _slice(data, random)
    data[start:start] = data[start:end] * random.choice((1, 2, 50))


def _move(data: bytearray, random: Random) -> None:
    start, end = _slice(data, random)
    part = data[start:end]
    del data[start:end]
    place = random.randint(0, len(data))
    data[place:place] = part


def _put_in(data: bytearray, random: Random) -> None:
    place = random.randint(0, len(data))
    data[place:place] = random.randbytes(random.randint(1, 8))


def _cut_off(data: bytearray, random: Random) -> None:
    del data[random.randint(0, len(data)) :]


def _slice(data: bytearray, random: Random) -> tuple[int, int]:
    start = random.randint(0, len(data))
    return start, min(len(data), start + random.choice((1, 4, 16, 200)))


_CHANGES: Sequence[Callable[[bytearray, Random], None]] = (
    *(_flip, _flip, _set, _set, _number, _number, _number),
    *(_cut_out, _repeat, _move, _put_in, _cut_off),
)
