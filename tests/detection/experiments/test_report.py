"""The report of a study: what it says, that it needs nothing beside itself, and how a browser shows it."""

import html
import html.parser
import json
import os
import re
import shutil
import subprocess
from dataclasses import asdict

import cv2
import numpy as np
import pytest

from detection.config import Options
from detection.experiments import report
from detection.experiments.report import ReportError

CHROMIUM = shutil.which("chromium")
EVIL = '<script>alert(1)</script> & "quotes" | pipe'
VOID = ("meta", "img", "path", "polyline", "circle")


def write_result(folder, row="default", seed=3, mean_ap=0.57, with_files=True, **changes):
    """One result with all its files; returns its folder."""
    place = folder / (row if seed == 3 else f"{row}_seed{seed}")
    place.mkdir(parents=True)
    if with_files:
        curves = {"cat": [[0.5, 1.0], [0.75, 0.6]], "dog": [[0.25, 0.5]]}
        band = {"low": 0.55, "high": 0.59, "level": 0.95, "classes": {"cat": [0.5, 0.7], "dog": [0.4, 0.6]}}
        content = {"AP": {"cat": 0.6, "dog": 0.54}, "rules": "AP: 11 points", "precision_recall": curves, "band": band}
        (place / "evaluation.json").write_text(json.dumps(content))
        losses = [{"iter": n, "lr": 0.001, "loss": 2 / (n + 1), "loss_cls": 1 / (n + 1)} for n in range(300)]
        (place / "net_loss.jsonl").write_text("".join(json.dumps(line) + "\n" for line in losses))
        for name in ("worst.jpg", "detections.png", "precision_recall.png"):
            cv2.imwrite(str(place / name), np.full((90, 2000, 3), 128, np.uint8))
    options = json.loads(json.dumps(asdict(Options())))
    options["TRAIN"]["BATCH_SIZE"] = 64
    result = {
        "format": 1, "study": "table6", "row": row, "label": f"S, {row}", "metric": "VOC 2007, 11 points",
        "scores": {"mAP": mean_ap, "AP": {"cat": 0.6, "dog": 0.54}},
        "published": {"mAP": 0.571, "AP": {"cat": 0.58}, "note": "K40"},
        "time": {"train_seconds": 4320.0, "train_iteration_ms": 108.0, "test_image_ms": None},
        "memory_peak_bytes": 3 * 2**30, "options": options, "solver": "base_lr: 0.001\n", "seed": seed,
        "versions": {"caffelite": "0.1.0", "numpy": "2.0", "python": "3.11", "machine": "a CPU, 2 cores"},
        "data": {side: {"name": f"voc_2007_{side}", "images": 5, "sha256": side[0] * 64} for side in ("train", "test")},
        "weights": {"file": "CaffeNet.v2.caffemodel", "sha256": "c" * 64},
        "effective_batch": {"images": 2, "rois": 128}, "deviations": [], "scaled_down": None,
        "files": {
            "loss_log": "net_loss.jsonl", "evaluation": "evaluation.json", "detections": "detections.npz",
            "pictures": ["detections.png", "precision_recall.png"],
        },
    } | changes  # fmt: skip
    (place / "result.json").write_text(json.dumps(result))
    return place


class Reader(html.parser.HTMLParser):
    """Checks that tags are closed as they were opened; collects tags and text."""

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.words = [], [], []
        self.feed(page)
        self.close()
        assert not self.open, self.open
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.words.append(data)


def read(folder, **options):
    return Reader(report.write(folder, **options).read_text())


def test_rows_beside_the_published_numbers(tmp_path):
    write_result(tmp_path)
    write_result(tmp_path, "svd", mean_ap=0.5, published={"mAP": 0.565})
    write_result(tmp_path, "mine", published={})
    page = read(tmp_path, title="Table 6", order=["svd"])
    assert "S, svd 50.0 56.5 -6.5 55.0 to 59.0 published number within the band" in page.text
    assert "S, default 57.0 57.1 -0.1 55.0 to 59.0" in page.text
    assert "S, mine 57.0 – – 55.0 to 59.0 nothing published" in page.text
    assert page.text.index("S, svd") < page.text.index("S, default")
    assert "peak of main memory" in page.text and "peak of main memory" in (tmp_path / "report.md").read_text()
    assert "72 min 108 ms – 3.0 GiB 2 / 128" in page.text and "cat 60.0 60.0 58.0 60.0" in page.text
    assert "TRAIN.BATCH_SIZE 64" in page.text and "c" * 64 in page.text and "base_lr: 0.001" in page.text

    content = json.loads((tmp_path / "report.json").read_text())
    assert content["title"] == "Table 6" and [row["row"] for row in content["rows"]] == ["svd", "default", "mine"]
    assert content["rows"][0]["difference"] == pytest.approx(-0.065) and content["rows"][2]["published"] is None
    text = (tmp_path / "report.md").read_text()
    assert "| S, svd | 50.0 | 56.5 | -6.5 | 55.0 to 59.0 | published number within the band |" in text


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({}, "published number within the band"),
        ({"published": {"mAP": 0.6}, "mean_ap": 0.57}, "below the published number"),
        ({"published": {"mAP": 0.5}}, "above the published number"),
        ({"scaled_down": "8 images"}, "not comparable: scaled down"),
        ({"scaled_down": "8 images", "published": {}}, "not comparable: scaled down"),
        ({"mean_ap": None}, "no mAP"),
        ({"with_files": False}, "no band of chance known"),
    ],
)
def test_verdicts(tmp_path, changes, expected):
    write_result(tmp_path, **changes)
    assert report.collect(tmp_path)["rows"][0]["verdict"] == expected


def test_what_is_scaled_down_is_not_held_against_the_published_number(tmp_path):
    write_result(tmp_path, mean_ap=0.11, scaled_down="8 images")
    page = report.write(tmp_path, title="Table 6").read_text()
    assert "<h1>Table 6, scaled down</h1>" in page
    assert "S, default 11.0 57.1 – 55.0 to 59.0 not comparable: scaled down" in Reader(page).text
    assert 'class="published"' not in page  # no diamond in the chart
    assert json.loads((tmp_path / "report.json").read_text())["rows"][0]["difference"] is None


def test_rows_of_one_training_are_one_curve(tmp_path):
    write_result(tmp_path)
    write_result(tmp_path, "svd")
    other = write_result(tmp_path, "other")
    (other / "net_loss.jsonl").write_text(
        "".join(json.dumps({"iter": n, "loss": 3 / (n + 1)}) + "\n" for n in range(300))
    )
    page = report.write(tmp_path).read_text()
    training = page[page.index('id="training"') :]
    training = training[: training.index("</section>")]
    assert training.count("<li>") == 2
    assert re.search("S, (svd; S, default|default; S, svd)", training)


def test_seeds_are_one_row_with_mean_and_spread(tmp_path):
    for seed, mean_ap in ((3, 0.56), (4, 0.58), (5, 0.57)):
        write_result(tmp_path, seed=seed, mean_ap=mean_ap)
    (row,) = report.collect(tmp_path)["rows"]
    assert row["mAP"] == pytest.approx(0.57) and row["spread"] == pytest.approx(0.01) and len(row["runs"]) == 3
    text = read(tmp_path).text
    assert "57.0 ± 1.0 (3 seeds)" in text and "seed 4 default_seed4, mAP 58.0 %" in text
    assert "one seed for every row" not in text


def test_only_seeds_of_the_same_training_are_averaged(tmp_path):
    solver = 'train_net: "trainings/{0}/train.prototxt"\nmax_iter: {1}\nrandom_seed: {0}\n'
    band = {"low": 0.55, "high": 0.59}
    for n, (folder, seed, mean_ap, iterations) in enumerate(
        [("default", 3, 0.57, 40000), ("a", 3, 0.57, 40000), ("b", 4, 0.1, 300), ("c", 5, 0.61, 40000)]
    ):
        own = {"band": {"low": 0.59, "high": 0.63}} if seed == 5 else {"band": band}
        changes = {"solver": solver.format(seed, iterations), "options": {"RNG_SEED": seed}, **own}
        place = write_result(tmp_path / "made", seed=seed, mean_ap=mean_ap, **changes).rename(tmp_path / folder)
        os.utime(place / "result.json", (n, n))
    (row,) = report.collect(tmp_path)["rows"]
    assert [(run["folder"], run["seed"]) for run in row["runs"]] == [("a", 3), ("c", 5)]
    assert row["mAP"] == pytest.approx(0.59)
    assert (row["band"]["low"], row["band"]["high"]) == pytest.approx((0.57, 0.61)), "around the mean"
    assert row["warnings"][:2] == [
        "b is left out: solver not as in c, the newest",
        "default is left out: of seed 3, as a, which is newer",
    ]


def test_warnings(tmp_path):
    write_result(tmp_path)
    write_result(
        tmp_path, "svd", effective_batch={"images": 1, "rois": 64}, deviations=["no flips"], scaled_down="9 images",
        weights=None, notes=["slow disk"], versions={"caffelite": "0.2"}, files={"evaluation": "evaluation.json"},
    )  # fmt: skip
    content = report.collect(tmp_path)
    assert content["warnings"][0].startswith("one seed for every row")
    assert content["warnings"][1:] == [
        f"the rows do not have the same {what}" for what in ("version of caffelite", "machine")
    ]
    assert content["rows"][0]["warnings"] == []
    assert content["rows"][1]["warnings"] == [
        "scaled down: 9 images", "effective batch: 1 images and 64 RoIs, in the paper 2 and 128", "deviation: no flips",
        "trained from random weights, not from those of ImageNet", "slow disk", "svd: there is no loss log",
    ]  # fmt: skip
    text = read(tmp_path).text
    assert all(warning in text for row in content["rows"] for warning in row["warnings"])


def test_what_holds_for_all_rows_is_told_once(tmp_path):
    for row, deviations in (("a", ["no flips", "more"]), ("b", ["no flips"])):
        write_result(tmp_path, row, deviations=deviations)
    content = report.collect(tmp_path, notes=["the author's spread is 0.2"])
    assert content["warnings"][0] == "deviation: no flips"
    assert [row["warnings"] for row in content["rows"]] == [["deviation: more"], []]
    report.write(tmp_path, notes=["the author's spread is 0.2"])
    for file in ("report.html", "report.md"):
        text = html.unescape((tmp_path / file).read_text())
        assert text.count("no flips") == 1 and text.count("the author's spread") == 1


def test_missing_damaged_and_foreign_files_are_told(tmp_path):
    (tmp_path / "secret.png").write_bytes(b"")
    place = write_result(tmp_path / "out" / "study", with_files=False)
    result = json.loads((place / "result.json").read_text())
    result["files"]["pictures"] = ["gone.png", "../../../secret.png", "broken.png"]
    (place / "result.json").write_text(json.dumps(result))
    (place / "broken.png").write_bytes(b"no picture")
    text = read(place.parent).text
    for warning in (
        "there is no evaluation evaluation.json",
        "there is no loss log net_loss.jsonl",
        "no picture gone.png",
    ):
        assert warning in text
    assert "secret.png lies outside" in text and "broken.png: " in text


def test_text_stays_text(tmp_path):
    write_result(
        tmp_path, label=EVIL, metric=EVIL, deviations=[EVIL], solver=EVIL, versions={"machine": EVIL, EVIL: EVIL}
    )
    page = read(tmp_path, title=EVIL)
    assert page.text.count("<script>alert(1)</script>") >= 6, "shown"
    assert not any(tag == "script" for tag, _ in page.tags)
    (row,) = [line for line in (tmp_path / "report.md").read_text().splitlines() if line.startswith("| \\<script")][:1]
    assert len(re.findall(r"(?<!\\)\|", row)) == 7 and "\\| pipe" in row


def test_the_page_needs_nothing_beside_itself(tmp_path):
    write_result(tmp_path)
    path = report.write(tmp_path)
    page = Reader(path.read_text())
    pictures = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) == 2 and all(picture.startswith("data:image/jpeg;base64,") for picture in pictures)
    assert all(attributes["href"].startswith("#") for tag, attributes in page.tags if tag == "a")
    anchors = {attributes["id"] for tag, attributes in page.tags if "id" in attributes}
    assert anchors >= {attributes["href"][1:] for tag, attributes in page.tags if tag == "a"}
    assert not any(
        name in attributes for _, attributes in page.tags for name in ("onclick", "onload", "style", "srcset")
    )
    assert "url(" not in path.read_text() and {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "iframe"})
    assert path.read_bytes() == report.write(tmp_path).read_bytes()


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "cannot be read as JSON"),
        ("[]", "expected a result of format 1"),
        ('{"format": 2}', "expected a result of format 1"),
        ('{"format": 1, "study": 3}', "study: expected a text, found 3"),
        ({"scores": {"AP": [1]}}, r"scores\.AP: expected an object, found \[1\]"),
        ({"published": {"AP": {"cat": "high"}}}, r"published\.AP\.cat: expected a number, nan or null, found high"),
        ({"data": {"train": 3}}, r"data\.train: expected an object"),
        ({"data": {"train": {"name": "a", "images": 1}}}, r"data\.train\.sha256: is missing"),
        ({"versions": {"machine": 3}}, r"versions\.machine: expected a text"),
        ({"deviations": [3]}, r"deviations\.0: expected a text"),
        ({"seed": 0.5}, "seed: expected a whole number"),
        ({"band": {"low": 0.1, "high": float("inf")}}, r"band\.high: expected a finite number"),
    ],
)
def test_damaged_results(tmp_path, content, message):
    if isinstance(content, str):
        write_result(tmp_path)
        (tmp_path / "default" / "result.json").write_text(content)
    else:
        write_result(tmp_path, **content)
    with pytest.raises(ReportError, match=rf"default.*/result\.json: {message}"):
        report.write(tmp_path)


@pytest.mark.parametrize("content", ["[]", '{"precision_recall": {"cat": [[1]]}}', '{"band": {"low": 1}}', '{"AP": 3}'])
def test_damaged_evaluations(tmp_path, content):
    (write_result(tmp_path) / "evaluation.json").write_text(content)
    with pytest.raises(ReportError, match=r"default/evaluation\.json: .*(expected|is missing)"):
        report.write(tmp_path)


def test_damaged_logs_and_no_results(tmp_path):
    with pytest.raises(ReportError, match="found none"):
        report.write(tmp_path)
    place = write_result(tmp_path)
    (place / "net_loss.jsonl").write_text(
        '{"iter": 0, "loss": 1}\n{"iter": 1, "loss": null}\n{"iter": 2, "loss": 3}\n{"it'
    )
    (run,) = report.collect(tmp_path)["rows"][0]["runs"]
    assert run["losses"] == {"loss": [(0, 1), (2, 3)]}
    (place / "net_loss.jsonl").write_text("no log")
    assert "net_loss.jsonl: holds no line" in read(tmp_path).text


def test_numbers_that_json_does_not_have(tmp_path):
    write_result(tmp_path, mean_ap=float("nan"), scores={"mAP": float("nan"), "AP": {"cat": float("nan")}})
    report.write(tmp_path)
    row = json.loads((tmp_path / "report.json").read_text())["rows"][0]
    assert row["mAP"] is None and row["runs"][0]["scores"]["AP"]["cat"] is None and row["verdict"] == "no mAP"


FRAME = """<!DOCTYPE html><iframe id="page" src="study/report.html" style="width: {width}px; height: 900px"></iframe>
<script>
page.onload = () => {{
  const inside = page.contentDocument, root = inside.documentElement;
  const asked = page.contentWindow.performance.getEntriesByType("resource");
  document.title = JSON.stringify({{
    fits: root.scrollWidth <= root.clientWidth,
    pictures: [...inside.images].map(image => image.naturalWidth > 0),
    charts: inside.querySelectorAll("svg.chart").length,
    requests: asked.filter(one => !one.name.startsWith("data:")).length,
  }});
}};
</script>"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs the browser chromium")
@pytest.mark.parametrize("width", [1280, 360])
def test_a_browser_shows_it_without_scrolling_sideways(tmp_path, width):
    write_result(tmp_path / "study")
    write_result(tmp_path / "study", "a row with quite a long name_" + "x" * 60, deviations=["y" * 200])
    report.write(tmp_path / "study", title="A" * 90)
    (tmp_path / "frame.html").write_text(FRAME.format(width=width))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--dump-dom"]
    browser = [CHROMIUM, *options, f"--user-data-dir={tmp_path / 'profile'}", (tmp_path / "frame.html").as_uri()]
    shown = subprocess.run(browser, capture_output=True, text=True, timeout=120).stdout
    seen = json.loads(html.unescape(re.search("<title>(.*)</title>", shown)[1]))
    assert seen == {"fits": True, "pictures": [True] * 4, "charts": 6, "requests": 0}
