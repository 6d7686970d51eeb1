"""The command `caffelite`: what it prints, what it writes, how it ends."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import caffelite as caffe
from caffelite.cli import main
from caffelite.solver.lock import locked

ROOT = Path(__file__).resolve().parents[2]

NET = """
name: "line"
layer { name: "data" type: "DummyData" top: "data" top: "target"
  dummy_data_param { shape { dim: 4 dim: 3 } shape { dim: 4 dim: 2 }
  data_filler { value: 0.5 } data_filler { value: 2 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 2 weight_filler { type: "constant" value: 1 } } }
layer { name: "extra" type: "Power" bottom: "ip" top: "extra" include { stage: "more" } }
layer { name: "loss" type: "EuclideanLoss" bottom: "ip" bottom: "target" top: "loss" }
"""


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.prototxt").write_text(NET)
    (tmp_path / "solver.prototxt").write_text(
        'net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 4 random_seed: 1 snapshot: 2 '
        'snapshot_prefix: "s"'
    )
    return tmp_path


def test_train_and_continue(files, capsys):
    assert main(["train", "--solver", "solver.prototxt"]) == 0
    whole = (files / "s_iter_4.caffemodel").read_bytes()
    assert main(["train", "--solver", "solver.prototxt", "--snapshot", "s_iter_2.solverstate"]) == 0
    assert (files / "s_iter_4.caffemodel").read_bytes() == whole
    assert main(["train", "--solver", "solver.prototxt", "--weights", "s_iter_4.caffemodel,s_iter_2.caffemodel"]) == 0
    assert capsys.readouterr().out.count("1 layer(s) loaded") == 2
    assert main(["train", "--solver", "solver.prototxt", "--weights", "a", "--snapshot", "b"]) == 1


@pytest.mark.parametrize(
    "number, effect, last, written",
    [
        (signal.SIGINT, "stop", 1, [1]),
        (signal.SIGINT, "none", 4, [2, 4]),
        (signal.SIGINT, "snapshot", 4, [1, 2, 4]),
        (signal.SIGHUP, "snapshot", 4, [1, 2, 4]),
        (signal.SIGHUP, "stop", 1, [1]),
        (signal.SIGHUP, "none", 4, [2, 4]),
        (signal.SIGTERM, None, 1, [1]),
    ],
)
def test_signals(files, number, effect, last, written, monkeypatch):
    solvers = []

    def get_solver(param, file):
        solver = caffe.get_solver(param, file=file)
        solver.add_callback(lambda: None, lambda: solver.iter == 0 and os.kill(os.getpid(), number))
        solvers.append(solver)
        return solver

    monkeypatch.setattr("caffelite.cli.get_solver", get_solver)
    name = {signal.SIGINT: ["--sigint_effect"], signal.SIGHUP: ["--sighup_effect"]}.get(number, [])
    status = main(["train", "--solver", "solver.prototxt", *name, *filter(None, [effect])])
    assert status == (143 if number == signal.SIGTERM else 0)
    assert signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)
    assert solvers[0].iter == last
    assert sorted(files.glob("*.solverstate")) == [files / f"s_iter_{n}.solverstate" for n in written]


@pytest.mark.parametrize(
    "command", [["train", "--solver", "solver.prototxt", "--weights", "w"], ["summary", "--model", "net.prototxt"]]
)
def test_output_that_nobody_reads(files, command):
    caffe.Net("net.prototxt", caffe.TEST).save("w")
    read, write = os.pipe()
    os.close(read)
    script = [sys.executable, "-u", "-m", "caffelite", *command]
    run = subprocess.run(
        script, stdout=write, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    os.close(write)
    assert run.returncode == 128 + signal.SIGPIPE
    assert ("stopped: nobody reads the output" in run.stderr) == (command[0] == "train")
    closed = subprocess.run(
        ["sh", "-c", '"$@" >&-', "sh", *script], capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert closed.returncode == 0, closed.stderr


def test_solver_mode_gpu_is_told_not_to_be_followed(files, caplog):
    (files / "solver.prototxt").write_text((files / "solver.prototxt").read_text() + "\nsolver_mode: GPU")
    assert main(["train", "--solver", "solver.prototxt"]) == 0
    assert "solver.prototxt: solver_mode: GPU is not followed: computing on the CPU; say --gpu 0" in caplog.text


def test_weights_of_other_shapes_can_be_skipped(files, capsys):
    other = NET.replace("num_output: 2", "num_output: 3").replace("dim: 4 dim: 2", "dim: 4 dim: 3")
    (files / "other.prototxt").write_text(other)
    caffe.Net("other.prototxt", caffe.TEST).save("w.caffemodel")
    command = ["train", "--solver", "solver.prototxt", "--weights", "w.caffemodel"]
    assert main(command) == 1
    assert "as it is (--skip-mismatched" in capsys.readouterr().err
    assert main([*command, "--skip-mismatched"]) == 0
    assert "mismatched (other shapes, skipped): layer 'ip'" in capsys.readouterr().out
    (files / "other.prototxt").write_text(NET.replace('name: "ip"', 'name: "another"'))
    caffe.Net("other.prototxt", caffe.TEST).save("w.caffemodel")
    assert main(command) == 1
    assert "has no layer of net.prototxt: weights of another net?" in capsys.readouterr().err
    for swapped, says in (("net.prototxt", "is a text"), ("w.solverstate", "is a solver's state")):
        os.replace("w.caffemodel", "w.solverstate") if swapped == "w.solverstate" else None
        assert main([*command[:-1], swapped]) == 1
        assert says in capsys.readouterr().err


def test_a_solvers_faults_name_its_file(files, capsys):
    (files / "solver.prototxt").write_text((files / "solver.prototxt").read_text().replace("fixed", "stp"))
    assert main(["train", "--solver", "solver.prototxt"]) == 1
    assert "caffelite: solver.prototxt: unknown lr_policy 'stp'" in capsys.readouterr().err


def test_a_prefix_that_another_training_writes(files, capsys):
    with locked("s"):
        assert main(["train", "--solver", "solver.prototxt"]) == 1
    assert f"caffelite: s: process {os.getpid()} on " in capsys.readouterr().err


def test_test(files, capsys):
    caffe.Net("net.prototxt", caffe.TEST).save("w.caffemodel")
    assert main(["test", "-model", "net.prototxt", "-weights=w.caffemodel", "--iterations", "2"]) == 0
    report, *lines = capsys.readouterr().out.splitlines()
    assert report == "weights from w.caffemodel: 1 layer(s) loaded"
    assert lines == ["Batch 0, loss = 0.25", "Batch 1, loss = 0.25", "Loss: 0.25", "loss = 0.25 (* 1 = 0.25 loss)"]


def test_many_numbers_are_not_all_printed(files, capsys):
    text = 'layer { name: "x" type: "DummyData" top: "x" dummy_data_param { shape { dim: 7 dim: 100 } } }'
    (files / "many.prototxt").write_text(text)
    assert main(["test", "--model", "many.prototxt", "--iterations", "1"]) == 0
    line = capsys.readouterr().out.splitlines()[0]
    assert line == f"Batch 0, x = {'0 ' * 100}... (700 values, the largest 0 at 0)"


def test_time_and_summary(files, capsys):
    assert main(["time", "--model", "net.prototxt", "--iterations", "2", "--threads", "1"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"^ip +InnerProduct +\d+\.\d+ +\d+\.\d+ +\d+\.\d%$", text, re.M)
    assert "median of 2 passes" in text and "1 thread(s)" in text
    assert main(["summary", "--model", "net.prototxt"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"^ip +InnerProduct +4x2 +8 +24$", text, re.M)  # 3 x 2 weights and 2 biases, 4 rows
    assert "extra" not in text
    assert main(["summary", "--model", "net.prototxt", "--stage", "more"]) == 0
    assert "extra" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, status, says",
    [
        (["time", "--model", "none.prototxt"], 1, r"^caffelite: none\.prototxt: cannot be read"),
        (["time", "--model", "net.prototxt", "--iterations", "0"], 2, "at least 1, actual '0'"),
        (["time", "--model", "net.prototxt", "--gpu", "all"], 1, "^caffelite: --gpu expected the number"),
        (["time", "--model", "net.prototxt", "--threads", "-1"], 1, "^caffelite: expected a number of threads"),
        (["draw", "--model", "net.prototxt", "none/x.dot"], 1, r"^caffelite: none/x\.dot"),
        (["train", "-solver", "net.prototxt"], 1, r"^caffelite: net\.prototxt: is a net, expected a solver \(net"),
        (["summary", "--model", "solver.prototxt"], 1, r"solver\.prototxt: is a solver, expected a net"),
        (["test", "--model", "net.prototxt"], 1, r"net\.prototxt: expected --weights FILE"),
        (["draw", "--model", "net.prototxt", "x.foo"], 1, r"x\.foo: expected an extension .*: \.png, \.svg"),
    ],
)
def test_errors_are_one_line(files, capsys, arguments, status, says):
    try:
        assert main(arguments) == status
    except SystemExit as e:
        assert e.code == status
    err = capsys.readouterr().err
    assert re.search(says, err, re.M)
    assert status == 2 or err.count("\n") == 1


def test_ctrl_c_is_one_line(files, capsys, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("caffelite.cli.Net._forward", interrupted)
    caffe.Net("net.prototxt", caffe.TEST).save("w.caffemodel")
    assert main(["test", "--model", "net.prototxt", "--weights", "w.caffemodel"]) == 130
    assert capsys.readouterr().err == "caffelite: stopped\n"


@pytest.mark.parametrize("module", ["caffelite", "caffelite.cli"])
def test_the_module_is_the_command(module):
    run = subprocess.run([sys.executable, "-m", module, "--version-of-nothing"], capture_output=True, text=True)
    assert run.returncode == 2 and "COMMAND" in run.stderr
