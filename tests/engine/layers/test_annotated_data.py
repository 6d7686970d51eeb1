"""AnnotatedData: the layout of its labels, and augmentations that move objects and pixels alike."""

import cv2
import numpy as np
import pytest

import caffelite as caffe
from caffelite import proto
from caffelite.errors import LayerError
from caffelite.io import array_to_datum
from caffelite.layers.data import augment
from tests.engine.data_nets import batches, net_of, write

HEIGHT, WIDTH = 40, 60
BOXES = [(10, 8, 30, 28), (33, 14, 51, 32), (6, 20, 24, 36)]  # x1, y1, x2, y2 in pixels, x2 and y2 outside


def picture(box):
    """A dark image with a bright object."""
    image = np.full((HEIGHT, WIDTH, 3), 40, np.uint8)
    image[box[1] : box[3], box[0] : box[2]] = 210
    return image


def annotated(image, objects, kind=0):
    """An AnnotatedDatum of objects (label, instance id, box in pixels, difficult), one group for each label."""
    record = proto.message("AnnotatedDatum")(datum=array_to_datum(np.ascontiguousarray(image.transpose(2, 0, 1)), 5))
    if kind is not None:
        record.type = kind
    for label, instance, (x1, y1, x2, y2), difficult in objects:
        if not record.annotation_group or record.annotation_group[-1].group_label != label:
            record.annotation_group.add(group_label=label)
        box = {"xmin": x1 / WIDTH, "ymin": y1 / HEIGHT, "xmax": x2 / WIDTH, "ymax": y2 / HEIGHT}
        record.annotation_group[-1].annotation.add(instance_id=instance, bbox={**box, "difficult": difficult})
    return record


def net(path, transform="", data="", batch=3, phase=caffe.TEST, tops=("data", "label"), seed=1):
    options = f'data_param {{ source: "{path}" backend: LMDB batch_size: {batch} }} transform_param {{ {transform} }}'
    return net_of("AnnotatedData", f"{options} annotated_data_param {{ {data} }}", phase, seed, tops)


def fractions(box):
    return [box[0] / WIDTH, box[1] / HEIGHT, box[2] / WIDTH, box[3] / HEIGHT]


@pytest.fixture
def database(tmp_path):
    """Three images of one object each."""
    return write(tmp_path / "lmdb", [annotated(picture(b), [(i + 1, 0, b, False)]) for i, b in enumerate(BOXES)])


def test_rows_of_the_label(tmp_path):
    records = [
        annotated(picture(BOXES[0]), [(2, 0, BOXES[0], False), (2, 1, BOXES[1], True), (7, 0, BOXES[2], False)]),
        annotated(picture(BOXES[0]), []),
        annotated(picture(BOXES[0]), [(3, 4, BOXES[1], False)]),
    ]
    made = net(write(tmp_path / "lmdb", records))
    assert made.blobs["label"].shape == (1, 1, 9, 8)  # until the first batch, as if all images were like the first
    made.forward()
    expected = [
        [0, 2, 0, *fractions(BOXES[0]), 0],
        [0, 2, 1, *fractions(BOXES[1]), 1],
        [0, 7, 0, *fractions(BOXES[2]), 0],
        [2, 3, 4, *fractions(BOXES[1]), 0],
    ]
    np.testing.assert_allclose(made.blobs["label"].data, np.array([[expected]]), rtol=1e-6)
    np.testing.assert_array_equal(made.blobs["data"].data[1], picture(BOXES[0]).transpose(2, 0, 1))


def test_no_object_in_a_batch_is_one_row_of_minus_one(tmp_path):
    made = net(write(tmp_path / "lmdb", [annotated(picture(BOXES[0]), [])]), batch=2)
    np.testing.assert_array_equal(made.forward()["label"], np.full((1, 1, 1, 8), -1))


def test_records_without_annotations(tmp_path):
    path = write(tmp_path / "lmdb", [annotated(picture(b), [], kind=None) for b in BOXES])
    np.testing.assert_array_equal(net(path).forward()["label"], np.full((3, 1, 1, 1), 5))
    assert list(net(path, tops=("data",)).forward()) == ["data"]
    with pytest.raises(LayerError, match="an AnnotatedDatum without type"):
        net(path, data="anno_type: BBOX")


def test_warped_images(database):
    made = net(database, "resize_param { height: 30 width: 50 } mean_value: 3")
    made.forward()
    for image, box in zip(made.blobs["data"].data, BOXES):
        np.testing.assert_array_equal(image.transpose(1, 2, 0), cv2.resize(picture(box), (50, 30)) - np.float32(3))
    np.testing.assert_allclose(made.blobs["label"].data[0, 0, :, 3:7], [fractions(b) for b in BOXES], rtol=1e-6)


def test_crops_of_testing(database):
    made = net(database, "crop_h: 20 crop_w: 28")  # from (16, 10)
    made.forward()
    boxes = np.clip([np.subtract(b, (16, 10, 16, 10)) for b in BOXES], 0, [28, 20, 28, 20]) / [28, 20, 28, 20]
    np.testing.assert_allclose(made.blobs["label"].data[0, 0, :, 3:7], boxes, rtol=1e-6)
    made = net(database, "crop_h: 20 crop_w: 28 emit_constraint { emit_type: MIN_OVERLAP emit_overlap: 0.6 }")
    assert made.forward()["label"][0, 0, :, 1].tolist() == [1]  # 0.63 of it is left, of the others 0.54 and 0.28
    made = net(database, "crop_h: 20 crop_w: 28 emit_constraint { emit_type: CENTER }")
    assert made.forward()["label"][0, 0, :, 1].tolist() == [1, 2]


SAMPLERS = """
    batch_sampler { max_sample: 1 max_trials: 1 }
    batch_sampler {
      sampler { min_scale: 0.5 max_scale: 1 min_aspect_ratio: 0.6 max_aspect_ratio: 1.8 }
      sample_constraint { min_object_coverage: 1 } max_sample: 2 max_trials: 50 }"""
AUGMENTATIONS = {
    "fit_large": ("resize_param { height: 90 width: 60 resize_mode: FIT_LARGE_SIZE_AND_PAD }", ""),
    "fit_large_wide": ("resize_param { height: 40 width: 90 resize_mode: FIT_LARGE_SIZE_AND_PAD pad_value: 40 }", ""),
    "mirror": ("mirror: true", ""),
    "expand": (
        "mean_value: 40 expand_param { prob: 0.7 max_expand_ratio: 2.5 } resize_param { height: 120 width: 120 }",
        "",
    ),
    "sample": ("resize_param { height: 120 width: 120 }", SAMPLERS),
    "all": (
        """mirror: true mean_value: 40 emit_constraint { emit_type: CENTER } expand_param { max_expand_ratio: 2 }
        distort_param { brightness_prob: 0.5 brightness_delta: 20 contrast_prob: 0.5 contrast_lower: 0.8
          contrast_upper: 1.2 hue_prob: 0.5 hue_delta: 18 saturation_prob: 0.5 saturation_lower: 0.5
          saturation_upper: 1.5 random_order_prob: 0.5 }
        resize_param { height: 150 width: 130 interp_mode: LINEAR interp_mode: AREA interp_mode: CUBIC }""",
        SAMPLERS,
    ),
}


@pytest.mark.parametrize(
    ("case", "variants"),  # 0: any number
    [("fit_large", 1), ("fit_large_wide", 1), ("mirror", 2), ("expand", 0), ("sample", 0), ("all", 0)],
)
def test_objects_stay_on_their_pixels(database, case, variants):
    made = net(database, *AUGMENTATIONS[case], phase=caffe.TRAIN)
    offset = 40 if "mean_value" in AUGMENTATIONS[case][0] else 0
    checked, seen = 0, set()
    for _ in range(12):
        made.forward()
        for item, _, _, *box, _ in made.blobs["label"].data[0, 0]:
            bright = made.blobs["data"].data[int(item)].mean(0) + offset > 125
            rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
            height, width = bright.shape
            found = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
            # cuts are rounded to pixels of the original, which resizing then enlarges
            atol = 1.5 + 1.5 * max(height / 20, width / 30)
            np.testing.assert_allclose(np.multiply(box, [width, height] * 2), found, atol=atol)
            checked += 1
            seen.add(tuple(np.round(box, 3)))
    assert checked == 36
    assert len(seen) == 3 * variants if variants else len(seen) > 12


def test_the_shorter_side_fits(tmp_path):
    path = write(tmp_path / "lmdb", [annotated(picture(BOXES[0]), [(1, 0, BOXES[0], False)])])
    made = net(path, "resize_param { height: 20 width: 20 resize_mode: FIT_SMALL_SIZE }", batch=1)
    made.forward()
    assert made.blobs["data"].shape == (1, 3, 20, 30)
    np.testing.assert_allclose(made.blobs["label"].data[0, 0, 0, 3:7], fractions(BOXES[0]), rtol=1e-6)


def test_augmentation_is_the_same_for_a_seed(database):
    first, again, other = (net(database, *AUGMENTATIONS["all"], phase=caffe.TRAIN, seed=s) for s in (1, 1, 2))
    a, b, c = (batches(n, 3) for n in (first, again, other))
    np.testing.assert_array_equal(a, b)
    assert not np.array_equal(a, c)


def test_a_sampled_part_meets_its_constraint():
    generator = np.random.default_rng(0)
    objects = np.array([[1, 0, *fractions(b), 0] for b in BOXES], np.float32)
    text = """batch_sampler { sampler { min_scale: 0.3 min_aspect_ratio: 0.5 max_aspect_ratio: 2 }
                sample_constraint { %s } max_sample: 1 max_trials: 200 }"""
    for bounds, low, high in (
        ("min_jaccard_overlap: 0.3 max_jaccard_overlap: 0.5", 0.3, 0.5),
        ("min_sample_coverage: 0.4", 0.4, 1),
        ("max_object_coverage: 0.2", 0, 0.2),
    ):
        samplers = proto.parse_text(text % bounds, "AnnotatedDataParameter").batch_sampler
        for _ in range(5):
            x1, y1, x2, y2 = augment.sample(objects, samplers, generator)
            assert 0 <= x1 < x2 <= 1 + 1e-6 and 0 <= y1 < y2 <= 1 + 1e-6
            values = []
            for _, _, a1, b1, a2, b2, _ in objects:
                common = max(0, min(x2, a2) - max(x1, a1)) * max(0, min(y2, b2) - max(y1, b1))
                part, whole = (x2 - x1) * (y2 - y1), (a2 - a1) * (b2 - b1)
                measure = {"j": common / (part + whole - common), "s": common / part, "o": common / whole}
                values.append(measure[bounds[4]])
            assert any(low - 1e-5 <= v <= high + 1e-5 for v in values)
    never = proto.parse_text(text % "min_jaccard_overlap: 1.1", "AnnotatedDataParameter").batch_sampler
    assert augment.sample(objects, never, generator) is None


def distorted(image, text, seed=0):
    param = proto.parse_text(f"distort_param {{ {text} }}", "TransformationParameter").distort_param
    return augment.distort(image, param, np.random.default_rng(seed))


def test_distortions():
    image = np.random.default_rng(0).integers(0, 256, (5, 6, 3), np.uint8)
    np.testing.assert_array_equal(distorted(image, ""), image)
    brighter = distorted(image, "brightness_prob: 1 brightness_delta: 32").astype(int)
    inner = (brighter > 0) & (brighter < 255)
    (difference,) = np.unique((brighter - image)[inner])
    assert 0 < abs(difference) <= 32
    np.testing.assert_array_equal(brighter, np.clip(image + difference, 0, 255))
    doubled = distorted(image, "contrast_prob: 1 contrast_lower: 2 contrast_upper: 2")
    np.testing.assert_array_equal(doubled, np.clip(image.astype(int) * 2, 0, 255))
    gray = np.full((4, 4, 3), 99, np.uint8)
    colours = "hue_prob: 1 hue_delta: 18 saturation_prob: 1 saturation_lower: 0.5 saturation_upper: 1.5"
    np.testing.assert_array_equal(distorted(gray, colours), gray)
    assert (distorted(image, colours) != image).any()
    np.testing.assert_array_equal(
        distorted(image, "saturation_prob: 1 saturation_lower: 0 saturation_upper: 0"),
        np.repeat(image.max(2, keepdims=True), 3, 2),  # what is left is the value of HSV
    )
    orders = {tuple(distorted(image, "random_order_prob: 1", s)[0, 0]) for s in range(40)}
    assert len(orders) == 6


@pytest.mark.parametrize(
    ("transform", "data", "message"),
    [
        ("", "batch_sampler { sampler { min_scale: 0 } }", "batch_sampler 0: expected 0 < min_scale"),
        ("", "batch_sampler { } batch_sampler { sampler { min_aspect_ratio: 2 } }", "batch_sampler 1: expected"),
        ("expand_param { }", "", "max_expand_ratio above 1, actual 1"),
        ("distort_param { hue_delta: -1 }", "", "distort_param: expected finite deltas of at least 0"),
        ("distort_param { hue_delta: inf }", "", "distort_param: expected finite deltas of at least 0"),
        ("resize_param { height: 9 width: 9 height_scale: 3 }", "", "height_scale and width_scale are not supported"),
        (
            "resize_param { height: 9 width: 9 resize_mode: FIT_LARGE_SIZE_AND_PAD pad_value: 1 pad_value: 2 }",
            "",
            "pad_value once or for each of 3 channel",
        ),
        ("resize_param { height: 99999 width: 99999 }", "", "cannot resize an image to 99999 x 99999"),
    ],
)
def test_refuses(database, transform, data, message):
    with pytest.raises(LayerError, match=f"layer 'd' .*{message}"):
        net(database, transform, data)


def test_boxes_that_are_no_numbers_are_refused(tmp_path):
    record = annotated(picture(BOXES[0]), [(1, 0, BOXES[0], False)])
    record.annotation_group[0].annotation[0].bbox.xmax = np.nan
    with pytest.raises(LayerError, match="record '00000000': an object's box that is not finite"):
        net(write(tmp_path / "lmdb", [record]))
