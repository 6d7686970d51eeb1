"""Classifier and Detector: crops, preprocessing and predictions of nets whose answers are known."""

import cv2
import numpy as np
import pytest

import caffelite as caffe
from caffelite.detector import context_box
from caffelite.io import InputError

MEAN_NET = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 4 dim: 3 dim: 6 dim: 6 } } }
layer { name: "mean" type: "Pooling" bottom: "data" top: "mean" pooling_param { pool: AVE global_pooling: true } }
"""
SUM_NET = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 1 dim: 2 dim: 2 } } }
layer { name: "score" type: "InnerProduct" bottom: "data" top: "score" inner_product_param { num_output: 2 } }
"""


@pytest.fixture
def mean_net(tmp_path):
    path = tmp_path / "mean.prototxt"
    path.write_text(MEAN_NET)
    return str(path)


@pytest.fixture
def picture(tmp_path):
    """An image file of 20 x 30 whose red channel is its row and whose green channel is its column."""
    path = str(tmp_path / "picture.png")
    rows, columns = np.mgrid[:20, :30].astype(np.uint8)
    cv2.imwrite(path, np.dstack([np.zeros_like(rows), columns, rows]))
    return path


def test_classifier_loads_weights_and_predicts_by_batches(tmp_path):
    path, weights = tmp_path / "sum.prototxt", tmp_path / "sum.caffemodel"
    path.write_text(SUM_NET)
    net = caffe.Net(str(path), caffe.TEST)
    net.params["score"][0].data[...] = [[1, 1, 1, 1], [1, 0, 0, -1]]
    net.params["score"][1].data[...] = [0, 10]
    net.save(str(weights))

    classifier = caffe.Classifier(str(path), str(weights), raw_scale=2, mean=np.array([1.0]))
    images = [np.float32([[[1], [2]], [[3], [4]]]) + i for i in range(3)]
    # 2 * image - 1 is 1 3 5 7, then 3 5 7 9, then 5 7 9 11
    np.testing.assert_allclose(classifier.predict(images, oversample=False), [[16, 4], [24, 4], [32, 4]])


def test_classifier_crops(mean_net):
    rows, columns = np.mgrid[:8, :10].astype(np.float32)
    image = np.dstack([np.ones_like(rows), columns, rows])
    classifier = caffe.Classifier(mean_net, None, image_dims=(8, 10), channel_swap=(2, 1, 0), input_scale=10)
    centre = classifier.predict([image], oversample=False)
    # rows 1..6, columns 2..7, the last channel first
    np.testing.assert_allclose(centre.squeeze(), [35, 45, 10])
    np.testing.assert_allclose(classifier.predict([image, image]), [[35, 45, 10]] * 2)
    assert classifier.predict([image[:, :5]], oversample=False).squeeze()[1] == pytest.approx(20)


def test_classifier_resizes_to_the_input_by_default(mean_net):
    image = np.zeros((12, 12, 3), np.float32)
    image[:, 6:] = 1
    np.testing.assert_allclose(caffe.Classifier(mean_net, None).predict([image]), [[0.5, 0.5, 0.5]])


@pytest.mark.parametrize(
    "inputs, says",
    [
        ("photo.jpg", r"expected a list of images, as \[caffe\.io\.load_image\(file\)\], actual 'photo\.jpg'"),
        ([], "expected a list of images"),
        (
            np.zeros((9, 8, 3)),
            r"image 0: expected \(height, width, 3\), actual shape \(8, 3\); one image is a list of one",
        ),
        (
            [np.zeros((9, 8, 3)), np.zeros((9, 8, 1))],
            r"image 1: expected \(height, width, 3\), actual shape \(9, 8, 1\)$",
        ),
    ],
)
def test_what_is_no_list_of_images(mean_net, inputs, says):
    with pytest.raises(caffe.io.InputError, match=says):
        caffe.Classifier(mean_net, None).predict(inputs)


@pytest.mark.parametrize(
    "mean, says",
    [
        ("mean.npy", r"expected an array, as np\.load\('mean\.npy'\)"),
        (np.zeros((3, 256, 256)), r"mean\.mean\(1\)\.mean\(1\) has one value per channel$"),
        (np.zeros((1, 3, 2, 2)), r"mean\[0\] has the axes of one image$"),
    ],
)
def test_means_that_do_not_fit(mean_net, mean, says):
    with pytest.raises(caffe.io.InputError, match=says):
        caffe.Classifier(mean_net, None, mean=mean)


def test_a_phase_is_train_or_test(mean_net):
    with pytest.raises(caffe.errors.NetError, match=r"expected caffe\.TRAIN or caffe\.TEST, actual 'TEST'"):
        caffe.Net(mean_net, phase="TEST")


def test_detector_windows(mean_net, picture):
    detector = caffe.Detector(mean_net, None, raw_scale=255)
    windows = [(0, 0, 6, 6), (2, 4, 14, 28), (19, 29, 20, 30)] * 2
    detections = detector.detect_windows([(picture, windows), (picture, windows[:1])])
    assert [d["window"] for d in detections] == windows + windows[:1]
    assert {d["filename"] for d in detections} == {picture}
    for detection in detections:
        y1, x1, y2, x2 = detection["window"]
        expected = [(y1 + y2 - 1) / 2, (x1 + x2 - 1) / 2, 0]
        np.testing.assert_allclose(detection["prediction"].squeeze(), expected, atol=1e-3)
    assert detector.detect_windows([(picture, [])]) == []


def test_detector_context_by_hand(mean_net):
    detector = caffe.Detector(mean_net, None, mean=np.array([1.0, 2.0, 3.0]), channel_swap=(2, 1, 0), context_pad=1)
    # (5 - 1 + 1) / 2 above and below 3.5, times 6 / 4: -0.25 and 7.25
    assert context_box((1, 1, 5, 5), 1.5).tolist() == [0, 0, 7, 7]
    image = np.full((20, 20, 3), 9, np.float32)
    assert np.all(detector.crop(image, (5, 5, 9, 9)) == 9)
    # at the corner the box starts at -1 and is 9 wide: of the input's 6 pixels, the first is outside
    assert context_box((0, 0, 4, 4), 1.5).tolist() == [-1, -1, 6, 6]
    crop = detector.crop(image, (0, 0, 4, 4))
    assert crop.shape == (6, 6, 3)
    assert np.all(crop[1:, 1:] == 9)
    assert np.all(crop[0] == [3, 2, 1]) and np.all(crop[:, 0] == [3, 2, 1])


def test_detector_context_outside_becomes_zero_after_the_mean(mean_net):
    """Padding is the mean in the image's terms, so that preprocessing takes it to zero."""
    detector = caffe.Detector(
        mean_net, None, mean=np.arange(108.0).reshape(3, 6, 6), raw_scale=255, channel_swap=(1, 2, 0), context_pad=2
    )
    crop = detector.crop(np.ones((4, 4, 3), np.float32), (0, 0, 4, 4))
    prepared = detector.transformer.preprocess("data", crop)
    np.testing.assert_allclose(prepared[:, 0], 0, atol=1e-4)
    assert np.all(prepared[:, 2:4, 2:4] > 100)


def test_detector_proposals(mean_net, picture):
    detector = caffe.Detector(mean_net, None)
    asked = []

    def windows(filenames):
        asked.extend(filenames)
        return [[(0, 0, 2, 2)]] * len(filenames)

    detections = detector.detect_selective_search([picture], windows)
    assert asked == [picture] and [d["window"] for d in detections] == [(0, 0, 2, 2)]


def test_detector_selective_search_of_its_own(mean_net, tmp_path):
    path = str(tmp_path / "square.png")
    image = np.full((80, 120, 3), 200, np.uint8)
    image[20:60, 30:90] = (20, 90, 160)
    cv2.imwrite(path, image)
    first, second = (caffe.detector.selective_search([path])[0] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert np.abs(first - [20, 30, 60, 90]).max(axis=1).min() <= 2
    assert len(caffe.Detector(mean_net, None).detect_selective_search([path])) == len(first)


def test_detector_errors(mean_net):
    with pytest.raises(InputError, match="context_pad 3"):
        caffe.Detector(mean_net, None, context_pad=3)
    with pytest.raises(InputError, match="not inside the image"):
        caffe.Detector(mean_net, None).crop(np.zeros((5, 5, 3), np.float32), (0, 0, 6, 5))
