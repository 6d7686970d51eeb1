"""Damage for files: random changes of bytes, of text, and of messages through their schema."""

from __future__ import annotations

import re
from random import Random

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from caffelite.proto.schema import is_repeated

# fmt: off
NUMBERS = (
    "0", "-1", "1", "2", "3", "5", "7", "16", "100", "65535", "65536", "1000000", "2147483647", "2147483648",
    "-2147483648", "4294967295", "4294967296", "9223372036854775807", "18446744073709551615",
    "-9223372036854775808", "99999999999999999999999", "0x10", "010", "08", "1e3", "1.5", "0.5", "-0.5", ".1",
    "1e-45", "1e-8", "3.4e38", "1e39", "1e400", "-1e400", "nan", "inf", "-inf", "1f", "1.2.3",
)
# fmt: on
INTEGERS = (*range(9), 16, 100, 1000, 65536, 10**6, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, -1, -2, -(2**31))
FLOATS = (0.0, 1.0, -1.0, 0.5, 2.0, 1e-8, 1e-45, 3e38, -3e38, 1e10, float("nan"), float("inf"), float("-inf"))
_INTEGER_TYPES = {
    FieldDescriptor.TYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.TYPE_UINT64: (0, 2**64 - 1),
}
_TOKEN = re.compile(r'"[^"\n]*"|[A-Za-z_]\w*|[-+]?[.\d][\w.+-]*|\S')


def mutate_bytes(data: bytes, random: Random, other: bytes = b"") -> bytes:
    """`data` after one to four changes: bytes set, inserted, cut out, repeated, moved, or taken from `other`."""
    result = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 4))):
        at = random.randrange(len(result) + 1)
        length = min(random.choice((1, 1, 2, 4, 8, 64, 1000)), len(result) - at)
        kind = random.randrange(8)
        if kind == 0:
            result[at : at + length] = random.randbytes(length)
        elif kind == 1 and result:
            result[min(at, len(result) - 1)] ^= 1 << random.randrange(8)
        elif kind == 2:
            result[at : at + length] = random.choice((b"\0", b"\xff", b"\x7f", b"\x80")) * length
        elif kind == 3:
            del result[at : at + length]
        elif kind == 4:
            del result[at:]
        elif kind == 5:
            result[at:at] = result[at : at + length] * random.choice((1, 2, 50))
        elif kind == 6:
            result[at:at] = random.randbytes(random.choice((1, 2, 8)))
        elif other:
            start = random.randrange(len(other))
            result[at : at + length] = other[start : start + max(length, 8)]
    return bytes(result)


def mutate_text(text: str, random: Random, other: str) -> str:
    """A prototxt after one to four changes of tokens, lines and blocks; some of them are taken from `other`."""
    for _ in range(random.choice((1, 1, 2, 4))):
        text = random.choice(_TEXT_CHANGES)(text, random, other)
    return text


def _replace_number(text: str, random: Random, other: str) -> str:
    return _replace(text, random, r"(?<![\w.])-?[\d.]+\b", random.choice(NUMBERS))


def _replace_token(text: str, random: Random, other: str) -> str:
    token = random.choice(_TOKEN.findall(other) or [""])
    kind = r'"[^"\n]*"' if token[:1] == '"' else r"[A-Za-z_]\w*" if token.isidentifier() else r"\S"
    return _replace(text, random, kind, token)


def _replace_string(text: str, random: Random, other: str) -> str:
    strings = re.findall(r'"[^"\n]*"', text)
    return _replace(text, random, r'"[^"\n]*"', random.choice([*strings, '""', '"x"', "'y", '"\\377"', '"\\0"', '"Ä"']))


def _replace(text: str, random: Random, pattern: str, by: str) -> str:
    found = list(re.finditer(pattern, text))
    if not found:
        return text
    match = random.choice(found)
    return text[: match.start()] + by + text[match.end() :]


def _change_lines(text: str, random: Random, other: str) -> str:
    lines, kind = text.split("\n"), random.randrange(4)
    a, b = random.randrange(len(lines)), random.randrange(len(lines))
    if kind == 0:
        del lines[a]
    elif kind == 1:
        lines.insert(a, lines[b])
    elif kind == 2:
        lines[a], lines[b] = lines[b], lines[a]
    else:
        lines.insert(a, random.choice(other.split("\n")))
    return "\n".join(lines)


def _change_blocks(text: str, random: Random, other: str) -> str:
    blocks, kind = (
        [match.span() for match in re.finditer(r"\w+\s*\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\}", text)],
        random.randrange(3),
    )
    if not blocks:
        return text
    start, end = random.choice(blocks)
    block = text[start:end]
    if kind == 0:
        return text[:start] + text[end:]
    if kind == 1:
        return text[:end] + ("\n" + block) * random.choice((1, 1, 2, 20)) + text[end:]
    at = random.choice(blocks)[0]
    return text[:at] + block + "\n" + text[at:]


def _cut(text: str, random: Random, other: str) -> str:
    at = random.randrange(len(text) + 1)
    return random.choice((text[:at], text[:at] + random.choice("{}<>[]:\"'#;,-\0\ufffd\t") + text[at:]))


_TEXT_CHANGES = (_replace_number, _replace_number, _replace_token, _replace_string, _change_lines, _change_blocks, _cut)


def mutate_message(message: Message, random: Random) -> None:
    """Set, add or clear one to three fields somewhere in a message, also such as it did not have."""
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        _mutate_field(*_somewhere(message, random), random)


def _somewhere(message: Message, random: Random) -> tuple[Message, list[FieldDescriptor]]:
    """A message in the message, found by a random way down, and the fields to choose from."""
    fields = list(message.DESCRIPTOR.fields)
    while True:
        inner = [value for field, value in message.ListFields() if field.message_type]
        inner = [one for value in inner for one in ([value] if isinstance(value, Message) else value)]
        if not inner or random.random() < 0.15:
            return message, fields
        message = random.choice(inner)
        fields = list(message.DESCRIPTOR.fields)


def _mutate_field(message: Message, fields: list[FieldDescriptor], random: Random) -> None:
    present = [field for field, _ in message.ListFields()]
    field = random.choice(present if present and random.random() < 0.5 else fields)
    if field.message_type:
        _mutate_inner(message, field, random)
    elif random.random() < 0.1:
        message.ClearField(field.name)
    elif not is_repeated(field):
        setattr(message, field.name, _value(field, random, getattr(message, field.name)))
    else:
        values = getattr(message, field.name)
        if values and random.random() < 0.5:
            at = random.randrange(len(values))
            values[at] = _value(field, random, values[at])
        elif values and random.random() < 0.3:
            values.pop(random.randrange(len(values)))
        else:
            values.extend([_value(field, random, values[0] if values else None)] * random.choice((1, 1, 2, 40)))


def _mutate_inner(message: Message, field: FieldDescriptor, random: Random) -> None:
    value = getattr(message, field.name)
    if not is_repeated(field):
        value.SetInParent()
    elif not value:
        value.add()
    elif random.random() < 0.5:
        value.add().CopyFrom(random.choice(list(value)))
    else:
        del value[random.randrange(len(value))]
        return
    inner = value if not is_repeated(field) else value[-1]
    if inner.DESCRIPTOR.fields:
        _mutate_field(inner, list(inner.DESCRIPTOR.fields), random)


def _value(field: FieldDescriptor, random: Random, old):
    if field.enum_type:
        return random.choice(field.enum_type.values).number
    if field.type in (FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE):
        return random.choice((random.choice(FLOATS), random.uniform(-3, 3)))
    if field.type == FieldDescriptor.TYPE_BOOL:
        return not old
    if field.type == FieldDescriptor.TYPE_STRING:
        return random.choice(((old or "") + "x", "", "data", "nan", "Ä"))
    if field.type == FieldDescriptor.TYPE_BYTES:
        return mutate_bytes(old or b"", random)
    low, high = _INTEGER_TYPES[field.type]
    return min(max(random.choice((random.choice(INTEGERS), (old or 0) + random.choice((-1, 1)))), low), high)


HOSTILE = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 10**400, 0.5, -1e308, float("nan"), float("inf"), "", "x", "0", "../x",
    "/etc/passwd", "a\0b", "\ud800", "x" * 5000, [], {}, [[]], [1, 2, 3, 4], {"id": 1}, ["x"] * 50,
)  # fmt: skip


def mutate_tree(tree, random: Random):
    """Nested lists and mappings with one to three of their values replaced, removed, repeated or buried deeper."""
    for _ in range(random.choice((1, 1, 2, 3))):
        tree = _mutate_node(tree, random)
    return tree


def _mutate_node(node, random: Random):
    if isinstance(node, (dict, list)) and node and random.random() < 0.8:
        places = list(node) if isinstance(node, dict) else range(len(node))
        place, kind = random.choice(places), random.random()
        copy = node.copy()
        if kind < 0.8:
            copy[place] = _mutate_node(node[place], random)
        elif kind < 0.9:
            del copy[place]
        elif isinstance(copy, list):
            copy += [node[place]] * random.choice((1, 2, 50))
        else:
            copy[random.choice(("", "x", *places))] = node[place]
        return copy
    if random.random() < 0.1:
        for _ in range(random.choice((1, 3, 100))):
            node = random.choice(([node], {"x": node}))
        return node
    if isinstance(node, (int, float)) and random.random() < 0.3:
        return random.choice((-node, node + 1, node * 1000, str(node), [node]))
    return random.choice(HOSTILE)
