"""Experiment files: those of the paper say what the paper says, and a wrong one is told by file and row."""

import pytest
import yaml

from detection.experiments import requirements, study
from detection.experiments.study import StudyError

# mAP of the paper's tables, in percent, in the order of the rows
PUBLISHED = {
    "table1": [66.9, 68.1, 70.0, 61.4],
    "table2": [66.1, 68.8],
    "table3": [65.7, 68.4],
    "table4": [57.1, 56.5, 59.2, 58.7, 66.9, 66.6],
    "table5": [61.4, 66.9, 67.2],
    "table6": [52.2, 53.3, 54.6, 57.1, 54.7, 55.5, 56.6, 59.2, 62.6, 63.4, 64.0, 66.9],
    "table7": [57.1, 58.4, 59.2, 60.7, 66.9],
    "table8": [56.3, 57.1, 58.7, 59.2, 66.8, 66.9],
    "figure2": [66.9, 66.6],
}


@pytest.mark.parametrize("name", study.names())
def test_every_file_is_read(name):
    one = study.read(name)
    assert one.rows
    assert one.title
    assert one.source
    for row in one.rows:
        assert row.metric
        assert (row.weights is None) == (row.model.folder == "prototxt")


def test_the_page_on_reproducing_names_every_study():
    page = (study.ROOT / "docs" / "reproducing.md").read_text()
    assert [name for name in study.names() if f"`{name}`" not in page] == []


@pytest.mark.parametrize("name, numbers", PUBLISHED.items())
def test_published_means(name, numbers):
    means = [row.published["mAP"] for row in study.read(name).rows]
    assert [round(100 * mean, 1) for mean in means] == numbers


def test_the_means_of_table_1_are_those_of_its_classes():
    for row in study.read("table1").rows[:3]:
        assert len(row.published["AP"]) == 20
        assert sum(row.published["AP"].values()) / 20 == pytest.approx(row.published["mAP"], abs=0.0006)


def test_schedules():
    twelve, both = study.read("table3").rows
    assert (twelve.stages[0].iterations, twelve.stages[0].solver) == (40000, {})
    assert (both.stages[0].iterations, both.stages[0].solver) == (100000, {"stepsize": 40000})
    assert requirements.parts(both.train) == ["voc_2007_trainval", "voc_2007_test", "voc_2012_trainval"]
    assert study.read("table1").row("frcn_07_12").stages[0].iterations == 60000
    assert {row.stages[0].iterations for row in study.read("coco").rows} == {240000}


def test_tables_2_and_3_share_their_trainings():
    for two, three in zip(study.read("table2").rows, study.read("table3").rows):
        assert (
            requirements.proposals_file(two, two.train) == requirements.proposals_file(three, three.train) is not None
        )
        assert requirements.proposals_file(two, two.test) is None  # the authors have none of 2010


def test_options_are_the_models_then_the_variants_then_the_rows():
    row = study.read("raccoon").row("classification")
    options = row.configured(row.stages[0])
    assert options.TRAIN.SCALES == (400,)
    assert not options.TRAIN.BBOX_REG
    stagewise = study.read("raccoon").row("stagewise")
    assert [stagewise.configured(stage).TRAIN.BBOX_REG for stage in stagewise.stages] == [False, True]
    assert not study.read("table1").row("frcn_07_without_difficult").configured(row.stages[0]).TRAIN.USE_DIFFICULT
    five = study.read("table7").row("m_5")
    assert five.configured(five.stages[0]).TEST.SCALES == (480, 576, 688, 864, 1200)


GOOD = {
    "title": "t",
    "source": "s",
    "rows": {"one": {"model": "shapes", "train": "shapes_train", "test": "shapes_test", "metric": "AP"}},
}


def read_changed(tmp_path, content, **row):
    content = {**content, "rows": {"one": {**content["rows"]["one"], **row}}} if row else content
    file = tmp_path / "mine.yml"
    file.write_text(yaml.safe_dump(content))
    return study.read(str(file))


def test_a_file_of_ones_own(tmp_path):
    one = read_changed(tmp_path, GOOD)
    assert one.name == "mine"
    assert one.rows[0].label == "one"
    assert one.rows[0].published == {"mAP": None, "AP": None, "note": ""}
    assert read_changed(tmp_path, GOOD, model="CaffeNet", weights=None).rows[0].weights is None
    assert read_changed(tmp_path, GOOD, weights="my.caffemodel").rows[0].weights == "my.caffemodel"


@pytest.mark.parametrize(
    "row, message",
    [
        ({"modle": "shapes"}, "a row has no 'modle'; did you mean model?"),
        ({"model": "ResNet"}, "model: expected one of CaffeNet, VGG_CNN_M_1024, VGG16, SqueezeNet, shapes"),
        ({"variant": "fc_only"}, "variant: expected one of default, no_bbox_reg, piecewise, actual 'fc_only'"),
        ({"stages": [{}], "iterations": 5}, "give either stages or variant, iterations, solver, not both"),
        ({"iterations": 0}, "iterations: expected at least 1, actual 0"),
        ({"iterations": True}, "iterations: expected int, actual True"),
        ({"solver": {"base_rate": 1}}, "solver: SolverParameter has no field 'base_rate'"),
        ({"options": {"TRAIN": {"SCALE": 5}}}, "row one: unknown option TRAIN.SCALE"),
        ({"published": {"mAP": 669}}, "published: expected percents, actual 669"),
        ({"published": {"AP": [1, 2]}}, "published: AP: expected 20 numbers, actual 2"),
        ({"svd": {"fc6": 4}, "svm": True}, "svd and svm exclude each other"),
        ({"svd": {"fc6": "four"}}, "svd: fc6: expected int, actual 'four'"),
        ({"proposals": "none"}, "proposals: expected one of search, published, actual 'none'"),
        ({"train": None}, "train: expected str, actual None"),
        ({"weights": 5}, "weights: expected str, actual 5"),
        ({"svd": {"fc6": 0}}, "svd: fc6: expected at least 1, actual 0"),
        ({"stages": []}, "stages: expected at least one, found none"),
        ({"variant": ["x"]}, "variant: expected str, actual ['x']"),
        ({"solver": {"max_iter": 5}}, "solver: max_iter is not given here but by iterations"),
        ({"solver": {"random_seed": 5}}, "solver: random_seed is not given here but by RNG_SEED in options"),
        ({"solver": {5: 1}}, "solver: SolverParameter has no field"),
        ({"published": {"AP": 55}}, "published: AP: expected mapping, actual 55"),
        ({"published": {"mAP": True}}, "published: expected percents, actual True"),
        ({"deviations": "one"}, "deviations: expected list, actual 'one'"),
    ],
)
def test_a_wrong_row_is_told(tmp_path, row, message):
    with pytest.raises(StudyError) as error:
        read_changed(tmp_path, GOOD, **row)
    assert message in str(error.value)
    assert "mine" in str(error.value)


@pytest.mark.parametrize("name", ["../../../x", "/abs/x", "07/12", "..", "", "a\0b", "a\n"])
def test_a_rows_name_is_no_path(tmp_path, name):
    with pytest.raises(StudyError, match="its name is that of a folder: expected letters, digits"):
        read_changed(tmp_path, {**GOOD, "rows": {name: GOOD["rows"]["one"]}})


def test_data_sets_lie_below_the_root():
    assert study.located("voc_2007_trainval+my/set:train") == f"voc_2007_trainval+{study.ROOT}/my/set:train"
    assert study.located("a+b/set:train:cat,dog") == f"{study.ROOT}/a+b/set:train:cat,dog"
    assert study.located("a.json:images") == f"{study.ROOT}/a.json:{study.ROOT}/images"
    assert requirements.parts("/c++/set:train") == ["/c++/set:train"]


def test_a_wrong_file_is_told(tmp_path):
    with pytest.raises(StudyError, match=r"there is no such study; there are coco, figure2"):
        study.read("table9")
    with pytest.raises(StudyError, match="expected rows, found none"):
        read_changed(tmp_path, {**GOOD, "rows": {}})
    with pytest.raises(StudyError, match="a study has no 'row'; did you mean rows"):
        read_changed(tmp_path, {**GOOD, "row": {}})
    (tmp_path / "mine.yml").write_text("a: &a [1]\nb: *a")
    with pytest.raises(StudyError, match=r"mine.yml: cannot be read as YAML: aliases \(\*\) are not supported"):
        study.read(str(tmp_path / "mine.yml"))
    (tmp_path / "mine.yml").write_text("a: [")
    with pytest.raises(StudyError, match=r"mine.yml: cannot be read as YAML"):
        study.read(str(tmp_path / "mine.yml"))
    with pytest.raises(StudyError, match="has no row 'm_'; its rows: s, s_svd"):
        study.read("table4").row("m_")
