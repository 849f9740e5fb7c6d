"""Folders that one process writes to at a time."""

import os
import signal
import subprocess
import sys

import pytest
from test_train import SETTINGS, failure

from bc_jax import outputs
from bc_jax.files import alone

HOLD = """
import pathlib, sys, time
from bc_jax.files import alone
with alone(pathlib.Path(sys.argv[1]), otherwise=""):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_folder_is_held_until_its_process_ends_in_whatever_way(root, tmp_path, capsys):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(root)},
    )
    try:
        assert process.stdout.readline() == b"held\n"
        (tmp_path / "metrics.csv").write_text("another's")
        code, said = failure(root, capsys, *SETTINGS, "--train.directory", tmp_path)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert code == 1
    assert f"another process is training in {tmp_path}; wait for it, or choose another" in said
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]
    with alone(tmp_path, otherwise="it is still held"):
        pass


def test_a_folder_that_was_not_there_goes_again_where_nothing_is_written(tmp_path):
    folder = tmp_path / "runs" / "mine"
    with alone(folder, otherwise=""):
        assert folder.is_dir()
    assert not list(tmp_path.iterdir())
    with alone(folder, otherwise=""):
        (folder / "metrics.csv").write_text("step")
    assert list(folder.iterdir())


def test_a_file_in_the_folders_place_is_told(root, tmp_path, capsys):
    (tmp_path / "video.mp4").write_text("")
    code, said = failure(root, capsys, *SETTINGS, "--train.directory", tmp_path / "video.mp4")
    assert code == 1
    assert "video.mp4 is a file, and a folder is to be there" in said


def test_two_evaluations_do_not_write_to_one_folder(tmp_path):
    with outputs.replaced(tmp_path) as first:
        (first / "results.json").write_text("first")
        message = "another evaluation is writing to"
        with pytest.raises(ValueError, match=message), outputs.replaced(tmp_path):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]
    assert (tmp_path / "results.json").read_text() == "first"
