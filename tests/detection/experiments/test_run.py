"""Studies run from end to end, scaled down: every experiment file builds its nets, trains and tests a few iterations
with random weights on two images."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from detection.config import cfg
from detection.experiments import plan, run, study
from detection.experiments.scale_down import ScaleDown
from detection.experiments.study import StudyError
from detection.fast_rcnn import jobs
from detection.fast_rcnn.train import Trainer

SCALE = ScaleDown(images=2, side=64, iterations=2, rois=8, proposals=20, width=64)
KEYS = {
    "format", "study", "row", "label", "metric", "scores", "published", "time", "memory_peak_bytes", "options",
    "solver", "seed", "versions", "data", "weights", "effective_batch", "deviations", "notes",
    "scaled_down", "files",
}  # fmt: skip


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """Scaled down, in a folder that the tests of this module share: a training is done once."""
    folder = tmp_path_factory.mktemp("experiments")
    yield run.Settings(folder, SCALE)
    cfg.reset()
    shutil.rmtree(folder)  # hundreds of megabytes of models


def trainings(settings) -> set[str]:
    return {folder.name for folder in (settings.output / "trainings").glob("*")}


@pytest.mark.parametrize("name", study.names())
def test_every_row_of_every_study_runs(name, settings):
    one = study.read(name)
    results = run.run(one, (), settings)
    assert len(results) == len(one.rows)
    for row, path in zip(one.rows, results):
        result = json.loads(path.read_text())
        assert set(result) == KEYS
        assert (result["study"], result["row"], result["label"]) == (name, row.name, row.label)
        assert 0 <= result["scores"]["mAP"] <= 1
        assert result["notes"] == []
        assert result["published"]["mAP"] == row.published["mAP"]
        assert result["time"]["test_image_ms"] > 0
        assert result["scaled_down"].startswith("2 generated images")
        assert result["deviations"][: len(row.deviations)] == list(row.deviations)
        assert result["options"]["TEST"]["SVM"] == row.svm
        assert result["data"]["train"]["images"] == result["data"]["test"]["images"] == 2
        files = result["files"]
        for file in (files["loss_log"], files["evaluation"], files["detections"], *files["pictures"]):
            assert (path.parent / file).is_file()
        assert len(files["pictures"]) >= 3
        assert (path.parent / "compressed.prototxt").is_file() == bool(row.svd)
    report = json.loads((settings.output / name / "report.json").read_text())
    assert [row["row"] for row in report["rows"]] == [row.name for row in one.rows]


def test_rows_share_trainings(settings):
    """The rows of all studies need these and no more: what is the same is trained once."""
    one = study.read("table6")
    run.run(one, (), settings)
    before = trainings(settings)
    for name in ("table4", "table8", "figure2"):
        run.run(study.read(name), (), settings)
    assert trainings(settings) == before


def test_what_is_finished_is_not_done_again(settings, monkeypatch):
    one = study.read("shapes")
    first = run.run(one, ["default"], settings)[0]
    written = first.stat().st_mtime_ns
    monkeypatch.setattr(jobs, "test", lambda *_: pytest.fail("tested again"))
    monkeypatch.setattr(jobs, "train", lambda *_, **__: pytest.fail("trained again"))
    assert run.run(one, ["default"], settings)[0].stat().st_mtime_ns == written
    monkeypatch.undo()
    # another option of the test: the model is kept, the test is done again
    row = one.row("default")
    changed = replace(one, rows=(replace(row, options={"TEST": {"NMS": 0.5}}),))
    before = trainings(settings)
    result = run.run(changed, (), settings)[0]
    assert json.loads(result.read_text())["options"]["TEST"]["NMS"] == 0.5
    assert result.stat().st_mtime_ns > written
    assert trainings(settings) == before
    # another seed: it is trained again, and reported beside the first
    run.run(changed, ["default"], replace(settings, seed=11))
    assert len(trainings(settings)) == len(before) + 1
    report = json.loads((settings.output / "shapes" / "report.json").read_text())
    assert [result["seed"] for result in report["rows"][0]["runs"]] == [3, 11]


def test_an_interrupted_training_goes_on_from_its_snapshot(settings, monkeypatch):
    one = study.read("shapes")
    begun = []
    snapshot, train = Trainer.snapshot, Trainer.train

    def stop(trainer, *args):
        snapshot(trainer, *args)
        raise KeyboardInterrupt

    def note(trainer, iterations):
        begun.append(trainer.solver.iter)
        return train(trainer, iterations)

    monkeypatch.setattr(Trainer, "train", note)
    monkeypatch.setattr(Trainer, "snapshot", stop)
    often = replace(settings, seed=5, scale=replace(SCALE, iterations=4))
    row = often.applied(one.row("default"))
    row = replace(row, options={**row.options, "TRAIN": {**row.options["TRAIN"], "SNAPSHOT_ITERS": 3}})
    with pytest.raises(KeyboardInterrupt):
        run.run_row(row, often)
    monkeypatch.setattr(Trainer, "snapshot", snapshot)
    result = json.loads(run.run_row(row, often).read_text())
    assert begun == [0, 3]
    log = (often.output / "shapes" / "default_seed_5" / result["files"]["loss_log"]).read_text().splitlines()
    assert [json.loads(line)["iter"] for line in log] == [0, 1, 2, 3]


def test_a_row_that_fails_does_not_stop_the_others(settings):
    one = study.read("shapes")
    good = one.row("default")
    bad = replace(good, name="bad", svd={"fc9": 3})
    with pytest.raises(StudyError, match=r"1 of 2 rows failed:\nbad: .*has no layer 'fc9'"):
        run.run(replace(one, rows=(bad, good)), (), settings)
    assert (settings.output / "shapes" / "default" / "result.json").is_file()


def test_neither_memory_nor_a_disk_nor_a_seed_stops_the_others(tmp_path, monkeypatch):
    begun = []

    def fail(row, settings):
        begun.append((settings.seed, row.name))
        raise {"default": MemoryError("of the GPU"), "stagewise": OSError(28, "No space left on device")}[row.name]

    monkeypatch.setattr(run, "run_row", fail)
    with pytest.raises(StudyError) as error:
        run.run_seeds(study.read("shapes"), ["default", "stagewise"], run.Settings(tmp_path, SCALE), (3, 4))
    assert begun == [(3, "default"), (3, "stagewise"), (4, "default"), (4, "stagewise")]
    for seed in (3, 4):
        assert f"seed {seed}: shapes: 2 of 2 rows failed:\ndefault: out of memory of the GPU" in str(error.value)
    assert "stagewise: [Errno 28] No space left on device" in str(error.value)


def test_iterations_of_a_damaged_log_are_timed(tmp_path):
    (tmp_path / "net_loss.jsonl").write_text('{"iter": 0, "seconds": 0.5}\n{"iter": 1, "sec\n{"iter": 1}\n')
    assert run.Training("", tmp_path, tmp_path / "net_iter_2.caffemodel", None).iteration_seconds() == [0.5]


def test_cocos_measures_are_notes(settings, monkeypatch):
    """A row on COCO is scored by PASCAL's metric, which has a band of chance, and COCO's own stand below it."""
    measured = run.jobs.test

    def test(definition, imdb, model, proposals, output):
        measured(definition, imdb, model, proposals, output)
        path = Path(output) / "evaluation.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "coco": {"AP": 0.1972, "AP75": None}}))

    monkeypatch.setattr(run.jobs, "test", test)
    one = study.read("shapes")
    result = json.loads(
        run.run(replace(one, rows=(replace(one.row("default"), name="coco"),)), (), settings)[0].read_text()
    )
    assert result["notes"] == ["COCO's AP: 0.1972"]


def test_a_test_set_without_annotations_has_no_score(settings, monkeypatch):
    monkeypatch.setattr(run.jobs, "measure", lambda *_, **__: pytest.fail("measured"))
    one = study.read("shapes")
    row = settings.applied(replace(one.row("default"), name="unknown"))
    hidden = settings.output / "hidden"
    shutil.copytree(row.test.partition(":")[0], hidden)
    shutil.rmtree(hidden / "Annotations")
    row = replace(row, test=f"{hidden}:test:{row.test.rpartition(':')[2]}")
    result = json.loads(run.run_row(row, settings).read_text())
    assert result["scores"] == {"mAP": None, "AP": {}}
    assert result["files"]["evaluation"] is None
    assert len(list((settings.output / "shapes" / "unknown" / "results").glob("comp4_det_test_*.txt"))) == 6
    assert run.write_report(one, settings).is_file()


def test_fewer_iterations_and_own_proposals_are_deviations():
    row = run.Settings(iterations=100, search=True).applied(study.read("table3").row("frcn_07pp12"))
    assert (row.stages[0].iterations, row.stages[0].solver["stepsize"], row.proposals) == (100, 40, "search")
    assert row.deviations == (
        "100 iterations instead of 100000",
        "proposals made here by OpenCV's selective search instead of the authors' files",
    )


def test_scaled_down_to_so_many_iterations(tmp_path):
    settings = run.Settings(tmp_path, SCALE, iterations=8)
    row = settings.applied(study.read("table1").row("frcn_07"))
    assert (row.stages[0].iterations, row.stages[0].solver["stepsize"]) == (8, 6)
    assert row.deviations == ()
    assert "8 iterations" in str(settings.own_scale)


def test_the_default_job_as_a_study_is_the_default_job():
    """Its solver and options are those of prototxt/, so that its row is what `make demo` does."""
    row = study.read("shapes").row("default")
    stage = row.stages[0]
    options = row.configured(stage)
    assert (stage.iterations, options.TRAIN.SCALES, options.TRAIN.BG_THRESH_LO) == (4000, (240,), 0.0)


@pytest.mark.parametrize("name", ["table7", "raccoon"])
def test_plan(name, default_cfg):
    default_cfg.TRAIN.SCALES = (300,)
    one = study.read(name)
    text = "\n".join(plan.lines(one, one.rows))
    for row in one.rows:
        assert f"{row.name}: {row.label}" in text
    assert "GFLOP/s" in text
    if name == "raccoon":
        assert "default: 1000 iterations, shared with default" in text
        assert "then SVMs; test: about" in text
    assert default_cfg.TRAIN.SCALES == (300,)  # the options of the caller stay


def test_estimates_grow_with_what_is_trained(default_cfg):
    rows = [study.read("table5").row(name) for name in ("fc6", "conv3_1", "conv2_1")]
    costs = [plan.estimate(row, row.stages[0]) for row in rows]
    assert costs[0].iteration < costs[1].iteration < costs[2].iteration
    assert costs[0].memory < costs[1].memory < costs[2].memory
    # VGG16 at 600 x 800: 15.3 G multiply-adds of convolutions at 224 x 224
    forward = 15.35e9 * 600 * 800 / 224**2 + 2000 * (25088 * 4096 + 4096 * 4096 + 105 * 4096)
    assert costs[0].test == pytest.approx(forward, rel=0.01)


def test_estimates_are_of_the_compressed_net_and_of_the_datas_classes(tmp_path, default_cfg):
    one = study.read("table4")
    whole, compressed = (plan.estimate(row, row.stages[0]) for row in (one.row("s"), one.row("s_svd")))
    saved = (9216 * 4096 - 1024 * (9216 + 4096)) + (4096 * 4096 - 256 * (4096 + 4096))
    assert whole.test - compressed.test == 2000 * saved
    assert whole.iteration == compressed.iteration
    six = replace(one.row("s"), train=SCALE.row(one.row("s"), tmp_path).train)  # of 6 classes, where VOC has 20
    assert whole.test - plan.estimate(six, six.stages[0]).test == 2000 * 4096 * 5 * 14
    thin = plan.estimate(one.row("s"), one.row("s").stages[0], SCALE)
    assert thin.memory < whole.memory / 2
