"""Caffe's messages and enums as Python classes, from caffe.desc, in a descriptor pool of their own.

The private pool lets a program import its own caffe_pb2 beside this package: two files that define `caffe.NetParameter`
cannot share a pool. Descriptors instead of generated code run on any protobuf from 4.21 on.
"""

import difflib
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

PACKAGE = "caffe"


def _load() -> tuple[descriptor_pool.DescriptorPool, descriptor_pb2.FileDescriptorProto]:
    files = descriptor_pb2.FileDescriptorSet.FromString((Path(__file__).parent / "caffe.desc").read_bytes())
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(files.file[0].SerializeToString())
    return pool, files.file[0]


POOL, FILE = _load()


def nearest(name: str, known: Iterable[str]) -> str:
    """Advice for an unknown `name`: the known names that look like it, else all if they are few, else the nearest."""
    folded = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name.lower(), folded, n=3, cutoff=0.6)
    close = close or [candidate for candidate in folded if name.lower() in candidate][:3]
    if close:
        return f"did you mean {' or '.join(map(folded.get, close))}?"
    if len(folded) <= 16:
        return f"known: {', '.join(folded.values())}"
    return f"nearest: {', '.join(map(folded.get, difflib.get_close_matches(name.lower(), folded, n=3, cutoff=0)))}"


@cache
def message(name: str) -> type[Message]:
    """The class of message `name`, such as "LayerParameter"; raises KeyError for an unknown one."""
    try:
        descriptor = POOL.FindMessageTypeByName(f"{PACKAGE}.{name}")
    except KeyError:
        advice = nearest(name, (entry.name for entry in FILE.message_type))
        raise KeyError(f"no message {name}; {advice}") from None
    return message_class(descriptor)


def message_class(descriptor: Descriptor) -> type[Message]:
    """The class of a message descriptor of this schema."""
    if hasattr(message_factory, "GetMessageClass"):
        return message_factory.GetMessageClass(descriptor)
    # protobuf 4.21 has the older interface only; the newest have no MessageFactory.GetPrototype any more
    return message_factory.MessageFactory(POOL).GetPrototype(descriptor)


def enum(name: str) -> EnumDescriptor:
    """The descriptor of enum `name`, such as "Phase" or "PoolingParameter.PoolMethod"; raises KeyError."""
    return POOL.FindEnumTypeByName(f"{PACKAGE}.{name}")


def is_repeated(field: FieldDescriptor) -> bool:
    """Whether a field holds a list; newer protobufs drop `label`, older ones lack `is_repeated`."""
    return field.is_repeated if hasattr(field, "is_repeated") else field.label == FieldDescriptor.LABEL_REPEATED


def is_required(field: FieldDescriptor) -> bool:
    """Whether a message is incomplete without the field."""
    return field.is_required if hasattr(field, "is_required") else field.label == FieldDescriptor.LABEL_REQUIRED
