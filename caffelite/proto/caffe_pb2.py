"""Every message class and enum value under the names that code generated from caffe.proto has.

>>> from caffelite.proto import caffe_pb2
>>> caffe_pb2.NetState(phase=caffe_pb2.TEST).phase == caffe_pb2.Phase.Value("TEST")
True
"""

from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

from caffelite.proto.schema import FILE, POOL, enum, message

DESCRIPTOR = POOL.FindFileByName(FILE.name)

__all__ = ["DESCRIPTOR"]
for _message in FILE.message_type:
    globals()[_message.name] = message(_message.name)
    __all__ += [_message.name]
for _enum in FILE.enum_type:
    globals()[_enum.name] = EnumTypeWrapper(enum(_enum.name))
    globals().update((value.name, value.number) for value in _enum.value)
    __all__ += [_enum.name, *(value.name for value in _enum.value)]
