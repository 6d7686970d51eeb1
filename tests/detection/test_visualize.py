"""Pictures of detections and curves."""

import numpy as np
import pytest

from caffelite.errors import FileFormatError
from detection import visualize
from detection.datasets.image import read_image
from detection.evaluation.voc import ClassResult, Evaluation


def test_boxes_are_drawn_on_a_copy():
    image = np.full((100, 120, 3), 128, np.uint8)
    drawn = visualize.draw_boxes(image, np.array([[30, 40, 80, 90]]), [1], ["cat 0.98"])
    assert (image == 128).all()
    assert drawn[60, 30].tolist() == list(visualize.class_colour(1))
    assert (drawn[60, 50] == 128).all() and (drawn[95, 100] == 128).all()
    assert (drawn[27:38, 32:60] != 128).any(), "no label above the box"


@pytest.mark.parametrize(
    "box", [(0, 0, 20, 20), (100, 60, 119, 99), (110, 0, 119, 5), (-50, -50, 200, 200), (0, 98, 10, 99)]
)
def test_labels_stay_inside_the_image(box):
    """The label has the extent that it has with space all around, but for what the box's own lines hide."""

    def extent(box):
        image = np.zeros((100, 120, 3), np.uint8)
        bare, labelled = (visualize.draw_boxes(image, np.array([box]), [3], [text]) for text in ("", "cat 1.0"))
        y, x = np.nonzero((bare != labelled).any(axis=2))
        return np.array([np.ptp(x), np.ptp(y)])

    assert (extent(box) >= extent((30, 40, 80, 90)) - 4).all()


def test_boxes_far_outside_the_image_are_drawn_as_far_as_it_goes():
    image = np.zeros((100, 120, 3), np.uint8)
    boxes = np.array([[50, 60, 2e16, 1e30], [-2e16, 10, np.nan, -np.inf]])
    drawn = visualize.draw_boxes(image, boxes, [1, 2], ["far", "no number"])
    assert drawn[60, 100].tolist() == drawn[90, 50].tolist() == list(visualize.class_colour(1))


def test_zoom_and_threshold():
    image = np.zeros((150, 180, 3), np.uint8)
    dets = [np.zeros((0, 5)), np.array([(10, 20, 30, 40, 0.9), (40, 5, 55, 15, 0.3)])]
    drawn = visualize.draw_detections(image, dets, ("__background__", "cat"), threshold=0.5, zoom=3)
    colour = visualize.class_colour(1)
    assert drawn[95, 30].tolist() == list(colour) and drawn[122, 60].tolist() == list(colour)
    assert (drawn[15:45, 120:] == 0).all()


def test_no_detections():
    image = np.full((50, 60, 3), 7, np.uint8)
    drawn = visualize.draw_detections(image, [np.zeros((0, 5))] * 2, ("__background__", "cat"))
    np.testing.assert_array_equal(drawn, image)


def test_colours_of_classes_differ():
    colours = np.array([visualize.class_colour(k) for k in range(1, 21)], int)
    distance = np.abs(colours[:, None] - colours).sum(axis=2) + 999 * np.eye(20, dtype=int)
    assert distance.min() > 25


def test_labels_do_not_cover_each_other():
    """Six boxes in nearly one place: each label is to be read whole, the last one's where a lone one stands."""
    image = np.full((300, 400, 3), 128, np.uint8)
    boxes = np.array([[150 + i, 120 + i, 270 + i, 220 + i] for i in range(6)])
    texts = [f"cat 0.{i}" for i in range(6)]

    def coloured(k, chosen):
        drawn = visualize.draw_boxes(image, boxes[chosen], np.arange(6)[chosen], texts[chosen], thin=True)
        return (drawn == visualize.class_colour(k)).all(axis=2)

    everything = slice(None)
    for k in range(6):
        assert coloured(k, everything).sum() > 0.7 * coloured(k, slice(k, k + 1)).sum(), k
    np.testing.assert_array_equal(coloured(5, everything)[:130], coloured(5, slice(5, 6))[:130])


def test_montage(monkeypatch):
    monkeypatch.setattr(visualize, "CELL", (40, 30))
    page = visualize.montage([np.full((10, 20, 3), 200, np.uint8), np.full((90, 30, 3), 100, np.uint8)] * 2, 3)
    assert page.shape == (2 * 36 + 6, 3 * 46 + 6, 3)
    assert (page[21, 10] == 200).all() and (page[21, 6 + 46 + 20] == 100).all()


def test_write_image(tmp_path):
    image = np.random.default_rng(0).integers(0, 256, (8, 9, 3)).astype(np.uint8)
    visualize.write_image(tmp_path / "new" / "a.png", image)
    np.testing.assert_array_equal(read_image(tmp_path / "new" / "a.png"), image)
    with pytest.raises(FileFormatError, match=r"\.png or \.jpg"):
        visualize.write_image(tmp_path / "a.xyz", image)


def test_plots(tmp_path):
    visualize.plot_training({"loss": (range(50), np.linspace(2, 0, 50)), "none": ([], [])}, tmp_path / "loss.png", "t")
    hits, nobody = (np.array([0.9, 0.8]), np.array([0, 1]), np.array([1, 0]), np.array([0, 1])), (np.zeros(0),) * 4
    found = ClassResult("cat", 0.5, np.array([0.5, 0.5]), np.array([1.0, 0.5]), 2, 0, 2, *hits, np.array([1, 1, 0]))
    nothing = ClassResult("dog", 0.0, np.zeros(0), np.zeros(0), 1, 0, 0, *nobody, np.array([1, 0, 0]))
    absent = ClassResult("cow", float("nan"), np.zeros(0), np.zeros(0), 0, 0, 0, *nobody, np.zeros(3))
    evaluation = Evaluation("voc_all", 3, (found, nothing, absent), True, 0.5, False)
    visualize.plot_precision_recall(evaluation, tmp_path / "curves.png")
    for name in ("loss.png", "curves.png"):
        assert read_image(tmp_path / name).std() > 5
