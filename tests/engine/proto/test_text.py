"""The text reader: what protobuf's parser reads it reads, and its errors say where and what was meant."""

import json
import math

import pytest
from google.protobuf import text_format

from caffelite.errors import PrototxtError
from caffelite.proto import message, parse_text, to_text


def layer(text):
    return parse_text(f"layer {{ {text} }}", "NetParameter").layer[0]


def error_of(text, type_name="NetParameter"):
    with pytest.raises(PrototxtError) as caught:
        parse_text(text, type_name, "net.prototxt")
    return str(caught.value)


def test_all_notations():
    net = parse_text(
        """
        # a comment; with "quotes" and { braces
        name: 'sin' "gle\\x41\\101\\n" # strings of one field join
        layer < name: "a", bottom: ["x", 'y'] ; top: [] loss_weight: [1, -2.5e-1, .5, 3., 1.5f, inf] >
        layer: [{ name: "b" }, { name: "c" phase: TEST, }]
        layer { phase: 1 param { lr_mult: -inf decay_mult: nan } propagate_down: [true, False, t, 0] }
        input_shape: { dim: 0x10 dim: 010 dim: -9223372036854775808 }
        """,
        "NetParameter",
    )
    assert net.name == "singleAA\n"
    assert [entry.name for entry in net.layer] == ["a", "b", "c", ""]
    assert list(net.layer[0].bottom) == ["x", "y"] and not net.layer[0].top
    assert list(net.layer[0].loss_weight) == [1, -0.25, 0.5, 3, 1.5, math.inf]
    assert net.layer[2].phase == net.layer[3].phase == 1
    assert net.layer[3].param[0].lr_mult == -math.inf and math.isnan(net.layer[3].param[0].decay_mult)
    assert list(net.layer[3].propagate_down) == [True, False, True, False]
    assert list(net.input_shape[0].dim) == [16, 8, -(2**63)]


def test_a_leading_zero_means_octal_in_every_number():
    net = parse_text("input_dim: 010 layer { loss_weight: 010 loss_weight: 0 loss_weight: 0.5 }", "NetParameter")
    assert net.input_dim == [8] and net.layer[0].loss_weight == [8, 0, 0.5]


def test_an_empty_block_is_present():
    assert layer("relu_param { }").HasField("relu_param")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: 'a'\n  lair { }", "2:3: NetParameter has no field lair; did you mean layer or layers?"),
        ("layer { relu_param { slope: 1 } }", "1:22: ReLUParameter has no field slope; did you mean negative_slope?"),
        ("layer { num_output: 3 }", "1:9: LayerParameter has no field num_output; it belongs inside convolution_param"),
        ("layer { pooling_param { pool: AVG } }", "1:31: PoolingParameter.pool expects a name of PoolMethod"),
        ("layer { pooling_param { pool: AVG } }", "found AVG; did you mean AVE?"),
        ("layer { phase: 7 }", "1:16: LayerParameter.phase expects a name of Phase without quotes, found 7"),
        ('layer { phase: "TEST" }', 'without quotes, found "TEST"; did you mean TEST?'),
        ('layers { type: "ReLU" }', "types in quotes belong into `layer { ... }`"),
        ("layer { type: ReLU }", "1:15: LayerParameter.type expects a string in quotes, found ReLU"),
        ('layer { inner_product_param { num_output: "3" } }', "num_output expects an integer from 0 to 4294967295"),
        ("layer { convolution_param { pad: -1 } }", "1:34: ConvolutionParameter.pad expects an integer from 0"),
        ("layer { convolution_param { pad: 1.5 } }", "found 1.5"),
        ("input_dim: 2147483648", "1:12: NetParameter.input_dim expects an integer from -2147483648 to 2147483647"),
        ("input_dim: 09", "1:12: NetParameter.input_dim expects an integer"),
        ("layer { loss_weight: x }", "1:22: LayerParameter.loss_weight expects a number, found x"),
        ("force_backward: yes", "1:17: NetParameter.force_backward expects true or false, found yes"),
        ("name: 'a' name: 'b'", "1:11: NetParameter.name is given twice"),
        ("layer { relu_param { } relu_param { } }", "1:24: LayerParameter.relu_param is given twice"),
        ("name 'a'", "1:6: expected \":\" and a value after name, found 'a'"),
        ("layer 3", '1:7: layer is a LayerParameter: expected "{", found 3'),
        ("layer {\n name: 'x'\n", '3:1: expected "}" for layer of line 1'),
        ("layer { } }", "1:11: expected the name of a field, found }"),
        ("layer { bottom: ['a' 'b' x] }", '1:26: expected "," or "]" in the list of bottom, found x'),
        ("name: ['a']", "1:7: NetParameter.name expects a string in quotes, found ["),
        ("name: 'a", "1:7: the string that begins here is not closed on its line"),
        ("name: '\\x'", "1:7: the string of name has a wrong escape"),
        ("name: '\\377'", "1:7: the string of name is not UTF-8"),
        ("layer { pooling_param { pool: 77 } }", "1:31: PoolingParameter.pool expects a name of PoolMethod"),
        ("layer { pooling_param { pool: 4294967296 } }", "1:31: PoolingParameter.pool expects a name of PoolMethod"),
        ("layer { loss_weight: 08 }", "1:22: LayerParameter.loss_weight expects a number, found 08"),
        (
            "layer { name: 'b' type: 'BN' bn_param { } }",
            "1:30: layer 'b' (BN): LayerParameter has no field bn_param; did you mean mvn_param",
        ),
        ("layers { name: 'b' bn_param { } }", "1:20: layer 'b': V1LayerParameter has no field bn_param"),
        ("layer { pooling_param { ceil_mode: false } }", "which is a fork's: write round_mode: FLOOR"),
        ("engine: 'MKLDNN'", "1:1: NetParameter has no field engine, which is a fork's: delete it"),
        ("input_dim: 3x", "1:12: 3x is not a number"),
        ("name = 'a'", "1:6: unexpected character '='"),
        ("layer { clip_param { min: 0 } }", "1:9: ClipParameter lacks max, which it needs"),
    ],
)
def test_errors(text, expected):
    error = error_of(text)
    assert error.startswith("net.prototxt:") and expected in error


def test_a_message_of_required_fields_alone_is_checked_too():
    assert "ClipParameter lacks max" in error_of("min: 1", "ClipParameter")


@pytest.mark.parametrize("text", ["{" * 100000, "layer {" * 100000, "layer: [" * 100000, "[" * 100000, "-" * 100000])
def test_hostile_nesting(text):
    assert error_of(text).startswith("net.prototxt:1:")


def test_long_blanks_and_strings():
    text = "#\n" * 200000 + f"name: '{'x' * 1000000}'"
    assert len(parse_text(text, "NetParameter").name) == 1000000


def test_text_goes_round():
    net = parse_text(
        'name: "ä\\n\\"" layer { name: "c" loss_weight: 0.1 loss_weight: 1e-30 clip_param { min: -inf max: nan } '
        "convolution_param { kernel_size: [3, 5] weight_filler { type: 'xavier' variance_norm: AVERAGE } } }",
        "NetParameter",
    )
    again = parse_text(to_text(net), "NetParameter")
    assert to_text(again) == to_text(net)


def test_reads_what_protobuf_reads(shared):
    """Public texts of many repositories: the same message, or an error where Caffe has one."""
    expected = json.loads((shared / "real" / "prototxts" / "expected.json").read_text())
    for name, phases in expected.items():
        text = (shared / "real" / "prototxts" / name).read_bytes().decode("utf-8", "surrogateescape")
        refused = any("Failed to parse" in result.get("error", "") for result in phases.values())
        if refused:
            assert name.rpartition("/")[2] in _refusal(text, name)
        else:
            reference = text_format.Parse(text, message("NetParameter")())
            assert parse_text(text, "NetParameter", name) == reference, name


def _refusal(text, name):
    with pytest.raises(PrototxtError) as caught:
        parse_text(text, "NetParameter", name)
    return str(caught.value)


def test_refuses_what_caffe_refuses(shared):
    for path in sorted((shared / "golden" / "errors").glob("*.json")):
        case = json.loads(path.read_text())
        if "protobuf_errors" not in case:
            continue
        text = path.with_suffix(".prototxt").read_text()
        line = int(case["protobuf_errors"][0].split("NetParameter: ")[1].split(":")[0])
        assert f"{path.stem}:{line}:" in _refusal(text, path.stem)
