"""The schema holds every fact of Caffe's, and lives beside a program's own copy of it."""

import struct

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import FieldDescriptor

from caffelite.proto import caffe_pb2, compile, schema

# numbers that mean two things in two forks; the SSD fork's is moved by 1000
MOVED = {("SolverParameter", "eval_type"), ("SolverParameter", "ap_version")}
TYPES = {value: name[5:].lower() for name, value in vars(FieldDescriptor).items() if name.startswith("TYPE_")}


def rows(shared):
    lines = (shared / "reference" / "schema.tsv").read_text().splitlines()
    return [line.split("\t") for line in lines if not line.startswith("#")]


def field_facts(field):
    label = "repeated" if schema.is_repeated(field) else "required" if schema.is_required(field) else "optional"
    if field.enum_type:
        kind = "enum " + field.enum_type.full_name.removeprefix("caffe.")
    else:
        kind = field.message_type.name if field.message_type else TYPES[field.type]
    return label, kind


def as_float32(value):
    return struct.unpack("f", struct.pack("f", value))[0]


def declared_default(field, text):
    """The default that the schema's table writes, as the field's Python value."""
    if field.enum_type:
        return field.enum_type.values_by_name[text].number
    kind = TYPES[field.type]
    if kind == "float":
        return as_float32(float(text))
    return {"bool": lambda t: t == "True", "string": str}.get(kind, int)(text)


def test_every_field_is_as_in_caffe(shared):
    packed = {(m.name, f.name): f.options.packed for m in schema.FILE.message_type for f in m.field}
    defaults = {(m.name, f.name): f.HasField("default_value") for m in schema.FILE.message_type for f in m.field}
    seen = set()
    for row in rows(shared):
        if row[0].startswith("enum "):
            continue
        owner, name, number, label, kind, default, is_packed, _ = row
        field = schema.message(owner).DESCRIPTOR.fields_by_name[name]
        moved = 1000 if (owner, name) in MOVED else 0
        assert field.number == int(number) + moved, (owner, name)
        assert field_facts(field) == (label, kind), (owner, name)
        assert packed[owner, name] == (is_packed == "packed"), (owner, name)
        assert defaults[owner, name] == (default != ""), (owner, name)
        if default:
            value = field.default_value
            # protobuf without its C part keeps the default of a float as a double
            value = as_float32(value) if kind == "float" else value
            assert value == declared_default(field, default), (owner, name)
        seen.add((owner, name))
    assert seen == set(packed)


def test_every_enum_is_as_in_caffe(shared):
    expected = {}
    for row in rows(shared):
        if row[0].startswith("enum "):
            expected.setdefault(row[0][5:], {})[row[1]] = int(row[2])
    for name, values in expected.items():
        assert {value.name: value.number for value in schema.enum(name).values} == values
    nested = sum(len(m.enum_type) for m in schema.FILE.message_type)
    assert len(expected) == nested + len(schema.FILE.enum_type)


def test_descriptors_are_current(tmp_path):
    pytest.importorskip("grpc_tools")
    compile.compile_schema(tmp_path / "caffe.desc")
    made = descriptor_pb2.FileDescriptorSet.FromString((tmp_path / "caffe.desc").read_bytes())
    assert made.file[0] == schema.FILE, "run `python -m caffelite.proto.compile`"


def test_the_default_pool_stays_free_for_another_caffe_pb2():
    """A program's own caffe_pb2 registers the same names in the default pool."""
    with pytest.raises(KeyError):
        descriptor_pool.Default().FindMessageTypeByName("caffe.NetParameter")


def test_caffe_pb2_has_the_generated_names():
    net = caffe_pb2.NetParameter(state=caffe_pb2.NetState(phase=caffe_pb2.TEST))
    assert net.state.phase == 1 and caffe_pb2.TRAIN == 0
    assert caffe_pb2.Phase.Name(1) == "TEST"
    assert caffe_pb2.PoolingParameter.AVE == caffe_pb2.PoolingParameter.PoolMethod.Value("AVE") == 1
    assert caffe_pb2.NetParameter is schema.message("NetParameter")


def test_an_unknown_message_names_the_nearest():
    with pytest.raises(KeyError, match="ConvolutionParameter"):
        schema.message("ConvolutionParam")


@pytest.mark.parametrize(
    ("name", "known", "advice"),
    [
        ("train", ["TRAIN", "TEST"], "did you mean TRAIN?"),
        ("slope", ["negative_slope", "engine"], "did you mean negative_slope?"),
        ("qqq", ["min", "max"], "known: min, max"),
    ],
)
def test_nearest(name, known, advice):
    assert schema.nearest(name, known) == advice


def test_nearest_of_many_unlike_names_is_short():
    advice = schema.nearest("zzz", [f"name_{i}" for i in range(40)])
    assert advice.startswith("nearest: ") and advice.count(",") == 2
