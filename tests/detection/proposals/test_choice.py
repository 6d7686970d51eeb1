"""Which proposals an experiment gets: by method, mixed with dense boxes, and how many."""

import logging

import numpy as np
import pytest
import scipy.io

from detection.boxes import bbox_overlaps
from detection.datasets.voc import VocDataset
from detection.errors import ConfigError
from detection.proposals import choice, dense, selective_search
from detection.proposals.choice import dataset_proposals, image_proposals


@pytest.fixture
def dataset(voc_folder, default_cfg):
    default_cfg.merge({"PROPOSALS": {"DENSE_MIN_AREA": 100, "DENSE_OVERLAP": 0.5}})
    objects = [("cat", (2, 2, 20, 20), False)]
    return VocDataset(voc_folder({"a": objects, "b": objects}, width=80, height=60), "all")


@pytest.fixture
def found(tmp_path, dataset):
    """A published file with 5 boxes of image a and 2 of b, and the boxes."""
    boxes = [np.array([(i, 2 * i, i + 20 + i, 2 * i + 25) for i in range(n)], np.int32) for n in (5, 2)]
    cells = np.empty((1, 2), object)
    cells[0, :] = [b[:, [1, 0, 3, 2]] + 1 for b in boxes]
    scipy.io.savemat(tmp_path / "boxes.mat", {"boxes": cells})
    return str(tmp_path / "boxes.mat"), boxes


def test_dense(dataset, default_cfg):
    default_cfg.merge({"PROPOSALS": {"METHOD": "dense", "MAX_PROPOSALS": 40}})
    a, b = dataset_proposals(dataset)
    whole = dense.grid(80, 60, choice.grid_options())
    assert a.shape == b.shape == (40, 4) and (a != b).any()
    assert {tuple(box) for box in a.tolist()} <= {tuple(box) for box in whole.tolist()}
    np.testing.assert_array_equal(a, dataset_proposals(dataset)[0])
    np.testing.assert_array_equal(image_proposals(np.zeros((60, 80, 3), np.uint8), "a"), a)
    default_cfg.PROPOSALS.MAX_PROPOSALS = 10
    np.testing.assert_array_equal(dataset_proposals(dataset)[0], a[:10])
    default_cfg.PROPOSALS.SEED = 4
    assert (dataset_proposals(dataset)[0] != a[:10]).any()
    default_cfg.PROPOSALS.MAX_PROPOSALS = 0
    assert len(dataset_proposals(dataset)[0]) == len(whole)


def test_counts(dataset, found, default_cfg, caplog):
    file, boxes = found
    default_cfg.PROPOSALS.MAX_PROPOSALS = 4
    with caplog.at_level(logging.INFO, "detection"):
        a, b = dataset_proposals(dataset, file)
    np.testing.assert_array_equal(a, boxes[0][:4])
    np.testing.assert_array_equal(b, boxes[1])
    assert "voc_all: 1 of 2 images have fewer than 4 proposals; 3 on average" in caplog.text


def test_dense_boxes_are_added(dataset, found, default_cfg):
    file, boxes = found
    default_cfg.PROPOSALS.ADD_DENSE = 7
    for name, of_image, mixed in zip("ab", boxes, dataset_proposals(dataset, file)):
        np.testing.assert_array_equal(mixed[: len(of_image)], of_image)
        np.testing.assert_array_equal(
            mixed[len(of_image) :], dense.shuffled_grid(80, 60, name, choice.grid_options())[:7]
        )


@pytest.mark.parametrize("part, count", [(1.0, 5), (0.4, 2)])
def test_boxes_are_replaced_by_the_closest_dense_ones(dataset, found, default_cfg, part, count):
    file, boxes = found
    default_cfg.PROPOSALS.REPLACE_BY_DENSE = part
    a, _ = dataset_proposals(dataset, file)
    grid = dense.grid(80, 60, choice.grid_options())
    best = grid[bbox_overlaps(boxes[0], grid).argmax(axis=1)]
    changed = (a != boxes[0]).any(axis=1)
    assert len(a) == 5 and changed.sum() == count
    np.testing.assert_allclose(
        bbox_overlaps(a, boxes[0]).diagonal()[changed], bbox_overlaps(best, boxes[0]).diagonal()[changed]
    )
    np.testing.assert_array_equal(dataset_proposals(dataset, file)[0], a)


def test_selective_search_is_searched_once_for_all_counts(dataset, default_cfg, tmp_path, monkeypatch):
    whole = selective_search.proposals(dataset, cache=tmp_path)
    monkeypatch.setattr(selective_search, "search", lambda *_: pytest.fail("searched again"))
    some = selective_search.proposals(dataset, selective_search.SearchOptions(max_proposals=3), tmp_path)
    for a, b in zip(whole, some):
        np.testing.assert_array_equal(a[:3], b)


def test_options_are_checked(default_cfg):
    for name, value in [("METHOD", "edges"), ("REPLACE_BY_DENSE", 1.5), ("ADD_DENSE", -1), ("DENSE_OVERLAP", 0.99)]:
        with pytest.raises(ConfigError, match=f"PROPOSALS.{name}: expected"):
            default_cfg.merge({"PROPOSALS": {name: value}})
