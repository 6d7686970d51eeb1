"""The generated data set: the same every time, valid, and fair."""

import dataclasses

import numpy as np
import pytest

from detection.datasets import VocDataset, shapes
from detection.datasets.check import check
from detection.datasets.image import read_image
from detection.errors import DatasetError

OPTIONS = shapes.ShapesOptions(train=12, test=6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "shapes"
    assert shapes.make(folder, OPTIONS)
    return folder


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_same_options_same_bytes(folder, tmp_path):
    shapes.make(tmp_path / "again", OPTIONS)
    assert contents(tmp_path / "again") == contents(folder)


def test_an_image_does_not_depend_on_how_many_there_are(folder, tmp_path):
    shapes.make(tmp_path / "few", dataclasses.replace(OPTIONS, train=1, test=2))
    few, all_of_them = contents(tmp_path / "few"), contents(folder)
    for path in few:
        if path.suffix in (".jpg", ".xml"):
            assert few[path] == all_of_them[path]


def test_another_seed_gives_other_images(folder, tmp_path):
    shapes.make(tmp_path / "other", dataclasses.replace(OPTIONS, train=1, test=1, seed=4))
    path = "JPEGImages/train_00000.jpg"
    assert (tmp_path / "other" / path).read_bytes() != (folder / path).read_bytes()


def test_made_only_when_options_change(tmp_path):
    folder, options = tmp_path / "shapes", shapes.ShapesOptions(train=2, test=1)
    assert shapes.make(folder, options)
    assert not shapes.make(folder, options)
    assert shapes.make(folder, options, force=True)
    assert shapes.make(folder, dataclasses.replace(options, train=1))
    assert len(list((folder / "JPEGImages").iterdir())) == 2
    assert not shapes.make(folder, dataclasses.replace(options, train=1))


def test_two_processes_at_once(tmp_path, monkeypatch):
    folder, options = tmp_path / "shapes", shapes.ShapesOptions(train=1, test=1)
    write = shapes._write

    def write_while_another_makes_it(place, options):
        monkeypatch.setattr(shapes, "_write", write)
        assert shapes.make(folder, options)
        write(place, options)

    monkeypatch.setattr(shapes, "_write", write_while_another_makes_it)
    assert not shapes.make(folder, options)
    assert list(tmp_path.iterdir()) == [folder] and VocDataset(folder, "train", shapes.CLASSES).image_index


@pytest.mark.parametrize("manifest", [None, '{"name": "an app of the web"}', "[]", "1"])
def test_what_is_not_ours_is_left_alone(tmp_path, manifest):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    if manifest:
        (tmp_path / "mine" / "manifest.json").write_text(manifest)
    with pytest.raises(DatasetError, match="holds something else"):
        shapes.make(tmp_path / "mine", OPTIONS, force=True)
    assert (tmp_path / "mine" / "thesis.txt").exists()


@pytest.mark.parametrize("image_set", ["train", "test"])
def test_it_is_a_valid_data_set(folder, image_set):
    dataset = VocDataset(folder, image_set, shapes.CLASSES)
    assert len(dataset) == getattr(OPTIONS, image_set)
    assert not [finding for finding in check(dataset, decode=True) if finding.is_error]


def test_boxes_enclose_the_visible_pixels():
    """On a plain ground without noise, only the box of the only object holds edges."""
    options = shapes.ShapesOptions(
        objects=(1, 1), clutter=(0, 0), noise=0.0, background_contrast=0.0, surface_contrast=0.0, object_contrast=150.0
    )
    for seed in range(8):
        image, (thing,) = shapes.draw_scene(np.random.default_rng(seed), options)
        x1, y1, x2, y2 = thing.box
        inside = image[y1 : y2 + 1, x1 : x2 + 1]
        assert inside.reshape(-1, 3).std(axis=0).max() > 8
        ground = image.astype(float)
        rows, columns = np.ones(image.shape[0], bool), np.ones(image.shape[1], bool)
        rows[max(0, y1 - 1) : y2 + 2] = columns[max(0, x1 - 1) : x2 + 2] = False
        for strip in (ground[rows], ground[:, columns]):
            if strip.size:  # light changes slowly, an object's edge does not
                assert np.abs(np.diff(strip, axis=1)).max() < 40


def test_difficult_by_rule():
    options = shapes.ShapesOptions()
    side = options.difficult_side
    plain = shapes.Thing("box", (10, 10, 10 + side, 10 + side), 1.0, False)
    assert not plain.is_difficult(options)
    assert dataclasses.replace(plain, visible=options.difficult_visible - 0.01).is_difficult(options)
    assert dataclasses.replace(plain, box=(10, 10, 60, 8 + side)).is_difficult(options)


def test_colours_do_not_tell_the_class():
    """Class means of the objects' mean colours differ no more than chance makes them."""
    options = shapes.ShapesOptions(noise=0.0)
    colours, classes = [], []
    for seed in range(60):
        image, things = shapes.draw_scene(np.random.default_rng(seed), options)
        for thing in things:
            x1, y1, x2, y2 = thing.box
            colours.append(image[y1 : y2 + 1, x1 : x2 + 1].reshape(-1, 3).mean(axis=0))
            classes.append(thing.name)
    colours, classes = np.array(colours), np.array(classes)
    assert set(classes) == set(shapes.CLASSES)
    for name in shapes.CLASSES:
        of_class = colours[classes == name]
        error = colours.std(axis=0) / np.sqrt(len(of_class))
        assert (np.abs(of_class.mean(axis=0) - colours.mean(axis=0)) < 4 * error).all()


def test_images_are_pictures(folder):
    dataset = VocDataset(folder, "train", shapes.CLASSES)
    for i in range(len(dataset)):
        image = read_image(dataset.image_path(i))
        assert image.std() > 5 and image.shape[2] == 3
