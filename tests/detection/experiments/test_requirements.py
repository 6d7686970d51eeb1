"""What is missing is told in one message, with where to get it and where to put it."""

from dataclasses import replace

import pytest

from detection.experiments import requirements, study
from detection.experiments.study import StudyError


@pytest.fixture
def data(tmp_path, monkeypatch):
    """An empty folder in the place of data/."""
    monkeypatch.setattr(requirements, "DATA", tmp_path / "data")
    monkeypatch.setattr(requirements, "ROOT", tmp_path)
    monkeypatch.setattr(study, "ROOT", tmp_path)
    return tmp_path / "data"


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def test_all_that_is_missing_is_told_at_once(data):
    rows = study.read("table1").rows
    with pytest.raises(StudyError) as error:
        requirements.check(rows)
    text = str(error.value)
    assert "7 are missing" in text  # each once, though four rows need them
    for part in (
        "PASCAL VOC 2007 trainval", "PASCAL VOC 2012 trainval", "weights VGG16.v2.caffemodel",
        "proposals voc_2012_trainval.mat", "VOCtest_06-Nov-2007.tar", "md5 b6e924de25625d8de591ea690078ad9f",
        "fetch_imagenet_models.sh", str(data / "selective_search_data" / "voc_2007_test.mat"), "--scale-down",
        "--selective-search makes the proposals here",
    ):  # fmt: skip
        assert part in text


def test_what_is_there_is_not_missing(data):
    row = study.read("table4").row("s")
    touch(data / "VOCdevkit" / "VOC2007" / "ImageSets" / "Main" / "trainval.txt")  # the second place will do
    touch(data / "imagenet_models" / "CaffeNet.v2.caffemodel")
    assert [one.what for one in requirements.missing([row])] == [
        "PASCAL VOC 2007 test", "proposals voc_2007_trainval.mat", "proposals voc_2007_test.mat"
    ]  # fmt: skip
    touch(data / "VOCdevkit2007" / "VOC2007" / "ImageSets" / "Main" / "test.txt")
    for split in ("trainval", "test"):
        touch(data / "selective_search_data" / f"voc_2007_{split}.mat")
    requirements.check([row])
    assert requirements.told([row]) == ""


def test_other_data_sets(data):
    whats = [one.what for one in requirements.missing(study.read("coco").rows)]
    assert "COCO annotations test-dev 2015" in whats
    assert "COCO images val 2014" in whats
    assert [one.what for one in requirements.missing(study.read("raccoon").rows)] == [
        "data set raccoon:trainval", "data set raccoon:test", "weights squeezenet_v1.0.caffemodel"
    ]  # fmt: skip
    assert "--selective-search" not in requirements.told(study.read("raccoon").rows)  # it makes its proposals anyway
    assert requirements.missing(study.read("shapes").rows) == []  # the default job's data is generated
    touch(data / "raccoon" / "ImageSets" / "Main" / "test.txt")
    row = replace(study.read("raccoon").rows[0], weights=None)
    row = replace(row, train=study.located("data/raccoon:test:raccoon"))
    assert requirements.missing([row]) == []
    row = replace(row, train=study.located("shapes_train+data/mine.json:data/images"))
    whats = [one.places[0] for one in requirements.missing([row])]
    assert whats == [data / "mine.json", data / "images"]


def test_files_of_proposals(data):
    row = study.read("table1").row("frcn_07_12")
    files = requirements.proposals_file(row, row.train).split(",")
    assert [file.rpartition("/")[2] for file in files] == ["voc_2007_trainval.mat", "voc_2012_trainval.mat"]
    # of 2010 there are none, so that all are made here
    assert requirements.proposals_file(row, "voc_2010_test") is None
    assert requirements.proposals_file(replace(row, proposals="search"), row.train) is None
