"""The SSD layers against values of the original: bit for bit where the arithmetic allows it."""

import numpy as np
import pytest

import caffelite as caffe


def run(folder):
    """A net of golden data after its forward and, where there is one, backward pass; and the expected arrays."""
    values = np.load(folder / "data.npz")
    net = caffe.Net(str(folder / "net.prototxt"), getattr(caffe, str(values["phase"])))
    for key in values.files:
        kind, _, name = key.partition(":")
        if kind == "param":
            layer, _, index = name.partition(":")
            net.params[layer][int(index)].data[...] = values[key]
        if kind == "in":
            net.blobs[name].data[...] = values[key]
    net.forward()
    if "topdiff:loss" in values.files:
        net.blobs["loss"].diff[...] = values["topdiff:loss"]
        net.backward()
    return net, values


def cases(shared, prefix, count):
    folders = sorted((shared / "golden" / "layers").glob(f"{prefix}_*"))
    assert len(folders) == count
    return folders


@pytest.mark.parametrize(("prefix", "count"), [("priorbox", 8), ("detout", 10)])
def test_priors_and_detections_are_the_same_bits(shared, prefix, count):
    for folder in cases(shared, prefix, count):
        net, values = run(folder)
        np.testing.assert_array_equal(net.blobs["out"].data, values["out:out"], err_msg=folder.name)


def test_matched_and_mined_priors_are_the_same(shared):
    for folder in cases(shared, "multibox", 25):
        net, values = run(folder)
        np.testing.assert_allclose(net.blobs["loss"].data, values["out:loss"], rtol=5e-7, err_msg=folder.name)
        for name in ("loc", "conf"):
            if f"bottomdiff:{name}" in values.files:
                diff, expected = net.blobs[name].diff, values[f"bottomdiff:{name}"]
                np.testing.assert_array_equal(diff != 0, expected != 0, err_msg=folder.name)
                np.testing.assert_allclose(diff, expected, rtol=1e-6, atol=1e-7, err_msg=folder.name)


def test_a_trained_net_detects_the_same(shared):
    """ssd_train: the weights that the original ended with, its minibatch 0, its detections."""
    values = np.load(shared / "golden" / "ssd_train" / "data.npz")
    net = caffe.Net(str(shared / "golden" / "ssd_train" / "net.prototxt"), caffe.TEST)
    for key in values.files:
        if key.startswith("param:"):
            _, layer, index = key.split(":")
            net.params[layer][int(index)].data[...] = values[key][-1]
    net.blobs["data"].data[...] = values["in:data"][0]
    net.forward()
    np.testing.assert_allclose(net.blobs["detection_out"].data, values["test:detection_out"], atol=1e-5)
