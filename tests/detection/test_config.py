"""Options: defaults, files, pairs, profiles, and what is refused."""

import dataclasses
from pathlib import Path

import pytest

from caffelite import proto
from detection.config import PROFILES, Options, cfg
from detection.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def options():
    return Options()


def test_defaults_are_the_originals(options):
    t = options.TRAIN
    assert (t.SCALES, t.MAX_SIZE, t.IMS_PER_BATCH, t.BATCH_SIZE, t.SNAPSHOT_ITERS) == ((600,), 1000, 2, 128, 10000)
    assert (t.FG_FRACTION, t.FG_THRESH, t.BG_THRESH_HI, t.BG_THRESH_LO, t.BBOX_THRESH) == (0.25, 0.5, 0.5, 0.1, 0.5)
    assert (options.TEST.NMS, options.DEDUP_BOXES, options.RNG_SEED, options.EPS) == (0.3, 1 / 16, 3, 1e-14)
    assert options.pixel_means().tolist() == [[[102.9801, 115.9465, 122.7717]]]


def test_file(options, tmp_path):
    file = tmp_path / "config.yml"
    file.write_text("TRAIN:\n  SCALES: [480, 576]\n  FG_THRESH: 1\nTEST:\n  SCALES: 480\nEXP_DIR: mine\n")
    options.merge_file(file)
    assert options.TRAIN.SCALES == (480, 576)
    assert options.TRAIN.FG_THRESH == 1.0 and isinstance(options.TRAIN.FG_THRESH, float)
    assert options.TEST.SCALES == (480,)
    assert options.EXP_DIR == "mine"
    assert options.TRAIN.MAX_SIZE == 1000


def test_written_options_read_back(options, tmp_path):
    options.merge_pairs(["PROFILE", "py-faster-rcnn", "TRAIN.SCALES", "[480, 600]", "EPS", "1e-9"])
    (tmp_path / "c.yml").write_text(options.to_yaml())
    again = Options()
    again.merge_file(tmp_path / "c.yml")
    assert again == options


def test_pairs(options):
    options.merge_pairs(["TRAIN.USE_FLIPPED", "False", "TEST.NMS", "4e-1", "TRAIN.SNAPSHOT_INFIX", "7"])
    assert options.TRAIN.USE_FLIPPED is False
    assert options.TEST.NMS == 0.4
    assert options.TRAIN.SNAPSHOT_INFIX == "7"
    options.merge_pairs(["TRAIN.SCALES", "(400,)", "TEST.SCALES", "(480, 600)"])  # as the originals' tools take them
    assert (options.TRAIN.SCALES, options.TEST.SCALES) == ((400,), (480, 600))
    options.merge_pairs(["TRAIN.SCALES", "400,600"])
    assert options.TRAIN.SCALES == (400, 600)
    options.merge_pairs(["TRAIN.SNAPSHOT_INFIX", "(a)", "PIXEL_MEANS", "((1, 2, 3), )"])
    assert (options.TRAIN.SNAPSHOT_INFIX, options.PIXEL_MEANS) == ("(a)", (1.0, 2.0, 3.0))


def test_pixel_means_nested_as_in_the_originals_files(options):
    options.merge({"PIXEL_MEANS": [[[104, 117, 123]]]})
    assert options.PIXEL_MEANS == (104.0, 117.0, 123.0)


def test_profile_comes_first_whatever_the_order(options):
    options.merge_pairs(["TEST.SELECTION", "rising", "PROFILE", "py-faster-rcnn"])
    assert (options.BOX_WIDTH_OFFSET, options.CLIP_BOTH_SIDES, options.TEST.SELECTION) == (1.0, True, "rising")
    options.merge({"TEST": {"SELECTION": "rising"}, "PROFILE": "py-faster-rcnn"})
    assert options.TEST.SELECTION == "rising"


def test_default_profile_is_the_defaults(options):
    options.use_profile("fast-rcnn")
    assert options == Options()
    assert set(PROFILES) == {"fast-rcnn", "py-faster-rcnn"}


def test_py_faster_rcnn(options):
    """It trains without difficult objects and pairs images, and tests with a fixed threshold; and back again."""
    options.use_profile("py-faster-rcnn")
    assert (options.BOX_WIDTH_OFFSET, options.CLIP_BOTH_SIDES, options.TEST.SELECTION) == (1, True, "threshold")
    assert not options.TRAIN.USE_DIFFICULT and options.TRAIN.ASPECT_GROUPING
    options.use_profile("fast-rcnn")
    assert options == Options()


@pytest.mark.parametrize(
    "words, says",
    [
        (["TRAIN.SCALE", "600"], "unknown option TRAIN.SCALE; did you mean TRAIN.SCALES"),
        (["train.scales", "600"], "did you mean TRAIN.SCALES"),
        (["IMS_PER_BATCH", "2"], "did you mean TRAIN.IMS_PER_BATCH"),
        (["TRAIN.BATCH_SIZE", "many"], "TRAIN.BATCH_SIZE: expected int as in its default 128, actual 'many'"),
        (["TRAIN.BATCH_SIZE", "2.5"], "expected int"),
        (["TRAIN.BATCH_SIZE", "true"], "expected int"),
        (["TRAIN.USE_FLIPPED", "1"], "expected bool"),
        (["TEST.NMS", "false"], "expected float"),
        (["TRAIN.SCALES", "[600, big]"], "expected int"),
        (["TRAIN.SCALES", "[]"], "at least one value"),
        (["TRAIN", "5"], "expected options below it"),
        (["TEST.SELECTION", "best"], "expected one of rising, threshold"),
        (["PROFILE", "fast"], "expected one of fast-rcnn, py-faster-rcnn"),
        (["PROFILE", "3"], "PROFILE: expected str"),
        (["TRAIN.IMS_PER_BATCH", "0"], "TRAIN.IMS_PER_BATCH: expected at least 1, actual 0"),
        (["TEST.SCALES", "[600, 0]"], "TEST.SCALES: expected at least 1, actual 0"),
        (["TRAIN.FG_FRACTION", "2"], "TRAIN.FG_FRACTION: expected at most 1, actual 2.0"),
        (["TRAIN.FG_FRACTION", ".nan"], "expected at least 0, actual nan"),
        (["TEST.NMS", "3"], "TEST.NMS: expected at most 1"),
        (["base_lr", "0.1"], "unknown option base_lr; it stands in the solver's prototxt"),
        (["RNG_SEED", "-1"], "RNG_SEED: expected at least 0"),
        (["TEST.NMS"], "expected pairs NAME VALUE, actual 1 word"),
    ],
)
def test_refusals(options, words, says):
    with pytest.raises(ConfigError, match=says.replace("(", r"\(").replace("[", r"\[")):
        options.merge_pairs(words)


@pytest.mark.parametrize("text", ["- 1\n- 2\n", "TRAIN: [", "just words"])
def test_files_that_are_no_options(options, tmp_path, text):
    (tmp_path / "c.yml").write_text(text)
    with pytest.raises(ConfigError, match=r"^[^\n]*c\.yml[^\n]*$"):
        options.merge_file(tmp_path / "c.yml")


def test_a_syntax_error_has_its_place(options, tmp_path):
    (tmp_path / "c.yml").write_text("TRAIN:\n  SCALES: [480\nTEST: {}\n")
    with pytest.raises(ConfigError, match=r"c\.yml:3:5: cannot be read as YAML options: expected ',' or ']'"):
        options.merge_file(tmp_path / "c.yml")


def test_missing_file_and_empty_file(options, tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yml"):
        options.merge_file(tmp_path / "none.yml")
    (tmp_path / "empty.yml").write_text("")
    options.merge_file(tmp_path / "empty.yml")
    assert options == Options()


def test_yaml_runs_no_code(options, tmp_path):
    (tmp_path / "c.yml").write_text("EXP_DIR: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(ConfigError, match=r"c\.yml"):
        options.merge_file(tmp_path / "c.yml")


def test_reset(default_cfg):
    cfg.merge({"TRAIN": {"SCALES": [1, 2]}, "RNG_SEED": 5})
    train = cfg.TRAIN
    cfg.reset()
    assert cfg == Options() and cfg.TRAIN is train


@pytest.mark.parametrize("name", ["/etc", "../..", "a/../../b"])
def test_results_stay_in_their_folder(options, name):
    with pytest.raises(ConfigError, match=r"EXP_DIR: expected the name of a folder in output/"):
        options.merge({"EXP_DIR": name})
    options.merge({"EXP_DIR": "study/seed_1"})
    assert options.EXP_DIR == "study/seed_1"


def test_aliases_are_refused_by_their_place(options, tmp_path):
    (tmp_path / "c.yml").write_text("TRAIN: &a {SCALES: [1]}\nTEST: *a\n")
    with pytest.raises(ConfigError, match=r"c\.yml:2:7: cannot be read as YAML options: aliases"):
        options.merge_file(tmp_path / "c.yml")


def test_the_example_that_overfits_differs_from_its_net_as_it_says(options):
    options.merge_file(ROOT / "models/SqueezeNet/config.yml")
    expected = dataclasses.replace(options.TRAIN, USE_FLIPPED=False)
    options.merge_file(ROOT / "examples/overfit/config.yml")
    assert expected == options.TRAIN
    solver = proto.read_solver(str(ROOT / "examples/overfit/solver.prototxt"))
    assert (ROOT / solver.train_net).is_file() and solver.stepsize < solver.max_iter
