"""tools/reproduce.py tells what there is, and what it is not given."""

import os
import subprocess
import sys

from detection.experiments import study


def reproduce(*words: str) -> subprocess.CompletedProcess:
    tool = str(study.ROOT / "tools" / "reproduce.py")
    return subprocess.run([sys.executable, tool, *words], capture_output=True, text=True, cwd=study.ROOT)


def test_list():
    done = reproduce("list")
    assert done.returncode == 0
    for name in study.names():
        assert f"{name:10} {study.read(name).title}" in done.stdout


def test_who_reads_the_list_may_stop():
    read, write = os.pipe()
    os.close(read)
    tool = [sys.executable, str(study.ROOT / "tools" / "reproduce.py"), "list"]
    run = subprocess.run(tool, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (run.returncode, run.stderr) == (141, "")


def test_what_is_wrong_is_told_in_a_line():
    done = reproduce("run", "table9")
    assert done.returncode == 1
    assert done.stderr.startswith("error: table9: there is no such study; there are coco, figure2")
    done = reproduce("show")
    assert done.returncode == 2
    assert "show needs a STUDY" in done.stderr
    done = reproduce("show", "table4", "--row", "l_svm")
    assert "table4: has no row 'l_svm'; its rows: s, s_svd" in done.stderr


def test_run_tells_the_plan_first(tmp_path):
    done = reproduce("run", "shapes", "--row", "default", "--scale-down", "--iters", "2", "--output", str(tmp_path))
    assert done.returncode == 0, done.stderr
    plan, _, end = done.stdout.partition("selective search comes on top\n")
    assert "default: 2 iterations" in plan
    assert "GFLOP/s" in plan
    assert end == f"report: {tmp_path / 'scaled_down' / 'shapes' / 'report.html'}\n"
    done = reproduce("report", "shapes", "--output", str(tmp_path))
    assert done.returncode == 1
    assert f"those of --scale-down are in {tmp_path / 'scaled_down' / 'shapes'}" in done.stderr


def test_show_tells_what_is_missing_last():
    assert reproduce("show", "shapes").stdout.endswith(
        "selective search comes on top\ndata and weights are all there\n"
    )
