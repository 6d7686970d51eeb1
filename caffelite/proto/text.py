"""Protobuf's text format, the language of prototxt files: a reader whose errors say where and what was meant.

It reads what the parser inside Caffe reads. Protobuf's own Python parser is not used: it names neither the nearest
field nor the value that was expected, its messages change with its version, and it does not tell where a layer begins.
"""

import bisect
import re
from pathlib import Path

from google.protobuf import text_encoding, text_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from caffelite.errors import PrototxtError
from caffelite.proto.schema import is_repeated, message, nearest

_BLANK = re.compile(r"(?:[ \t\r\n\v\f]+|#[^\n]*)*")
_TOKEN = re.compile(
    r"""(?P<name>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<number>(?:0[xX][0-9a-fA-F]+|(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?[fF]?)(?![\w.]))
      | (?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
      | (?P<symbol>[{}<>\[\]:;,-])
      | (?P<end>\Z)""",
    re.VERBOSE,
)
_BOOLS = {"true": True, "True": True, "t": True, "1": True, "false": False, "False": False, "f": False, "0": False}
_INTEGERS = {
    FieldDescriptor.TYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.TYPE_UINT64: (0, 2**64 - 1),
}
_FLOATS = (FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE)
LAYERS = ("LayerParameter", "V1LayerParameter")
OF_ANOTHER_CAFFE = (
    "(if a fork of Caffe has it: that layer is not here; take it out, or write it as a Python layer that reads its "
    "numbers from python_param { param_str })"
)
# {(message, field of a fork): what to do}
OF_FORKS = {
    ("PoolingParameter", "ceil_mode"): "write round_mode: FLOOR for ceil_mode: false, and nothing for true",
    ("ConvolutionParameter", "hole"): "write dilation in its place",
    ("BatchNormParameter", "scale_bias"): 'put a layer of type "Scale" with bias_term: true behind this one',
    ("NetParameter", "engine"): "delete it",
    ("NetParameter", "bn_stats_batch_size"): "delete it",
    ("NetParameter", "default_forward_type"): "delete it",
    ("NetParameter", "default_backward_type"): "delete it",
    ("LayerParameter", "engine"): "delete it",
}


class TextReader:
    """One pass over a text that fills a message; `fields` lists (name, line) of the fields of the outermost level."""

    def __init__(self, text: str, path: str | Path = "<text>") -> None:
        self.text, self.path = text, path
        self.fields: list[tuple[str, int]] = []
        self._line_ends = [match.start() for match in re.finditer("\n", text)]
        self._stop = 0
        self._advance()

    def read(self, target: Message) -> None:
        """Fill `target` from the whole text; raises PrototxtError."""
        while self._kind != "end":
            self._field(target, outermost=True)
        self._check_complete(target, self._start)

    def error(self, problem: str, position: int | None = None) -> PrototxtError:
        """The error "file:line:column: problem" at `position`, or at the current token."""
        position = self._start if position is None else position
        line = self._line(position)
        start_of_line = self._line_ends[line - 2] + 1 if line > 1 else 0
        return PrototxtError(f"{self.path}:{line}:{position - start_of_line + 1}: {problem}")

    def _line(self, position: int) -> int:
        return bisect.bisect_left(self._line_ends, position) + 1

    def _advance(self) -> None:
        self._start = _BLANK.match(self.text, self._stop).end()
        match = _TOKEN.match(self.text, self._start)
        if match is None:
            raise self._bad_character()
        self._kind, self._token, self._stop = match.lastgroup, match.group(), match.end()

    def _bad_character(self) -> PrototxtError:
        character = self.text[self._start]
        if "\udc80" <= character <= "\udcff":
            return self.error(f"byte 0x{ord(character) & 0xFF:02x} is not UTF-8; save the file as UTF-8")
        if character in "\"'":
            return self.error("the string that begins here is not closed on its line")
        if character.isdigit() or character == ".":
            word = re.compile(r"[\w.]*").match(self.text, self._start).group()
            return self.error(f"{word or character} is not a number")
        return self.error(f"unexpected character {character!r}")

    def _found(self) -> str:
        return "the end of the text" if self._kind == "end" else self._token

    def _take(self, symbol: str) -> bool:
        if self._token != symbol or self._kind != "symbol":
            return False
        self._advance()
        return True

    def _field(self, target: Message, outermost: bool = False) -> None:
        start, name = self._start, self._token
        if self._kind != "name":
            raise self.error(f"expected the name of a field, found {self._found()}")
        field = target.DESCRIPTOR.fields_by_name.get(name)
        if field is None:
            raise self.error(_unknown_field(target, name))
        if not is_repeated(field) and target.HasField(name):
            raise self.error(f"{target.DESCRIPTOR.name}.{name} is given twice, but holds one value only")
        self._advance()
        if not self._take(":") and field.message_type is None:
            raise self.error(f'expected ":" and a value after {name}, found {self._found()}')
        if is_repeated(field) and self._take("["):
            while not self._take("]"):
                self._value(target, field, start, outermost)
                if not self._take(",") and self._token != "]":
                    raise self.error(f'expected "," or "]" in the list of {name}, found {self._found()}')
        else:
            self._value(target, field, start, outermost)
        if not self._take(";"):
            self._take(",")

    def _value(self, target: Message, field: FieldDescriptor, start: int, outermost: bool) -> None:
        if outermost:
            self.fields.append((field.name, self._line(start)))
        if field.message_type is not None:
            self._message(target, field, start)
        elif is_repeated(field):
            getattr(target, field.name).append(self._scalar(field))
        else:
            setattr(target, field.name, self._scalar(field))

    def _message(self, target: Message, field: FieldDescriptor, start: int) -> None:
        if self._token not in ("{", "<"):
            raise self.error(f'{field.name} is a {field.message_type.name}: expected "{{", found {self._found()}')
        close = "}" if self._token == "{" else ">"
        self._advance()
        value = getattr(target, field.name)
        if is_repeated(field):
            value = value.add()
        else:
            value.SetInParent()
        # no message of the schema contains itself, so the depth of a text is bounded by the schema
        while not self._take(close):
            if self._kind == "end":
                raise self.error(f'expected "{close}" for {field.name} of line {self._line(start)}, found the end')
            self._field(value)
        self._check_complete(value, start)

    def _check_complete(self, value: Message, position: int) -> None:
        if not value.IsInitialized():
            missing = " and ".join(value.FindInitializationErrors())
            raise self.error(f"{value.DESCRIPTOR.name} lacks {missing}, which it needs", position)

    def _scalar(self, field: FieldDescriptor) -> int | float | bool | str | bytes:
        if field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES):
            return self._string(field)
        if field.enum_type is not None:
            return self._enum(field)
        start = self._start
        negative = field.type != FieldDescriptor.TYPE_BOOL and self._take("-")
        value: int | float | bool | None = None
        if field.type == FieldDescriptor.TYPE_BOOL:
            value, expected = _BOOLS.get(self._token), "true or false"
        elif field.type in _FLOATS:
            value, expected = self._float(), "a number"
        else:
            lowest, highest = _INTEGERS[field.type]
            value, expected = self._integer(), f"an integer from {lowest} to {highest}"
            if value is not None and not lowest <= (-value if negative else value) <= highest:
                value = None
        if value is None:
            found = "-" * negative + self._found()
            raise self.error(f"{_name(field)} expects {expected}, found {found}", start)
        self._advance()
        return -value if negative else value

    def _integer(self) -> int | None:
        if not re.fullmatch(r"0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*", self._token):
            return None
        # a leading 0 means octal, as in C
        octal = self._token.startswith("0") and self._token.isdigit()
        return int(self._token, 8 if octal else 0)

    def _float(self) -> float | None:
        if self._kind == "number" and re.fullmatch("0[0-9]+", self._token):
            return self._integer()  # octal in a float's place, too, or nothing
        if self._kind == "number" and not self._token.lower().startswith("0x"):
            return float(self._token.rstrip("fF"))
        if self._kind == "name" and self._token.lower() in ("inf", "infinity", "nan"):
            return float(self._token)
        return None

    def _string(self, field: FieldDescriptor) -> str | bytes:
        if self._kind != "string":
            raise self.error(f"{_name(field)} expects a string in quotes, found {self._found()}")
        start, value = self._start, b""
        not_utf8 = f"the string of {field.name} is not UTF-8; save the file as UTF-8"
        while self._kind == "string":
            try:
                value += text_encoding.CUnescape(self._token[1:-1])
            except UnicodeEncodeError as error:
                raise self.error(not_utf8) from error
            except ValueError as error:
                raise self.error(f"the string of {field.name} has a wrong escape: {error}") from error
            self._advance()
        try:
            return value.decode() if field.type == FieldDescriptor.TYPE_STRING else value
        except UnicodeDecodeError as error:
            raise self.error(not_utf8, start) from error

    def _enum(self, field: FieldDescriptor) -> int:
        values, start = field.enum_type.values_by_name, self._start
        if self._kind == "name" and self._token in values:
            number = values[self._token].number
            self._advance()
            return number
        negative = self._take("-")
        number = self._integer()
        number = -number if number is not None and negative else number
        # protobuf looks numbers up by their last 32 bits
        if number is not None and abs(number) < 2**31 and number in field.enum_type.values_by_number:
            self._advance()
            return number
        advice = nearest(self._token.strip("\"'"), values)
        if field.containing_type.name == "V1LayerParameter" and self._kind == "string":
            advice = "types in quotes belong into `layer { ... }`, not into `layers { ... }`"
        problem = f"{_name(field)} expects a name of {field.enum_type.name} without quotes, found {self._found()}"
        raise self.error(f"{problem}; {advice}", start)


def _name(field: FieldDescriptor) -> str:
    return f"{field.containing_type.name}.{field.name}"


def _unknown_field(target: Message, name: str) -> str:
    descriptor = target.DESCRIPTOR
    if (descriptor.name, name) in OF_FORKS:
        return f"{descriptor.name} has no field {name}, which is a fork's: {OF_FORKS[descriptor.name, name]}"
    inside = [f.name for f in descriptor.fields if f.message_type and name in f.message_type.fields_by_name]
    advice = nearest(name, descriptor.fields_by_name)
    if inside and not advice.startswith("did"):
        advice = f"it belongs inside {' or '.join(inside[:4])}"
    problem = f"{descriptor.name} has no field {name}; {advice}"
    if descriptor.name in LAYERS and name.endswith("_param"):
        kind = f" ({target.type})" if descriptor.name == "LayerParameter" and target.type else ""
        problem = f"layer {target.name!r}{kind}: {problem} {OF_ANOTHER_CAFFE}"
    return problem


def parse_text(text: str, type_name: str, path: str | Path = "<text>") -> Message:
    """The message `type_name` that a text describes; `path` is named in errors.

    Raises PrototxtError, "file:line:column: problem", for bad syntax, unknown fields and enum values, wrong types,
    fields given twice and missing required fields.
    """
    parsed = message(type_name)()
    TextReader(text, path).read(parsed)
    return parsed


def to_text(value: Message) -> str:
    """A message as text that parse_text and Caffe read."""
    return text_format.MessageToString(value)
