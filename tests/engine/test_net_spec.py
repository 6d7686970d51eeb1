"""Nets written in Python: names, parameters, order and errors."""

import pytest

from caffelite import proto
from caffelite.errors import NetError
from caffelite.net_spec import NetSpec, assign_proto, param_name_dict, to_proto
from caffelite.net_spec import layers as L
from caffelite.net_spec import params as P


def parse(text):
    return proto.parse_text(text, "NetParameter", "expected")


def test_named_net_is_the_prototxt_one_would_write():
    n = NetSpec()
    n.data, n.label = L.DummyData(shape=[{"dim": [8, 1, 28, 28]}, {"dim": [8]}], transform_param={"scale": 0.5}, ntop=2)
    n.conv1 = L.Convolution(
        n.data,
        kernel_size=5,
        num_output=20,
        weight_filler={"type": "xavier"},
        param=[{"lr_mult": 1}, {"lr_mult": 2, "decay_mult": 0}],
    )
    n.pool1 = L.Pooling(n.conv1, pool=P.Pooling.AVE, kernel_size=2, stride=2)
    n.ip1 = L.InnerProduct(n.pool1, num_output=10)
    n.relu1 = L.ReLU(n.ip1, in_place=True)
    n.loss = L.SoftmaxWithLoss(n.relu1, n.label, loss_weight=2, include={"phase": 0})
    assert n.to_proto() == parse(
        """
        layer { name: "data" type: "DummyData" top: "data" top: "label" transform_param { scale: 0.5 }
          dummy_data_param { shape { dim: 8 dim: 1 dim: 28 dim: 28 } shape { dim: 8 } } }
        layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
          param { lr_mult: 1 } param { lr_mult: 2 decay_mult: 0 }
          convolution_param { num_output: 20 kernel_size: 5 weight_filler { type: "xavier" } } }
        layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1"
          pooling_param { pool: AVE kernel_size: 2 stride: 2 } }
        layer { name: "ip1" type: "InnerProduct" bottom: "pool1" top: "ip1" inner_product_param { num_output: 10 } }
        layer { name: "relu1" type: "ReLU" bottom: "ip1" top: "ip1" }
        layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip1" bottom: "label" top: "loss" loss_weight: 2
          include { phase: TRAIN } }
        """
    )


def test_unnamed_layers_are_counted_by_type():
    data, label = L.DummyData(ntop=2)
    hidden = L.ReLU(L.InnerProduct(data), in_place=True)
    loss = L.SoftmaxWithLoss(L.InnerProduct(hidden), label)
    net = loss.to_proto()
    assert [layer.name for layer in net.layer] == [
        "DummyData1",
        "InnerProduct1",
        "ReLU1",
        "InnerProduct2",
        "SoftmaxWithLoss1",
    ]
    assert list(net.layer[0].top) == ["DummyData1", "DummyData2"]
    assert list(net.layer[2].top) == ["InnerProduct1"]
    assert list(net.layer[4].bottom) == ["InnerProduct2", "DummyData2"]


def test_names_are_used_and_the_rest_is_counted():
    n = NetSpec()
    n.out = L.ReLU(L.InnerProduct(L.Input()))
    assert [layer.name for layer in n.to_proto().layer] == ["Input1", "InnerProduct1", "out"]


def test_layers_without_tops_and_several_ends():
    n = NetSpec()
    n.a, n.b = L.DummyData(shape={"dim": 3}, ntop=2)
    n.quiet = L.Silence(n.a, ntop=0)
    n["also_quiet"] = L.Silence(n["b"], ntop=0)
    net = n.to_proto()
    assert [(layer.name, list(layer.bottom), list(layer.top)) for layer in net.layer[1:]] == [
        ("quiet", ["a"], []),
        ("also_quiet", ["b"], []),
    ]
    x = L.Input()
    assert [layer.type for layer in to_proto(L.ReLU(x), L.TanH(x)).layer] == ["Input", "ReLU", "TanH"]


def test_function_is_known_by_its_tops():
    tops = L.Slice(L.Input(), ntop=3, slice_point=[1, 2])
    fn = tops[1].fn
    assert fn.tops == tops and [top.n for top in tops] == [0, 1, 2]
    assert (fn.type_name, fn.params) == ("Slice", {"slice_point": [1, 2]})


def test_python_layer_and_parameters_given_as_a_message():
    n = NetSpec()
    n.data = L.Python(module="m", layer="Feed", param_str="{'a': 1}")
    n.up = L.Deconvolution(n.data, convolution_param={"num_output": 2, "kernel_size": [4, 2], "weight_filler": {}})
    net = n.to_proto()
    assert (net.layer[0].python_param.module, net.layer[0].python_param.param_str) == ("m", "{'a': 1}")
    assert list(net.layer[1].convolution_param.kernel_size) == [4, 2]


def test_parameter_fields_follow_the_schema():
    names = param_name_dict()
    expected = {"InnerProduct": "inner_product", "LRN": "lrn", "ROIPooling": "roi_pooling", "PReLU": "prelu"}
    assert {key: names[key] for key in expected} == expected
    assert P.Eltwise.MAX == 2 and P.LRN.WITHIN_CHANNEL == 1


def test_spec_changes():
    n = NetSpec()
    n.a = L.Input()
    n.b = L.Convolution(n.a, num_output=3)
    n.update("b", {"num_output": 4})
    assert n.keys() == ["a", "b"] and n.vals() == [n.a, n.b] and "a" in n
    assert n.to_proto().layer[1].convolution_param.num_output == 4
    del n.b
    assert len(n.to_proto().layer) == 1
    with pytest.raises(AttributeError, match="no top 'c'"):
        n.c  # noqa: B018


def test_deep_unnamed_nets_need_no_deep_recursion():
    top = L.Input()
    for _ in range(3000):
        top = L.ReLU(top, in_place=True)
    assert top.to_proto().layer[-1].name == "ReLU3000"


def test_errors_say_what_is_wrong():
    pair = L.DummyData(ntop=2)
    with pytest.raises(TypeError, match=r"^Silence input 0 is not a Top \(type is <class 'tuple'>\)$"):
        L.Silence(pair, ntop=0)
    n = NetSpec()
    with pytest.raises(TypeError, match="unpack the tops"):
        n.data = pair
    n.data = L.Input()
    n.conv = L.Convolution(n.data, kernal_size=3)
    with pytest.raises(NetError, match=r"Convolution has no parameter 'kernal_size'.*did you mean .*kernel_size"):
        n.to_proto()
    n.conv = L.Convolution(n.data, kernel_size="three")
    with pytest.raises(NetError, match=r"layer 'conv' \(Convolution\): .*kernel_size cannot be 'three'"):
        n.to_proto()


def test_assign_proto():
    layer = proto.message("LayerParameter")()
    assign_proto(layer, "top", "a")
    assign_proto(layer, "param", {"name": "w"})
    assign_proto(layer, "convolution_param", {"pad": (1, 2), "bias_filler": {"value": 0.5}})
    assert list(layer.top) == ["a"] and layer.param[0].name == "w"
    assert list(layer.convolution_param.pad) == [1, 2] and layer.convolution_param.bias_filler.value == 0.5
    with pytest.raises(NetError, match="LayerParameter has no field 'botom'; did you mean bottom"):
        assign_proto(layer, "botom", "a")
