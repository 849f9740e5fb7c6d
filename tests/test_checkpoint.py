"""Checkpoints: bit for bit, whole or not at all, and a clear word on what cannot be read."""

import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bc_jax.checkpoint import Checkpointer, CheckpointError, CorruptCheckpointError


@flax.struct.dataclass
class Run:
    params: dict
    optimizer: optax.OptState
    key: jax.Array
    step: jax.Array
    extra: tuple


def make_run(seed: int = 0, width: int = 4) -> Run:
    rng = np.random.default_rng(seed)
    params = {
        "conv/kernel": jnp.asarray(rng.normal(size=(3, 3, 2, width)), jnp.float32),
        "half": jnp.asarray(rng.normal(size=width), jnp.bfloat16),
    }
    return Run(
        params=params,
        optimizer=optax.chain(optax.add_decayed_weights(1e-3), optax.rmsprop(1e-4)).init(params),
        key=jax.random.split(jax.random.key(seed), 2),
        step=jnp.int32(seed),
        extra=(
            None,
            np.array([-0.0, np.nan, np.inf, 0.0]),
            np.arange(3, dtype=np.int64) + 2**40,
            jnp.zeros((0, 3)),
            jnp.zeros((2, 2), bool),
            3,
            0.1,
            True,
        ),
    )


def assert_identical(got, wanted):
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        assert type(a) is type(b)
        if isinstance(a, bool | int | float):
            assert a == b
            continue
        assert a.dtype == b.dtype and a.shape == b.shape
        assert getattr(a, "committed", None) == getattr(b, "committed", None)  # to a device
        if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def damage(directory: Path, step: int):
    """Cuts the largest file of a step's arrays in half."""
    files = [f for f in directory.glob(f"{step:08d}-*/**/*") if f.is_file()]
    largest = max(files, key=lambda f: f.stat().st_size)
    largest.write_bytes(largest.read_bytes()[: largest.stat().st_size // 2])


@pytest.fixture
def saved(tmp_path):
    checkpointer = Checkpointer(tmp_path / "checkpoints", keep=3)
    for step in (10, 20, 30):
        checkpointer.save(step, make_run(step), {"position": step})
    return checkpointer


def test_what_is_restored_is_what_was_saved_bit_for_bit(tmp_path):
    run, metadata = make_run(1), {"config": {"name": "x"}, "position": [1, 2.5, None]}
    Checkpointer(tmp_path).save(5, run, metadata)
    restored, said = Checkpointer(tmp_path).restore(make_run(2))
    assert_identical(restored, run)
    assert said == metadata
    draws = [jax.random.uniform(key) for key in (restored.key[0], run.key[0])]
    assert draws[0] == draws[1]


def test_shapes_are_enough_to_restore(tmp_path):
    run = make_run(1)
    Checkpointer(tmp_path).save(5, run, {})
    like = jax.eval_shape(lambda: {"params": run.params, "key": run.key})
    Checkpointer(tmp_path / "part").save(5, {"params": run.params, "key": run.key}, {})
    restored, _ = Checkpointer(tmp_path / "part").restore(like)
    assert_identical(restored, {"params": run.params, "key": run.key})


def test_an_empty_tree(tmp_path):
    Checkpointer(tmp_path).save(0, {}, {"only": "metadata"})
    assert Checkpointer(tmp_path).restore({}) == ({}, {"only": "metadata"})


def test_the_newest_are_kept(saved):
    saved.save(40, make_run(40), {})
    assert saved.steps() == [20, 30, 40]
    assert saved.latest_step() == 40
    # Nothing else is left behind.
    names = {path.name[:8] for path in saved.directory.iterdir()}
    assert names == {"00000020", "00000030", "00000040"}
    assert len(list(saved.directory.iterdir())) == 6


def test_a_step_is_chosen_by_number(saved):
    restored, metadata = saved.restore(make_run(), step=20)
    assert_identical(restored, make_run(20))
    assert metadata == saved.metadata(step=20) == {"position": 20}
    assert saved.metadata() == {"position": 30}


def test_a_step_is_replaced(saved):
    saved.save(30, make_run(31), {"position": 31})
    assert saved.steps() == [10, 20, 30]
    assert_identical(saved.restore(make_run())[0], make_run(31))
    assert len(list(saved.directory.iterdir())) == 6


def test_going_on_from_an_earlier_step_removes_the_later_ones(saved):
    saved.restore(make_run(), step=10)
    saved.save(15, make_run(15), {})
    assert saved.steps() == [10, 15]


def test_a_new_run_does_not_overwrite_an_old_one(saved):
    with pytest.raises(CheckpointError, match="up to step 30, beyond step 5: restore one"):
        Checkpointer(saved.directory).save(5, make_run(), {})
    assert saved.steps() == [10, 20, 30]


def test_a_missing_directory(tmp_path):
    nowhere = Checkpointer(tmp_path / "nowhere")
    assert nowhere.latest_step() is None
    with pytest.raises(CheckpointError, match=r"there is no directory .*nowhere"):
        nowhere.restore(make_run())


def test_a_directory_without_checkpoints(tmp_path):
    with pytest.raises(CheckpointError, match="holds no checkpoint of bc_jax; it has nothing"):
        Checkpointer(tmp_path).restore(make_run())
    (tmp_path / "model.pth").write_bytes(b"\x80\x02")
    assert Checkpointer(tmp_path).latest_step() is None
    with pytest.raises(CheckpointError, match=r"no checkpoint of bc_jax; it has model\.pth"):
        Checkpointer(tmp_path).restore(make_run())
    with pytest.raises(CheckpointError, match="is a file, not a directory"):
        Checkpointer(tmp_path / "model.pth").restore(make_run())


def test_other_files_in_the_directory_are_left_alone(tmp_path):
    (tmp_path / "notes.json").write_text("{}")
    (tmp_path / "00000001-old").mkdir()
    for step in range(5):
        Checkpointer(tmp_path, keep=1).save(step, make_run(), {})
    assert (tmp_path / "notes.json").exists() and (tmp_path / "00000001-old").exists()


def test_a_step_that_is_not_there(saved):
    with pytest.raises(CheckpointError, match="has no step 15; it has 10, 20, 30"):
        saved.restore(make_run(), step=15)


@pytest.mark.parametrize(
    ("like", "message"),
    [
        (make_run(width=5), r"\.params\['half'\] is bfloat16\[4\] and bfloat16\[5\] was asked for"),
        (make_run().replace(step=jnp.float32(0)), r"\.step is int32\[\] and float32\[\] was asked"),
        (make_run().replace(key=jax.random.key(0)), r"\.key is key<fry>\[2\] and key<fry>\[\]"),
        (make_run().replace(params={}), r"\.params\['conv/kernel'\] was not asked for"),
        (make_run().replace(params={"new": jnp.zeros(1)}), r"\.params\['new'\] is missing"),
    ],
)
def test_another_structure(saved, like, message):
    with pytest.raises(CheckpointError, match=message) as error:
        saved.restore(like)
    assert not isinstance(error.value, CorruptCheckpointError)
    assert str(saved.directory) in str(error.value)
    with pytest.raises(CheckpointError, match=message):
        saved.restore(like, fallback=True)


def test_a_damaged_checkpoint_is_told_with_the_older_ones(saved):
    damage(saved.directory, 30)
    with pytest.raises(CorruptCheckpointError, match=r"is damaged.* are there: 10, 20") as error:
        saved.restore(make_run())
    assert "00000030" in str(error.value)


def test_fallback_takes_the_newest_good_one_and_says_so(saved):
    damage(saved.directory, 30)
    (saved.directory / "00000020.json").write_text('{"format": "bc_')
    with pytest.warns(UserWarning, match=r"going back to step 10: .*00000030.*00000020\.json"):
        restored, metadata = saved.restore(make_run(), fallback=True)
    assert_identical(restored, make_run(10))
    assert metadata == {"position": 10}
    # The run goes on, and soon only good ones are left.
    saved.save(20, make_run(20), {})
    assert saved.steps() == [10, 20]
    assert_identical(saved.restore(make_run())[0], make_run(20))


def test_fallback_with_nothing_good(saved):
    for step in saved.steps():
        damage(saved.directory, step)
    with pytest.raises(CorruptCheckpointError, match=r"00000030.*00000020.*00000010"):
        saved.restore(make_run(), fallback=True)


def test_fallback_is_silent_where_all_is_well(saved):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        saved.restore(make_run(), fallback=True)


@pytest.mark.parametrize("portion", [0.2, 0.5, 0.8])
def test_every_changed_byte_of_the_arrays_is_noticed(tmp_path, portion):
    tree = {"noise": np.random.default_rng(0).integers(0, 256, 50_000, dtype=np.uint8)}
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, tree, {})
    largest = max((f for f in tmp_path.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[int(len(content) * portion)] ^= 1
    largest.write_bytes(content)
    with pytest.raises(CorruptCheckpointError, match="is damaged"):
        checkpointer.restore(tree)


def test_every_changed_byte_of_the_file_is_noticed(saved, tmp_path):
    path = saved.directory / "00000030.json"
    content = path.read_bytes()
    tree = make_run(30)
    for place in np.random.default_rng(0).permutation(len(content))[:200]:
        changed = bytearray(content)
        changed[place] ^= 1
        path.write_bytes(changed)
        try:
            restored, metadata = saved.restore(tree, step=30)
        except CheckpointError:
            continue
        # Nothing but the checksum's own name, or white space, has changed.
        assert_identical(restored, tree)
        assert metadata == {"position": 30}
    path.write_bytes(content.replace(b'"position": 30', b'"position": 20'))
    with pytest.raises(CorruptCheckpointError, match=r"json is damaged: not as it was written"):
        saved.restore(tree)


def test_a_damaged_file_is_named_and_nothing_else_is_printed(saved, capfd):
    folder = next(saved.directory.glob("00000030-*"))
    for path in folder.glob("d/*"):
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CorruptCheckpointError, match=r"is damaged: d/\w+ is not as it was written"):
        saved.restore(make_run())
    assert capfd.readouterr().err == ""


def test_checkpoints_without_checksums_of_files_are_read(saved):
    path = saved.directory / "00000030.json"
    document = json.loads(path.read_text())
    for name in ("files", "crc32"):
        document.pop(name)
    path.write_text(json.dumps(document))
    assert_identical(saved.restore(make_run())[0], make_run(30))
    damage(saved.directory, 30)
    with pytest.raises(CorruptCheckpointError, match="is damaged") as error:
        saved.restore(make_run())
    assert "tensorstore_spec" not in str(error.value)


def test_missing_arrays_are_noticed(saved):
    for path in saved.directory.glob("00000030-*/**/*"):
        if path.is_file():
            path.unlink()
    with pytest.raises(CorruptCheckpointError, match="is damaged"):
        saved.restore(make_run())


@pytest.mark.parametrize(
    "damage",
    [
        lambda document: document["leaves"][0].pop("shape"),
        lambda document: document["leaves"][0].update(size=3),
        lambda document: document.update(leaves=5),
        lambda document: document.update(leaves=["a"]),
        lambda document: document.update(folder="../elsewhere"),
        lambda document: document.update(folder=7),
    ],
)
def test_a_file_that_is_damaged_within_is_told_and_an_older_one_taken(saved, damage):
    path = saved.directory / "00000030.json"
    document = json.loads(path.read_text())
    damage(document)
    path.write_text(json.dumps(document))
    with pytest.raises(CorruptCheckpointError, match=r"00000030\.json is damaged"):
        saved.restore(make_run())
    with pytest.warns(UserWarning, match="is damaged"):
        assert saved.restore(make_run(), fallback=True)[1] == {"position": 20}


def test_a_file_of_another_program_or_version(saved):
    path = saved.directory / "00000030.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps({**document, "version": 99}))
    with pytest.raises(CheckpointError, match="has version 99, and this bc_jax reads 1"):
        saved.restore(make_run())
    path.write_text(json.dumps({"epoch": 3}))
    with pytest.raises(CheckpointError, match="was not written by bc_jax"):
        saved.restore(make_run())
    path.write_text(json.dumps({k: v for k, v in document.items() if k != "leaves"}))
    with pytest.raises(CorruptCheckpointError, match=r"damaged: without \['leaves'\]"):
        saved.restore(make_run())


def test_what_cannot_be_saved(tmp_path):
    checkpointer = Checkpointer(tmp_path / "checkpoints")
    with pytest.raises(CheckpointError, match=r"\['name'\] is a str, not an array"):
        checkpointer.save(0, {"name": "x"}, {})
    with pytest.raises(CheckpointError, match="metadata of step 0 is not JSON"):
        checkpointer.save(0, {}, {"path": tmp_path})
    with pytest.raises(CheckpointError, match="step -1 is below 0"):
        checkpointer.save(-1, {}, {})
    with pytest.raises(ValueError, match="keep is 0"):
        Checkpointer(tmp_path, keep=0)
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"cannot write to .*file"):
        Checkpointer(tmp_path / "file").save(0, {}, {})
    assert checkpointer.steps() == []


def test_a_full_disk_is_told_once_and_nothing_of_the_save_stays(saved, capfd):
    before = sorted(path.name for path in saved.directory.iterdir())
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**14, limit[1]))
    try:
        with pytest.raises(CheckpointError, match=r"^cannot write to .*") as error:
            saved.save(40, {"noise": np.random.default_rng(0).random(10**5)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert str(saved.directory) in str(error.value)
    assert "ERROR" not in capfd.readouterr().err
    assert sorted(path.name for path in saved.directory.iterdir()) == before
    assert_identical(saved.restore(make_run())[0], make_run(30))


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_a_save_that_is_interrupted_leaves_the_last_one(saved, monkeypatch, moment):
    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, moment, interrupt)
        for step in (30, 40):
            with pytest.raises(KeyboardInterrupt):
                saved.save(step, make_run(99), {"position": 99})
            restored, metadata = saved.restore(make_run())
            assert_identical(restored, make_run(30))
            assert metadata == {"position": 30}
    saved.save(40, make_run(40), {})
    assert len(list(saved.directory.iterdir())) == 6


def test_what_a_killed_save_left_is_removed_by_the_next(saved):
    left = ("00000030-279ae843.orbax-checkpoint-tmp", "00000031-0123abcd.orbax-checkpoint-tmp-17")
    others = ("mine.orbax-checkpoint-tmp", "00000031-0123abcd.notes")
    for name in (*left, *others):
        (saved.directory / name / "array").mkdir(parents=True)
        (saved.directory / name / "array" / "0").write_text("half")
    saved.save(40, make_run(40), {})
    there = {path.name for path in saved.directory.iterdir()}
    assert not there & set(left)
    assert there >= set(others)
    assert saved.steps() == [20, 30, 40]
    assert_identical(saved.restore(make_run())[0], make_run(40))


ENDLESS = """
import sys
import numpy as np
from bc_jax.checkpoint import Checkpointer

checkpointer = Checkpointer(sys.argv[1], keep=2)
step = 0
if checkpointer.latest_step():
    step = checkpointer.restore({"w": np.zeros((64, 999))})[1]["step"]
while True:
    step += 1
    checkpointer.save(step, {"w": np.full((64, 999), float(step))}, {"step": step})
    print(step, flush=True)
"""


def test_a_killed_process_leaves_its_last_checkpoint_whole(tmp_path, root):
    directory = tmp_path / "checkpoints"
    like, rng = {"w": np.zeros((64, 999))}, random.Random(0)
    reached = 0
    for _ in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", ENDLESS, directory],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=root,
        )
        first = process.stdout.readline()
        time.sleep(rng.uniform(0.0, 0.3))
        process.send_signal(signal.SIGKILL)
        said, errors = process.communicate()
        assert first, errors
        confirmed = int((first + said).split()[-1])
        tree, metadata = Checkpointer(directory).restore(like)
        # What was confirmed is there; the one that was being written may be, or not.
        assert reached < confirmed <= metadata["step"] <= confirmed + 1
        assert (tree["w"] == metadata["step"]).all()
        reached = confirmed


def test_checkpoints_hold_no_pickle(saved):
    for path in saved.directory.rglob("*"):
        assert not (path.is_file() and re.match(rb"\x80[\x02-\x05]", path.read_bytes())), path
