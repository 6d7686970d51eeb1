"""Minibatches against those of the authors' own code, bit for bit."""

import json

import numpy as np
import pytest

from caffelite.backend.prefetch import in_turn
from detection.config import cfg
from detection.prefetch import prefetcher
from detection.roi_data.minibatch import MinibatchSampler, drawn_images, minibatch_blobs
from detection.roi_data.roidb import add_bbox_targets, make_entry, training_roidb

CASES = ("single_scale", "multi_scale", "three_images_few_rois")


@pytest.fixture(params=CASES)
def golden(request, shared, default_cfg):
    folder = shared / "golden/fast_rcnn" / request.param
    config = json.loads((folder / "config.json").read_text())
    cfg.merge({"RNG_SEED": config["seed"], "TRAIN": config["TRAIN"], "TEST": config["TEST"]})
    return folder, config, np.load(folder / "data.npz")


def roidb_of(folder, config, data):
    """The training roidb of a golden case, with its targets' means and stds."""
    entries = []
    for i, name in enumerate(config["images"]):
        path = folder / "images" / f"{name}.png"
        width, height = np.frombuffer(path.read_bytes()[16:24], ">u4")
        image = {"image": str(path), "width": int(width), "height": int(height)}
        image |= {"boxes": data[f"gt_boxes:{i}"], "gt_classes": data[f"gt_classes:{i}"]}
        entries.append(make_entry(image, data[f"proposals:{i}"]))
    roidb = training_roidb(entries)
    return roidb, *add_bbox_targets(roidb, config["num_classes"])


def test_roidb(golden):
    roidb, means, stds = roidb_of(*golden)
    data = golden[2]
    np.testing.assert_array_equal(means, data["bbox_means"])
    np.testing.assert_array_equal(stds, data["bbox_stds"])
    assert len(roidb) == sum(key.startswith("roidb:") and key.endswith(":boxes") for key in data.files)
    for j, entry in enumerate(roidb):
        usable = data[f"roidb:{j}:max_overlaps"] >= np.float32(0.1)  # of the others no draw knows
        assert 0 < usable.sum() < len(usable)
        assert not data[f"roidb:{j}:bbox_targets"][~usable].any()
        for key in ("boxes", "max_overlaps", "max_classes", "bbox_targets"):
            np.testing.assert_array_equal(entry[key], data[f"roidb:{j}:{key}"][usable], err_msg=f"{j} {key}")


@pytest.mark.parametrize("prefetch", [False, True])
def test_minibatches(golden, prefetch):
    _, config, data = golden
    roidb, _, _ = roidb_of(*golden)
    sampler = MinibatchSampler(roidb, cfg.RNG_SEED)

    def load(drawn):
        return [], minibatch_blobs(drawn, config["num_classes"])

    batches = ((drawn_images(roidb, draws), draws) for draws in iter(sampler.draw, None))
    loaded = (prefetcher if prefetch else in_turn)(load, batches)
    for t in range(config["steps"]):
        _, blobs, draws = next(loaded)
        assert [draw.index for draw in draws] == data["order"][t].tolist()
        assert blobs["data"].shape == tuple(data[f"batch:{t}:data_shape"])
        np.testing.assert_allclose(blobs["data"][:, :, ::7, ::5], data[f"batch:{t}:data_sample"], rtol=0, atol=1e-3)
        for key in ("rois", "labels", "bbox_targets", "bbox_loss_weights"):
            assert blobs[key].dtype == np.float32
            np.testing.assert_array_equal(blobs[key], data[f"batch:{t}:{key}"], err_msg=f"{t} {key}")
    if prefetch:
        loaded.close()
