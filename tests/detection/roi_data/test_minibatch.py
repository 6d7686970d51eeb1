"""The sampler and the blobs of a minibatch: what they promise beyond the golden values."""

import cv2
import numpy as np
import pytest

from detection.errors import ConfigError, DatasetError
from detection.roi_data.blob import image_scale, images_to_blob
from detection.roi_data.minibatch import ImageDraw, MinibatchSampler, drawn_images, expand_targets, minibatch_blobs
from detection.roi_data.roidb import add_bbox_targets


def sampling_roidb(images=7, rois=200):
    random = np.random.RandomState(0)
    return [{"max_overlaps": random.uniform(0, 1, rois).astype(np.float32)} for _ in range(images)]


def same(a, b):
    return all(
        x.index == y.index
        and x.target_size == y.target_size
        and np.array_equal(x.foreground, y.foreground)
        and np.array_equal(x.background, y.background)
        for x, y in zip(a, b, strict=True)
    )


def test_draws_are_those_of_the_global_generator_which_is_left_alone(default_cfg):
    roidb = sampling_roidb()
    np.random.seed(3)
    order = np.random.permutation(np.arange(7))
    np.random.randint(0, high=1, size=2)
    overlaps = roidb[order[0]]["max_overlaps"]
    foreground = np.random.choice(np.where(overlaps >= 0.5)[0], size=16, replace=False)
    background = np.random.choice(np.where((overlaps < 0.5) & (overlaps >= 0.1))[0], size=48, replace=False)
    before = np.random.get_state()[1].copy()
    draw = MinibatchSampler(roidb, 3).draw()[0]
    assert draw.index == order[0]
    np.testing.assert_array_equal(draw.foreground, foreground)
    np.testing.assert_array_equal(draw.background, background)
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_first_minibatch_of_seed_3(default_cfg):
    """The first images of ten, eight and, three at a time, twelve, as in the authors' code."""
    assert [d.index for d in MinibatchSampler(sampling_roidb(10), 3).draw()] == [5, 4]
    assert [d.index for d in MinibatchSampler(sampling_roidb(8), 3).draw()] == [5, 7]
    default_cfg.merge({"TRAIN": {"IMS_PER_BATCH": 3, "BATCH_SIZE": 96}})
    assert [d.index for d in MinibatchSampler(sampling_roidb(12), 3).draw()] == [5, 4, 1]


def test_an_epoch_shows_every_image_once_and_drops_the_rest(default_cfg):
    sampler = MinibatchSampler(sampling_roidb(7), 3)
    seen = [d.index for _ in range(3) for d in sampler.draw()]
    assert len(set(seen)) == 6
    assert sorted(d.index for d in sampler.draw()) != sorted(set(range(7)) - set(seen))


@pytest.mark.parametrize("images", [8, 9])
def test_aspect_grouping(default_cfg, images):
    """Pairs are wide or high; the draws are those of py-faster-rcnn's layer."""
    roidb = [{**e, "width": 10, "height": 9 + i % 3} for i, e in enumerate(sampling_roidb(images))]
    default_cfg.TRAIN.ASPECT_GROUPING = True
    sampler = MinibatchSampler(roidb, 3)
    random = np.random.RandomState(3)
    groups = np.split(np.argsort([e["height"] > 10 for e in roidb], kind="stable"), [images - images // 3])
    order = np.hstack([random.permutation(group) for group in groups])
    pairs = order[:8].reshape(-1, 2)[random.permutation(4)]
    np.testing.assert_array_equal(sampler.permutation, [*pairs.ravel(), *order[8:]])
    assert sorted(sampler.permutation) == list(range(images))
    mixed = [len({roidb[i]["height"] > 10 for i in pair}) == 2 for pair in sampler.permutation[:8].reshape(-1, 2)]
    assert sum(mixed) == (images - images // 3) % 2


PAPER_SCALES = [480, 576, 688, 864, 1200]


def test_each_image_of_a_multi_scale_minibatch_has_its_own_scale(default_cfg, tmp_path):
    """As drawn by randint for every image; MAX_SIZE wins; the blob holds the larger one, padded with zeros."""
    default_cfg.merge({"TRAIN": {"SCALES": PAPER_SCALES, "MAX_SIZE": 2000, "BBOX_REG": False}})
    sampler = MinibatchSampler(sampling_roidb(), 3)
    random = np.random.RandomState(3)
    random.permutation(7)
    want = [PAPER_SCALES[i] for i in random.randint(0, high=5, size=2)]
    assert [draw.target_size for draw in sampler.draw()] == want
    sizes = {draw.target_size for _ in range(20) for draw in sampler.draw()}
    assert sizes == set(PAPER_SCALES)

    entry, _ = image_entry(tmp_path)  # 40 x 30
    default_cfg.TRAIN.MAX_SIZE = 80
    rois = np.array([0]), np.array([2])
    blobs = minibatch_blobs(drawn_images([entry], [ImageDraw(0, 45, *rois), ImageDraw(0, 90, *rois)]), 3)
    assert blobs["data"].shape == (2, 3, 60, 80)  # 45 is 1.5 times; 90 would be 120 wide, and is 2 times
    assert blobs["data"][0, :, :45, :60].any() and not blobs["data"][0, :, 45:].any()
    assert not blobs["data"][0, :, :, 60:].any() and blobs["data"][1, :, -1, -1].any()
    np.testing.assert_array_equal(
        blobs["rois"], [[0, 6, 6, 30, 30], [0, 18, 18, 45, 42], [1, 8, 8, 40, 40], [1, 24, 24, 60, 56]]
    )


def test_state_continues_exactly(default_cfg):
    default_cfg.merge({"TRAIN": {"SCALES": [400, 500, 600]}})
    sampler = MinibatchSampler(sampling_roidb(), 3)
    for _ in range(5):
        sampler.draw()
    state = sampler.get_state()
    wanted = [sampler.draw() for _ in range(9)]
    other = MinibatchSampler(sampling_roidb(), 99)
    other.set_state(state)
    assert all(same(other.draw(), draw) for draw in wanted)


def test_state_of_another_data_set_is_refused(default_cfg):
    state = MinibatchSampler(sampling_roidb(7), 3).get_state()
    with pytest.raises(ConfigError, match=r"of 7 images.*has 8"):
        MinibatchSampler(sampling_roidb(8), 3).set_state(state)


@pytest.mark.parametrize(
    "name, value",
    [
        ("random_keys", np.zeros(600, np.uint32)),
        ("random_position", np.int64(700)),
        ("cursor", np.array([1, 2])),
        ("cursor", np.float64(1)),
        ("permutation", np.arange(1, 9)),
        ("permutation", np.array(3)),
    ],
)
def test_what_is_no_state_is_refused(default_cfg, name, value):
    sampler = MinibatchSampler(sampling_roidb(8), 3)
    with pytest.raises(ValueError, match=f"{name} is no state of minibatches"):
        sampler.set_state({**sampler.get_state(), name: value})


@pytest.mark.parametrize("overlaps, counts", [([0.9] * 5, (5, 0)), ([0.3] * 90, (0, 64)), ([0.3] * 10 + [1], (1, 10))])
def test_images_short_of_rois_give_fewer(default_cfg, overlaps, counts):
    roidb = [{"max_overlaps": np.float32(overlaps)}] * 2
    for draw in MinibatchSampler(roidb, 3).draw():
        assert (len(draw.foreground), len(draw.background)) == counts


def test_options_that_contradict_each_other(default_cfg):
    with pytest.raises(ConfigError, match=r"IMS_PER_BATCH is 2, but there are only 1"):
        MinibatchSampler(sampling_roidb(1), 3)
    default_cfg.TRAIN.BATCH_SIZE = 127
    with pytest.raises(ConfigError, match="BATCH_SIZE 127 is not a multiple"):
        MinibatchSampler(sampling_roidb(), 3)


def image_entry(tmp_path, flipped=False):
    path = tmp_path / "image.png"
    image = np.random.RandomState(0).randint(0, 256, (30, 40, 3), np.uint8)
    cv2.imwrite(str(path), image)
    entry = {
        "image": str(path), "width": 40, "height": 30, "flipped": flipped,
        "boxes": np.array([[4, 4, 20, 20], [5, 4, 21, 20], [12, 12, 30, 28]]),
        "max_overlaps": np.float32([1, 0.8, 0.3]), "max_classes": np.array([2, 2, 2]),
    }  # fmt: skip
    return entry, image


def test_blobs(default_cfg, tmp_path):
    entry, image = image_entry(tmp_path)
    add_bbox_targets([entry], 3)
    blobs = minibatch_blobs(drawn_images([entry], [ImageDraw(0, 60, np.array([1, 0]), np.array([2]))] * 2), 3)
    assert list(blobs) == ["data", "rois", "labels", "bbox_targets", "bbox_loss_weights"]
    assert blobs["data"].shape == (2, 3, 60, 80)
    np.testing.assert_array_equal(blobs["rois"][:3], [[0, 10, 8, 42, 40], [0, 8, 8, 40, 40], [0, 24, 24, 60, 56]])
    np.testing.assert_array_equal(blobs["rois"][3:, 0], 1)
    np.testing.assert_array_equal(blobs["labels"], [2, 2, 0] * 2)
    np.testing.assert_array_equal(blobs["bbox_loss_weights"].sum(axis=1), [4, 4, 0] * 2)
    assert not blobs["bbox_targets"][:, :8].any()
    # a corner pixel of a bilinear enlargement is the pixel itself
    np.testing.assert_allclose(blobs["data"][0, :, 0, 0], image[0, 0] - default_cfg.pixel_means()[0, 0], atol=1e-4)
    default_cfg.TRAIN.BBOX_REG = False
    blobs = minibatch_blobs(drawn_images([entry], [ImageDraw(0, 60, np.array([1, 0]), np.array([2]))]), 3)
    assert list(blobs) == ["data", "rois", "labels"]


def test_the_mirror_image_is_mirrored(default_cfg, tmp_path):
    default_cfg.TRAIN.BBOX_REG = False
    draw = ImageDraw(0, 30, np.array([0]), np.array([2]))
    plain = minibatch_blobs(drawn_images([image_entry(tmp_path)[0]], [draw]), 3)["data"]
    mirrored = minibatch_blobs(drawn_images([image_entry(tmp_path, flipped=True)[0]], [draw]), 3)["data"]
    np.testing.assert_array_equal(mirrored, plain[:, :, :, ::-1])


def test_an_image_of_another_size_than_annotated_is_named(default_cfg, tmp_path):
    default_cfg.TRAIN.BBOX_REG = False
    entry, _ = image_entry(tmp_path)
    with pytest.raises(DatasetError, match=r"image\.png: expected 41 x 30 pixels as annotated, actual 40 x 30"):
        minibatch_blobs(drawn_images([{**entry, "width": 41}], [ImageDraw(0, 60, np.array([0]), np.array([2]))]), 3)


def test_expanded_targets():
    targets, weights = expand_targets(np.float32([[0, 9, 9, 9, 9], [2, 1, 2, 3, 4]]), 3)
    np.testing.assert_array_equal(targets, [[0] * 12, [0] * 8 + [1, 2, 3, 4]])
    np.testing.assert_array_equal(weights, [[0] * 12, [0] * 8 + [1, 1, 1, 1]])


def test_image_scale():
    assert image_scale(375, 500, 600, 1000) == 1.6
    assert image_scale(300, 1500, 600, 1000) == 1000 / 1500
    assert image_scale(600, 1000, 600, 1000) == 1


def test_images_are_padded_at_the_bottom_and_the_right():
    blob = images_to_blob([np.ones((2, 5, 3), np.float32), np.full((4, 3, 3), 2, np.float32)])
    assert blob.shape == (2, 3, 4, 5) and blob.dtype == np.float32
    assert blob[0, :, :2].min() == 1 and not blob[0, :, 2:].any()
    assert blob[1, :, :, :3].min() == 2 and not blob[1, :, :, 3:].any()
