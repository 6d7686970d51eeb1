"""DetectionOutput: small cases by hand, its result files, and what it refuses."""

import json

import numpy as np
import pytest

from caffelite import proto
from caffelite.errors import LayerError
from caffelite.layers.ssd.detection_files import to_pixels
from tests.engine.gradient_check import LayerRun

BOXES = np.array([[0.1, 0.1, 0.4, 0.4], [0.12, 0.1, 0.42, 0.4], [0.5, 0.5, 0.9, 0.8]])
PRIOR = np.stack([BOXES, np.full((3, 4), 0.1)]).reshape(1, 2, -1)
# one image, three priors, classes background, 1 and 2
SCORES = np.array([[[0.1, 0.9, 0.3], [0.1, 0.8, 0.3], [0.2, 0.0, 0.7]]])


def text(options="", classes=3):
    return f'type: "DetectionOutput" detection_output_param {{ num_classes: {classes} {options} }}'


def detect(options="", scores=SCORES, location=None, prior=PRIOR, classes=3):
    images = len(scores)
    location = np.zeros((images, prior.shape[2])) if location is None else location
    (top,) = LayerRun(
        text(options, classes),
        [location, scores.reshape(images, prior.shape[2] // 4 * scores.shape[2]), prior],
        phase=1,
    ).forward()
    assert top.shape[:2] == (1, 1) and top.shape[3] == 7
    return top[0, 0]


def found(options="", **values):
    """(label, index of the box, score in hundredths) of every detection."""
    rows = detect(options, **values)
    index = [int(np.abs(BOXES - row[3:]).sum(1).argmin()) for row in rows]
    return [(int(row[1]), i, round(float(row[2]) * 100)) for row, i in zip(rows, index)]


def test_thresholds_suppression_and_order():
    assert found("confidence_threshold: 0.05 nms_param { nms_threshold: 0.5 }") == [(1, 0, 90), (2, 2, 70), (2, 0, 30)]
    assert found("confidence_threshold: 0.7 nms_param { nms_threshold: 0.9 }") == [(1, 0, 90), (1, 1, 80)]
    assert found("confidence_threshold: 0.05 nms_param { nms_threshold: 0.5 top_k: 1 }") == [(1, 0, 90), (2, 2, 70)]
    assert found("nms_param { nms_threshold: 0.5 top_k: 0 } keep_top_k: 5 background_label_id: 1") == [(-1, 0, -100)]


def test_the_best_of_all_classes_are_kept_and_sorted_by_class():
    options = "confidence_threshold: 0.05 nms_param { nms_threshold: 1 }"
    assert found(f"{options} keep_top_k: 3") == [(1, 0, 90), (1, 1, 80), (2, 2, 70)]
    # of the equal ones the first class and prior comes first
    assert found(f"{options} keep_top_k: 4") == [(1, 0, 90), (1, 1, 80), (2, 2, 70), (2, 0, 30)]
    assert detect(f"{options} keep_top_k: 0").tolist() == [[0, -1, -1, -1, -1, -1, -1]]


def test_without_threshold_even_zero_scores_count_but_for_the_background():
    assert len(found("nms_param { nms_threshold: 1 }")) == 6
    assert len(found("nms_param { nms_threshold: 1 } background_label_id: 1")) == 6
    options = "nms_param { nms_threshold: 1 } background_label_id: -1 share_location: false"
    assert len(found(options, location=np.zeros((1, 36)))) == 9


def test_every_class_has_its_own_boxes_without_share_location():
    location = np.zeros((1, 3, 3, 4))
    location[0, 2, 2] = 1  # prior 2, class 2: all corners by 1 * 0.1
    options = "share_location: false confidence_threshold: 0.6 nms_param { nms_threshold: 0.5 }"
    rows = detect(options, location=location.reshape(1, -1))
    np.testing.assert_allclose(rows[:, 3:], [BOXES[0], BOXES[2] + 0.1], atol=1e-6)
    rows = detect(f"{options} variance_encoded_in_target: true", location=location.reshape(1, -1))
    np.testing.assert_allclose(rows[1, 3:], BOXES[2] + 1, atol=1e-6)


def test_images_without_detections_have_no_rows_unless_none_has_any():
    scores = np.concatenate([SCORES * 0, SCORES, SCORES * 0])
    options = "confidence_threshold: 0.75 nms_param { nms_threshold: 0.5 }"
    assert detect(options, scores=scores)[:, 0].tolist() == [1]
    assert detect(options, scores=scores * 0).tolist() == [[i, -1, -1, -1, -1, -1, -1] for i in range(3)]


def test_an_empty_batch_has_no_rows():
    assert detect(scores=SCORES[:0]).shape == (0, 7)


def test_overflowing_sizes_are_infinite_and_nan_is_refused():
    location = np.zeros((1, 12))
    location[0, 2] = 1e4
    options = "confidence_threshold: 0.85 code_type: CENTER_SIZE"
    np.testing.assert_allclose(detect(options, location=location)[0, 3:], [-np.inf, 0.1, np.inf, 0.4], atol=1e-6)
    location[0, 2] = np.nan
    with pytest.raises(LayerError, match="NaN for class 1 of image 0"):
        detect(options, location=location)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("background_label_id: -1", "label -1"),
        ("nms_param { nms_threshold: -0.1 }", "nms_threshold of at least 0"),
        ("nms_param { eta: 0 }", "eta above 0"),
        ("nms_param { eta: 1.5 }", "eta above 0"),
        ("share_location: false", "location predictions"),
    ],
)
def test_refused_options(options, message):
    with pytest.raises(LayerError, match=message):
        detect(options)


def test_refused_shapes_and_priors():
    with pytest.raises(LayerError, match="confidence predictions"):
        detect(classes=4)
    with pytest.raises(LayerError, match="expected num_classes"):
        LayerRun('type: "DetectionOutput"', [np.zeros((1, 12)), np.zeros((1, 9)), PRIOR])
    with pytest.raises(LayerError, match="as many images"):
        LayerRun(text(), [np.zeros((2, 12)), np.zeros((1, 9)), PRIOR])
    flat = PRIOR.copy()
    flat[0, 0, 2] = flat[0, 0, 0]
    with pytest.raises(LayerError, match="positive width and height"):
        detect("code_type: CENTER_SIZE", prior=flat)
    assert len(detect("code_type: CORNER", prior=flat))


@pytest.fixture
def save(tmp_path):
    """Options that write files of two images; returns (function of the format, folder)."""
    (tmp_path / "map").write_text(
        'item { name: "none" label: 0 } item { name: "1" label: 1 } item { name: "cat" label: 2 }'
    )
    (tmp_path / "sizes").write_text("000007 200 100\nimg_b 100 400\nunused 1 1\n")
    folder = tmp_path / "results"

    def options(form, more=""):
        return (
            "confidence_threshold: 0.6 nms_param { nms_threshold: 0.5 } save_output_param { "
            f'output_directory: "{folder}" output_name_prefix: "det_" output_format: "{form}" num_test_image: 2 '
            f'label_map_file: "{tmp_path}/map" name_size_file: "{tmp_path}/sizes" {more} }}'
        )

    return options, folder


def run_two_images(options):
    layer = LayerRun(text(options), [np.zeros((1, 12)), SCORES.reshape(1, -1), PRIOR], phase=1)
    layer.forward()
    layer.forward()
    return layer


def test_voc_files(save):
    options, folder = save
    run_two_images(options("VOC"))
    assert sorted(p.name for p in folder.iterdir()) == ["det_1.txt", "det_cat.txt"]
    assert (folder / "det_1.txt").read_text() == "000007 0.9 10 20 40 80\nimg_b 0.9 40 10 160 40\n"
    assert (folder / "det_cat.txt").read_text() == "000007 0.7 50 100 90 160\nimg_b 0.7 200 50 360 80\n"


def test_ilsvrc_file_and_a_second_round(save):
    options, folder = save
    layer = run_two_images(options("ILSVRC"))
    lines = (folder / "det_.txt").read_text().splitlines()
    assert lines[0] == "000007 1 0.9 10 20 40 80" and len(lines) == 4
    (folder / "det_.txt").unlink()
    layer.forward()
    assert not (folder / "det_.txt").exists()
    layer.forward()
    assert (folder / "det_.txt").read_text().splitlines() == lines


def test_coco_file(save):
    options, folder = save
    run_two_images(options("COCO"))
    results = json.loads((folder / "det_.json").read_text())
    assert results[0] == {"image_id": 7, "category_id": 1, "bbox": [10.0, 20.0, 30.0, 60.0], "score": 0.9}
    assert results[3] == {"image_id": "img_b", "category_id": "cat", "bbox": [200.0, 50.0, 160.0, 30.0], "score": 0.7}


def test_other_files_of_the_folder_stay(save):
    options, folder = save
    folder.mkdir()
    (folder / "thesis.txt").write_text("precious")
    run_two_images(options("VOC"))
    assert (folder / "thesis.txt").read_text() == "precious"


def test_refused_files(save, tmp_path):
    options, _ = save
    with pytest.raises(LayerError, match="num_test_image"):
        run_two_images(options("VOC").replace("num_test_image: 2", "num_test_image: 4"))
    with pytest.raises(LayerError, match="sizes"):
        run_two_images(options("VOC").replace("/sizes", "/no_sizes"))
    (tmp_path / "map").write_text('item { name: "a" label: 1 } item { name: "a" label: 2 }')
    with pytest.raises(LayerError, match="each label and name once"):
        run_two_images(options("VOC"))
    for name in ("/../../x", "a/../../../x"):
        (tmp_path / "map").write_text(f'item {{ name: "{name}" label: 1 }}')
        with pytest.raises(LayerError, match="names a file out of"):
            run_two_images(options("VOC"))
    (tmp_path / "map").write_text('item { name: "a" label: 1 }')
    with pytest.raises(LayerError, match=r"labels \[2\]"):
        run_two_images(options("VOC"))
    (tmp_path / "sizes").write_text("name 100")
    with pytest.raises(LayerError, match="name, height and width"):
        run_two_images(options("VOC"))


def test_a_named_label_map_must_be_there_even_if_nothing_is_written():
    with pytest.raises(LayerError, match="/no/such/map"):
        detect('save_output_param { label_map_file: "/no/such/map" }')


def test_boxes_in_pixels_of_the_image():
    box = np.float32([[0.25, 0.25, 0.75, 1.5]])
    pixels, area = to_pixels(box, (100, 200))
    np.testing.assert_array_equal(pixels, [[50, 25, 150, 100]])
    assert area == 101 * 76
    resize = proto.message("ResizeParameter")(resize_mode=3, height=300, width=300)  # FIT_LARGE_SIZE_AND_PAD
    np.testing.assert_allclose(to_pixels(box, (100, 200), resize)[0], [[50, 0, 150, 100]], atol=1e-4)
    np.testing.assert_allclose(to_pixels(box, (200, 100), resize)[0], [[0, 50, 100, 200]], atol=1e-4)
    resize = proto.message("ResizeParameter")(resize_mode=2, height=300, width=300, height_scale=80, width_scale=100)
    pixels, area = to_pixels(box, (100, 200), resize)  # FIT_SMALL_SIZE
    np.testing.assert_array_equal(pixels, [[25, 20, 75, 100]])
    assert area == 50 * 80
    with pytest.raises(ValueError, match="resize_param"):
        to_pixels(box, (100, 200), proto.message("ResizeParameter")(resize_mode=3))
