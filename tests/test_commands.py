"""The command `bc-jax`, and the wheel that brings it."""

import subprocess
import sys
import zipfile
from importlib.metadata import version

import pytest
import zoo

from bc_jax import __version__, build, commands


def test_help_and_version_name_what_there_is(capsys):
    commands.main(["--help"])
    said = capsys.readouterr().out
    for name in ("train", "evaluate", "visualize", "explain", "bench", "convert", "table"):
        assert f"  {name} " in said
    commands.main(["--version"])
    assert capsys.readouterr().out.strip() == f"bc-jax {__version__}"


def test_python_runs_the_package_as_the_command():
    run = [sys.executable, "-m", "bc_jax", "--version"]
    said = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    assert said.strip() == f"bc-jax {__version__}"


@pytest.mark.parametrize(
    "words", [["--help"], ["visualize", "--help"], ["explain", "--size", "64", "64"]]
)
def test_a_reader_who_leaves_ends_it_quietly(words):
    run = [sys.executable, "-m", "bc_jax", *words]
    with subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""


def test_ctrl_c_ends_it_in_one_line(monkeypatch, capsys):
    def stops(argv):
        raise KeyboardInterrupt

    monkeypatch.setattr("bc_jax.explain.main", stops)
    with pytest.raises(SystemExit) as stop:
        commands.main(["explain"])
    assert stop.value.code == 130
    assert capsys.readouterr().err == "bc-jax: interrupted\n"


def test_an_unknown_command_is_told(capsys):
    with pytest.raises(SystemExit) as stop:
        commands.main(["fly"])
    assert stop.value.code == 2
    assert "no command 'fly'; there are train" in capsys.readouterr().err


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_each_command_helps(name, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["bc-jax"])
    with pytest.raises(SystemExit) as stop:
        commands.main([name, "--help"])
    assert stop.value.code == 0
    assert "usage" in capsys.readouterr().out.lower()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["explain", "--size", "1000000", "64"], "size (1000000, 64) has a side above 16384"),
        (["explain", "--size", "0", "64"], "size (0, 64) has a side below 1"),
        (["bench", "--repeats", "0"], "repeats is 0, and 1 is the least"),
        (["bench", "--fractions", "0.3", "30"], "fractions has 30.0; each is 0 to 1, a share of"),
        (["evaluate", "--tflops", "inf"], "tflops is inf, which is not finite"),
        (["evaluate", "--tflops", "0"], "tflops is 0.0; a device has a number above 0"),
        (["train", "--name", "a/b"], "name 'a/b' cannot be a folder's"),
        (
            ["explain", "--model.options.num_classes", "1"],
            "num_classes is 1, and 2 is the least",
        ),
        (
            ["convert", "--model=espnet", "--backbone=a", "--output=b", "--seed", "9" * 20],
            "it is 0 to 4294967295",
        ),
    ],
)
def test_an_argument_that_cannot_be_is_told_before_anything_is_done(
    words, message, root, monkeypatch, capsys
):
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, "argv", ["bc-jax"])
    config = [] if words[0] == "convert" else ["--config", "configs/debug.py"]
    with pytest.raises(SystemExit) as stop:
        commands.main([*words, *config])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_convert_names_itself_as_the_others_do(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bc-jax"])
    with pytest.raises(SystemExit, match=r"^bc-jax convert: error: .*gone\.pth"):
        commands.main(
            ["convert", "--model=espnet", f"--checkpoint={tmp_path}/gone.pth", "--output=b"]
        )


def test_explain_prints_the_report(root, monkeypatch, capsys):
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, "argv", ["bc-jax"])
    monkeypatch.setattr(build, "network", lambda config: zoo.tiny_network())
    commands.main(["explain", "--config", "configs/debug.py", "--size", "64", "96"])
    said = capsys.readouterr().out
    assert "1 stream(s) of 2 x 3 blocks of 32x32" in said
    assert "conv 3x3/4" in said


def test_bench_times_fractions_beside_dense(root, monkeypatch, capsys):
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, "argv", ["bc-jax"])
    monkeypatch.setattr(build, "network", lambda config: zoo.tiny_network())
    small = ["--config", "configs/debug.py", "--data.size", "64", "64"]
    commands.main(["bench", *small, "--fractions", "0.5", "--repeats", "2"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("dense: ")
    blocks, executed, ms, _, speedup, efficiency = lines[3].split()
    executed, ms, speedup, efficiency = map(float, (executed, ms, speedup, efficiency))
    assert blocks == "2/4" and executed == 0.5 and ms > 0
    assert efficiency == pytest.approx(speedup / 2, abs=0.02)


def test_the_wheel_holds_weights_clip_page_and_command(root, tmp_path):
    if int(version("setuptools").split(".")[0]) < 77:
        pytest.skip("needs setuptools 77 or newer to build without a network; make wheel does")
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("bc_jax", "pyproject.toml", "README.md", "LICENSE"):
        (tree / name).symlink_to(root / name)
    build = ("-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--quiet", "-w", "out")
    run = subprocess.run([sys.executable, *build], cwd=tree, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    (wheel,) = (tree / "out").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (entry,) = (name for name in names if name.endswith("entry_points.txt"))
        assert "bc-jax = bc_jax.commands:main" in archive.read(entry).decode()
    for part in (
        *("bc_jax/py.typed", "bc_jax/view/report.html", "bc_jax/train.py"),
        *("bc_jax/models/weights/espnet_cityscapes.npz", "bc_jax/data/clips/pedestrians.mp4"),
        *("bc_jax/paper/table1.csv", "bc_jax/paper/table2.csv"),
    ):
        assert part in names
    assert not any(name.startswith(("tests/", "benchmarks/")) for name in names)
