"""Published weights give the numbers that the original Caffe computes from them."""

import json

import cv2
import numpy as np
import pytest

import caffelite as caffe

# number of blobs that are compared, and of detections
MODELS = {
    "libfacedetection_ssd_v1": (6, 11),
    "mtcnn_det1": (4, None),
    "mtcnn_det2": (6, None),
    "mtcnn_det3": (8, None),
    "wechat_qr_ssd": (6, 1),
}


@pytest.mark.parametrize("name", MODELS)
def test_outputs_and_inner_blobs(shared, name):
    folder = shared / "real" / "models" / name
    expected = np.load(folder / "expected.npz")
    net = caffe.Net(str(folder / "deploy.prototxt"), str(folder / "weights.caffemodel"), caffe.TEST)
    data = expected["in:data"]
    net.blobs["data"].reshape(*data.shape)
    net.blobs["data"].data[...] = data
    net.forward()
    assert {key: list(blob.shape) for key, blob in net.blobs.items()} == json.loads(str(expected["shapes"]))
    outputs, detections = [key for key in expected.files if key.startswith("out:")], None
    for key in outputs:
        actual, value = net.blobs[key.removeprefix("out:")].data, expected[key]
        if "detection" in key:
            # image, class, score and box in rows from the best to the worst: each row in its place
            detections = len(value[0, 0])
            np.testing.assert_array_equal(actual[..., :2], value[..., :2])
            np.testing.assert_allclose(actual, value, rtol=1e-4, atol=1e-5, err_msg=key)
        np.testing.assert_allclose(actual, value, rtol=0, atol=1e-4 * np.abs(value).max(), err_msg=key)
    assert (len(outputs), detections) == MODELS[name]


def test_all_models_are_tried(shared):
    assert sorted(path.name for path in (shared / "real" / "models").iterdir()) == sorted(MODELS)


def test_squeezenet_probabilities(shared):
    folder = shared / "real" / "imagenet" / "squeezenet_v1.0"
    expected = np.load(folder / "expected.npz")
    net = caffe.Net(str(folder / "deploy.prototxt"), str(folder / "squeezenet_v1.0.caffemodel"), caffe.TEST)
    images = []
    for name in expected["names"]:
        image = cv2.imread(str(shared / "real" / "images" / "VOC2012_100" / "JPEGImages" / f"{name}.jpg"))
        images.append(cv2.resize(image, (227, 227)).astype(np.float32) - np.float32([104, 117, 123]))
    data = np.stack(images).transpose(0, 3, 1, 2)
    probabilities = net.forward_all(data=data)["prob"].reshape(len(data), -1)
    np.testing.assert_allclose(probabilities, expected["prob"], atol=1e-4, rtol=0)
    np.testing.assert_array_equal(probabilities.argmax(axis=1), expected["prob"].argmax(axis=1))
    airliner = list(expected["names"]).index("2007_000033")
    assert probabilities[airliner].argmax() == 404
