"""The benchmarks measure what they say: rows, fields, arithmetic; never a machine's speed."""

import functools
import importlib.util
import json
import re
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the benchmarks are no package

from bc_jax import bench, provenance, timing
from bc_jax.programs import dense_programs, sparse_program
from bc_jax.sparse import blockcopy
from benchmarks import (
    against_torch,
    cases,
    clip,
    compiled,
    dtypes,
    gpu_check,
    host,
    kernels,
    lowerings,
    memory,
    network,
    networks,
    parts,
    plots,
    roofline,
    run,
    scaling,
    smoke,
    stalls,
    step,
    suite,
    tables,
)
from benchmarks.cases import Case

CASE = Case("swiftnet_rn18", (64, 128), block=32)


@pytest.fixture
def tiny(monkeypatch):
    """In the place of every network one convolution, which compiles in no time."""

    def load(case):
        def apply_fn(params, frames):
            x = frames.astype(params.dtype)
            return jax.lax.conv_general_dilated(
                x, params, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )

        params = jnp.ones((3, 3, 3, 4), case.dtype) / 2550
        frames = 2 * (jnp.full((case.streams, *case.size, 3), 9, jnp.uint8),)
        return cases.Loaded(case, params, frames, blockcopy(apply_fn, case.block))

    for module in (network, parts, step, memory, clip, host, against_torch, dtypes):
        monkeypatch.setattr(module, "load", load)
    small = {"widths": (4,), "head_width": 4}
    for name, policy in step.POLICIES.items():
        monkeypatch.setitem(step.POLICIES, name, functools.partial(policy, **small))


def test_calls_alternate_and_warm_up_is_left_out(monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: float(next(clock)))
    called = []
    functions = {name: lambda name=name: called.append(name) for name in "ab"}
    timings = timing.alternate(functions, repeats=2, warm_up=1)
    assert "".join(called) == "abbaab"
    assert timings == {name: timing.Timing(1.0, 1.0, 1.0) for name in "ab"}


def test_medians_and_spread_are_of_the_repeats(monkeypatch):
    seconds = iter([100.0, 1.0, 2.0, 3.0, 4.0, 10.0])  # the first is the warm-up
    now = [0.0]

    def call():
        now[0] += next(seconds)

    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    found = timing.alternate({"f": call}, repeats=5, warm_up=1)["f"]
    np.testing.assert_allclose((found.median, found.p10, found.p90), (3, 1.4, 7.6))


def test_calls_in_a_row_count_as_one_each(monkeypatch):
    clock = iter(np.arange(0, 100, 6.0))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    called = []
    functions = {name: lambda name=name: called.append(name) for name in "ab"}
    timings = timing.alternate(functions, repeats=1, warm_up=0, in_a_row=3)
    assert "".join(called) == "aaabbb"
    assert {t.median for t in timings.values()} == {2.0}


@pytest.mark.parametrize(
    "wrong", [{"repeats": 0}, {"repeats": 1, "warm_up": -1}, {"repeats": 1, "in_a_row": 0}]
)
def test_no_repeats_are_refused(wrong):
    with pytest.raises(ValueError, match="repeats is"):
        timing.alternate({}, **wrong)


def test_efficiency_is_ideal_time_over_measured_time():
    assert timing.efficiency(0.5, dense=10.0, sparse=5.0) == 1
    assert timing.efficiency(0.25, dense=8.0, sparse=4.0) == 0.5


def test_random_grids_hold_exactly_the_blocks_and_differ():
    grids = bench.random_grids((2, 3, 4), 7, 5)
    assert [int(grid.sum()) for grid in grids] == [7] * 5
    assert all(grid.shape == (2, 3, 4) and grid.dtype == bool for grid in grids)
    assert len({grid.tobytes() for grid in map(np.asarray, grids)}) == 5


def test_a_fraction_is_a_whole_number_of_blocks_over_all_streams():
    case = Case("swiftnet_rn18", (512, 1024), streams=2)
    assert case.blocks == 64
    assert [case.executed(f) for f in (0, 0.001, 0.3, 1.0)] == [0, 1, 19, 64]
    with pytest.raises(ValueError, match=r"fraction is 1\.5"):
        case.executed(1.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"dtype": "int8"}, "possible are float32"), ({"size": (60, 128)}, "not a multiple")],
)
def test_what_cannot_be_measured_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        cases.load(Case(**{"model": "swiftnet_rn18", "size": (64, 128), "block": 32} | change))


def test_cases_have_the_asked_dtype_and_streams():
    loaded = cases.load(Case("swiftnet_rn18", (64, 64), block=32, dtype="bfloat16", streams=2))
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded.params)} == {jnp.dtype("bfloat16")}
    out = jax.eval_shape(loaded.sparse.apply_fn, loaded.params, loaded.frames[0])
    assert (out.shape, out.dtype) == ((2, 16, 16, 19), jnp.bfloat16)
    assert loaded.grid_shape == (2, 2, 2)


def test_rows_of_the_network_have_their_fields(tiny):
    rows = network.measure(CASE, fractions=(0.5, 0.25, 0.26, 0.0), repeats=2, warm_up=1)
    assert [row["executed"] for row in rows] == [0, 2, 4]
    for row in rows:
        assert row["fraction"] == row["executed"] / 8
        assert row["dense_ms"] == min(row["dense_versions_ms"].values())
        assert {"default", "one block"} <= row["dense_versions_ms"].keys()
        assert row["dense_version"] in row["dense_versions_ms"]
        assert row["speedup"] == pytest.approx(row["dense_ms"] / row["sparse_ms"])
        assert row["efficiency"] == pytest.approx(row["fraction"] * row["speedup"])
        assert row["sparse_p10_ms"] <= row["sparse_ms"] <= row["sparse_p90_ms"]
        assert row["state_bytes"] > 64 * 128 * 3 and row["compile_seconds"] > 0
        assert row["peak_bytes"] >= row["state_bytes"] and row["programs"] == 3
    assert "efficiency" in bench.table(rows, network.COLUMNS)
    json.dumps(rows)


def test_rows_of_frames_in_a_row_have_their_fields(tiny):
    (row,) = network.measure(CASE, fractions=(0.5,), repeats=2, warm_up=1, in_a_row=2)
    assert row["in_a_row"] == 2 and row["row_dense_version"] in row["row_dense_versions_ms"]
    assert row["row_dense_ms"] == min(row["row_dense_versions_ms"].values())
    assert row["row_speedup"] == pytest.approx(row["row_dense_ms"] / row["row_sparse_ms"])
    assert row["row_efficiency"] == pytest.approx(0.5 * row["row_speedup"])


def test_the_sparse_program_runs_the_blocks_of_its_grids(tiny):
    loaded = network.load(CASE)
    grids = bench.random_grids(loaded.grid_shape, 3, 2)
    program = sparse_program(loaded.sparse, loaded.params, loaded.frames[0], capacity=3)
    call = bench.cycle(program.run, loaded.frames, grids)
    for grid in (*grids, grids[0]):
        np.testing.assert_array_equal(call().grid, grid)


def test_all_dense_versions_give_the_same(tiny):
    loaded = network.load(CASE)
    arguments = loaded.params, loaded.frames[0]
    expected = loaded.sparse.apply_fn(*arguments)
    for program in dense_programs(loaded.sparse.apply_fn, *arguments).values():
        np.testing.assert_allclose(program.run(loaded.frames[0]), expected, rtol=1e-5)
        assert program.peak_bytes >= sum(x.nbytes for x in (*arguments, expected))


def test_the_step_adds_up(tiny):
    options = {"policies": ("light",), "targets": (0.25, 0.5), "train_interval": 4}
    row, more = step.measure(CASE, **options, repeats=1, warm_up=1)
    assert row["policy"] == "light" and row["target"] == 0.25 and row["executed"] == 2
    assert more["executed"] == 4 and more["network_ms"] != row["network_ms"]
    assert [more[f"{part}_ms"] for part in ("policy", "learning")] == [
        row[f"{part}_ms"] for part in ("policy", "learning")
    ]
    parts_ms = [row[f"{part}_ms"] for part in step.PARTS]
    assert row["step_ms"] == pytest.approx(sum(parts_ms))
    assert row["learning_ms"] == pytest.approx(row["learning_once_ms"] / 4)
    assert row["speedup"] == pytest.approx(row["dense_ms"] / row["step_ms"])
    assert sum(row["shares"].values()) == pytest.approx(1)
    assert row["policy_macs_share"] > 0
    assert row["in_a_row"] == 4
    assert row["row_speedup"] == pytest.approx(row["row_dense_ms"] / row["row_step_ms"])
    ratio = row["row_dense_ms"] / row["one_program_ms"]
    assert row["one_program_speedup"] == pytest.approx(ratio) and "one_program_ms" not in more
    json.dumps(row)
    heading = bench.table([row], step.COLUMNS).splitlines()[0]
    assert heading.split("  ")[0] == "network" and "learning ms" in heading


def test_what_a_frame_costs_the_host_has_a_row_each(tiny):
    rows = host.measure(CASE, target=0.25, repeats=3, warm_up=1)
    whats = ["frame", "frame, learnt from", "frame, uploaded", "no work"]
    assert [row["what"] for row in rows] == whats
    for row in rows:
        assert row["executed"] == 2 and row["arrays_given"] > 10
        assert 0 < row["started_ms"] <= row["done_ms"]
        assert row["started_p10_ms"] <= row["started_ms"] <= row["started_p90_ms"]
    returned = [row["arrays_returned"] for row in rows]
    assert returned[3] < returned[0] == returned[2] < returned[1]
    json.dumps(rows)
    assert "started ms" in bench.table(rows, host.COLUMNS).splitlines()[0]


def test_kernels_of_one_name_are_taken_together():
    seen = [("add_fusion_1", 0, 2000), ("add_fusion_12", 5000, 6000), ("sort.3", 1000, 4000)]
    rows = kernels._rows(seen, frames=2)
    found = [(row["kernel"], row["times"], row["us"]) for row in rows]
    # Of 6 us in which there is one, 2 frames: two overlap for one of them.
    assert found == [("all", 1.5, 2.5), ("add_fusion", 1, 1.5), ("sort", 0.5, 1.5)]
    assert [row["share"] for row in rows] == [1, 3 / 5, 3 / 5]
    assert kernels._rows([], frames=2) == [{"kernel": "all", "times": 0, "us": 0, "share": 0}]


def test_kernels_of_a_frame_have_a_row_each(tiny):
    rows = kernels.measure(CASE, fraction=0.25, repeats=2, warm_up=1)
    for what in ("sparse", "dense"):
        whole, *each = [row for row in rows if row["what"] == what]
        assert whole["kernel"] == kernels.ALL and whole["us"] > 0
        assert whole["times"] == pytest.approx(sum(row["times"] for row in each))
        assert whole["us"] <= sum(row["us"] for row in each) + 1e-6
        assert [row["us"] for row in each] == sorted((row["us"] for row in each), reverse=True)
    json.dumps(rows)
    assert "kernel" in bench.table(rows, kernels.COLUMNS).splitlines()[0]


def test_learning_is_spread_over_its_interval():
    parts_s = {"policy": 1.0, "network": 2.0, "bookkeeping": 1.0, "learning": 4.0}
    sums = step._sums(parts_s, dense=10.0, train_interval=4, fraction=0.5)
    assert sums["step_ms"] == 5e3 and sums["learning_ms"] == 1e3
    assert sums["learning_once_ms"] == 4e3 and sums["shares"]["network"] == 0.4
    assert sums["speedup"] == 2 and sums["efficiency"] == 1


def test_parts_are_sorted_by_lost_time(tiny):
    rows = parts.measure(CASE, fraction=0.5, repeats=1)
    names = [row["part"] for row in rows]
    assert names[-2:] == ["network", "rest"]
    assert {"conv 3x3, 3->4, result 1x64x128", "halo 1x1x1x1 of 32x32x3 tiles"} < set(names)
    assert {"split frames", "combine frames", "combine output"} < set(names)
    lost = [row["lost_ms"] for row in rows[:-2]]
    assert lost == sorted(lost, reverse=True)
    for row in rows:
        expected = row["times"] * (row["sparse_ms"] - 0.5 * row["dense_ms"])
        assert row["lost_ms"] == pytest.approx(expected)
    total = sum(row["lost_ms"] for row in rows if row["part"] != "network")
    assert total == pytest.approx(next(r["lost_ms"] for r in rows if r["part"] == "network"))


def test_every_convolution_of_a_network_is_a_part():
    loaded = cases.load(Case("espnet_cityscapes", (64, 64), block=32))
    found = parts.operations(loaded)
    convolutions = [op for op, row in found if op.name == "conv_general_dilated"]
    blocks = parts.Blocks(jnp.arange(2, dtype=jnp.int32), loaded.grid_shape)
    counted = parts._convolutions(found, blocks)
    assert sum(part.times for part in counted) == len(convolutions) > 50
    assert len({part.name for part in counted}) == len(counted) < len(convolutions)


def test_every_layer_has_its_bound(tiny):
    rows = roofline.measure(CASE, fraction=0.5, repeats=1, matrix=32, array_bytes=4096)
    (conv,) = (row for row in rows if row["part"].startswith("conv"))
    pixels = 64 * 128
    assert conv["macs"] == pixels * 9 * 3 * 4
    assert conv["dense_bytes"] == 4 * (pixels * (3 + 4) + 9 * 3 * 4)
    # Four of eight tiles, each with the ring of pixels that it reads around it.
    assert conv["sparse_bytes"] == 4 * (4 * (34 * 34 * 3 + 32 * 32 * 4) + 9 * 3 * 4)
    macs = 1e3 * conv["macs"] / conv["macs_per_second"]
    moved = 1e3 * conv["dense_bytes"] / conv["bytes_per_second"]
    assert conv["dense_bound_ms"] == pytest.approx(max(macs, moved))
    assert conv["dense_limit"] == ("compute" if macs > moved else "memory")
    assert conv["sparse_gap"] == pytest.approx(conv["sparse_ms"] / conv["sparse_bound_ms"])
    total = rows[-1]
    assert total["part"] == "network"
    bounds = [row["times"] * row["sparse_bound_ms"] for row in rows[:-1]]
    assert total["sparse_bound_ms"] == pytest.approx(sum(bounds))
    assert "gap" in bench.table(rows, roofline.COLUMNS)
    json.dumps(rows)


def test_the_types_of_a_network_are_timed_in_turn(tiny, monkeypatch):
    called = []

    def alternate(calls, *, repeats, warm_up):
        for name, call in calls.items():
            call()
            dtype, *version = name.split(" ", 1)
            called.append((dtype, bool(version)))
        seconds = {name: 1.0 + len(name) / 100 for name in calls}
        return {name: timing.Timing(s, s, s) for name, s in seconds.items()}

    monkeypatch.setattr(dtypes, "alternate", alternate)
    rows = dtypes.measure(CASE, fraction=0.5, dtypes=("float32", "bfloat16"), repeats=2)
    assert {dtype for dtype, _ in called} == {"float32", "bfloat16"}
    assert [dense for _, dense in called].count(False) == 2
    assert [row["dtype"] for row in rows] == ["float32", "bfloat16"]
    for row in rows:
        assert (row["benchmark"], row["executed"], row["blocks"]) == ("dtypes", 4, 8)
        assert row["dense_version"] == "default"  # the shortest name was given the shortest time
        assert row["efficiency"] == pytest.approx(0.5 * row["dense_ms"] / row["sparse_ms"])
    outputs, frames = 64 * 128 * 4 / 1e6, 64 * 128 * 3 / 1e6
    states = [row["state_megabytes"] - frames for row in rows]
    assert states[0] == pytest.approx(2 * states[1], rel=0.01) and states[1] > 2 * outputs
    assert "state MB" in bench.table(rows, dtypes.COLUMNS)
    json.dumps(rows)


def test_scaling_changes_one_thing_at_a_time(monkeypatch):
    measured = []

    def measure(case, *, fractions, repeats, warm_up):
        measured.append(case)
        rows = [{"executed": case.executed(f), "fraction": f} for f in sorted(fractions)]
        return [case.row("network") | row | {"sparse_ms": 4.0} for row in rows]

    monkeypatch.setattr(network, "measure", measure)
    rows = scaling.measure(
        CASE,
        sizes=((64, 128), (64, 64)),
        blocks=(16, 32),
        dtypes=("float32", "bfloat16"),
        stream_counts=(1, 2),
        fractions=(0.25,),
    )
    usual = {"size": [64, 128], "block": 32, "dtype": "float32", "streams": 1, "fraction": 0.5}
    changes = [("fraction", 0.25), ("fraction", 0.5), ("size", [64, 128]), ("size", [64, 64])]
    changes += [("block", 16), ("block", 32), ("dtype", "float32"), ("dtype", "bfloat16")]
    changes += [("streams", 1), ("streams", 2)]
    assert [row["axis"] for row in rows] == [axis for axis, _ in changes]
    for row, (axis, value) in zip(rows, changes, strict=True):
        assert {name: row[name] for name in usual} == usual | {axis: value}
    assert len(measured) == len(set(measured)) == 5
    assert rows[-1]["ms_per_stream"] == 2 and rows[-1]["ms_per_block"] == 0.5


def test_memory_and_the_first_frame_are_watched(tiny):
    seen = memory.watch(CASE, frames=4, target=0.3, start=time.time())
    assert 0 < seen["first_frame_seconds"] < 600
    assert 1 <= seen["network_programs"] < seen["programs"] < seen["programs_with_helpers"]
    state = network.load(CASE).sparse.explain(jnp.ones((3, 3, 3, 4)), jnp.ones((1, 64, 128, 3)))
    assert seen["state_MB"] < state.state_bytes / 1e6 < 10 < seen["process_MB"]
    json.dumps(seen)


def test_the_environment_of_another_process_is_put_back(monkeypatch):
    class Pool:
        def __init__(self, *_, **__):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return False

        def submit(self, function, *arguments):
            assert memory.os.environ["JAX_COMPILATION_CACHE_DIR"] == "here"
            raise RuntimeError("out of memory")

    before = dict(memory.os.environ)
    monkeypatch.setattr(memory.concurrent.futures, "ProcessPoolExecutor", Pool)
    with pytest.raises(RuntimeError, match="out of memory"):
        memory.apart(CASE, 1, 0.3, "here")
    assert dict(memory.os.environ) == before


def test_windows_of_a_clip_have_a_row_each(tiny, monkeypatch):
    def clip_of(name, *, size, frames):
        return [np.full((*size, 3), number, np.uint8) for number in range(frames)]

    monkeypatch.setattr(clip, "open_source", clip_of)
    rows = clip.measure(CASE, frames=8, windows=2, policy="random", target=0.25, repeats=1)
    assert [(row["first"], row["last"]) for row in rows] == [(0, 3), (4, 7)]
    assert [row["fraction"] for row in rows] == [0.25, 0.25]  # the first, of all, compiles
    assert rows[1]["frames"] == 4 and rows[1]["learning_ms"] == 0
    with pytest.raises(ValueError, match="windows is 9"):
        clip.measure(CASE, frames=8, windows=9)


def test_frames_that_wait_for_a_compiler_are_counted(tiny, monkeypatch):
    def clip_of(name, *, size, frames):
        return [np.full((*size, 3), number, np.uint8) for number in range(frames)]

    monkeypatch.setattr(stalls, "open_source", clip_of)
    waits, goes_on = stalls.measure(CASE, frames=12)
    assert (waits["background"], goes_on["background"]) == (False, True)
    for row in (waits, goes_on):
        assert row["frames"] == 12
        assert row["all_s"] >= row["first_s"] + row["longest_s"]
        assert 1e3 * row["longest_s"] >= row["meanwhile_ms"]
    # The second frame needs a program for fewer blocks, and the third one that learns.
    assert waits["meanwhile"] >= 2
    assert goes_on["meanwhile"] >= 1


def test_torch_runs_beside(tiny, monkeypatch):
    torch = pytest.importorskip("torch", reason="compares with PyTorch: pip install torch")
    monkeypatch.setattr(torch, "compile", lambda function: function)  # it takes a minute
    narrow = functools.partial(
        against_torch.ARCHITECTURES["swiftnet_rn18"], base_width=8, decoder_width=12
    )
    monkeypatch.setitem(against_torch.ARCHITECTURES, "swiftnet_rn18", narrow)
    (row,) = against_torch.measure(CASE, fractions=(0.5,), repeats=1)
    assert set(row["beside_ms"]) == {
        f"{kind}, {order}"
        for kind in ("eager", "compile")
        for order in ("contiguous_format", "channels_last")
    }
    assert row["torch_ms"] == min(row["beside_ms"].values()) > 0
    assert row["sparse_over_torch"] == pytest.approx(row["torch_ms"] / row["sparse_ms"])


def test_without_torch_it_is_told(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="PyTorch is not installed"):
        against_torch.measure(CASE)


def test_a_command_takes_its_arguments_and_writes_its_rows(tmp_path, monkeypatch, capsys):
    def measure(case=cases.DEFAULT, *, fractions: tuple[float, ...] = (1.0,)):
        if case.streams > 2:
            raise ValueError("too many streams")
        return [case.row("one") | {"fractions": list(fractions)}]

    path = tmp_path / "rows.json"
    words = ["one", "--size", "64", "32", "--fractions", "0.5", "1", "--output", str(path)]
    monkeypatch.setattr(sys, "argv", words)
    cases.command(measure, {"size": "{size[0]}"}, "Text.")
    assert "64" in capsys.readouterr().out
    (row,) = json.loads(path.read_text())["rows"]
    assert (row["size"], row["fractions"]) == ([64, 32], [0.5, 1.0])
    monkeypatch.setattr(sys, "argv", ["one", "--streams", "3"])
    with pytest.raises(SystemExit):
        cases.command(measure, {}, "Text.")
    assert "error: too many streams" in capsys.readouterr().err


def test_rows_are_written_whole_or_not_at_all(tmp_path):
    path = cases.write_rows(tmp_path / "a" / "rows.json", [{"x": 1}])
    content = json.loads(path.read_text())
    assert content["rows"] == [{"x": 1}]
    named = content["environment"]
    assert named["versions"]["jax"] == jax.__version__ and named["device"]["cores"] > 0
    assert named["commit"] is None or re.fullmatch(r"[0-9a-f]{40}(-dirty)?", named["commit"])
    with pytest.raises(TypeError):
        cases.write_rows(path, [{"x": object()}])
    assert json.loads(path.read_text()) == content
    assert [p.name for p in path.parent.iterdir()] == ["rows.json"]


def test_a_commit_is_dirty_where_sources_changed_and_not_where_results_did(tmp_path, monkeypatch):
    def git(*words):
        identity = ("-c", "user.name=me", "-c", "user.email=me@example.com")
        subprocess.run(["git", "-C", str(tmp_path), *identity, *words], check=True)

    result = tmp_path / "benchmarks" / "results" / "device" / "rows.json"
    source = tmp_path / "bc_jax" / "provenance.py"
    for path in (result, source):
        path.parent.mkdir(parents=True)
        path.write_text("one")
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "one")
    monkeypatch.setattr(provenance, "__file__", str(source))
    result.write_text("two")
    assert re.fullmatch("[0-9a-f]{40}", provenance.provenance()["commit"])
    source.write_text("two")
    assert provenance.provenance()["commit"].endswith("-dirty")


def test_files_without_their_history_are_told_their_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "bc_jax" / "provenance.py"))
    monkeypatch.delenv("BC_JAX_COMMIT", raising=False)
    assert provenance.provenance()["commit"] is None
    monkeypatch.setenv("BC_JAX_COMMIT", "0" * 40)
    assert provenance.provenance()["commit"] == "0" * 40


def test_a_failing_part_does_not_lose_the_others(tmp_path):
    def fail(case):
        raise RuntimeError("out of memory")

    def other(case, *, repeats):
        return [case.row("other") | {"repeats": repeats}]

    for function in (fail, other):
        function.__kwdefaults__ = function.__kwdefaults__ or {}
    other.__kwdefaults__["repeats"] = 9
    plan = [suite.Part("first", fail, CASE), suite.Part("second", other, CASE)]
    said = []
    rows, missing = suite.run_parts(plan, tmp_path, repeats=3, budget=60, log=said.append)
    assert [row["repeats"] for row in rows] == [3]
    assert missing == {"first": "RuntimeError: out of memory"}
    assert json.loads((tmp_path / "second.json").read_text())["rows"] == rows
    assert json.loads((tmp_path / "missing.json").read_text())["missing"] == missing
    assert "out of memory" in suite.summary(rows, missing) and len(said) == 2
    # Another run tells of its own parts, and keeps what it says nothing of.
    _, late = suite.run_parts(plan[1:], tmp_path, repeats=3, budget=-1, log=said.append)
    assert "not begun" in late["second"]
    assert json.loads((tmp_path / "missing.json").read_text())["missing"] == missing | late


def test_smoke_prints_one_line(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(
        smoke, "measure", lambda case, **o: asked.append((case, o)) or [{"efficiency": 0.876}]
    )
    smoke.main()
    assert capsys.readouterr().out == "efficiency 0.88\n"
    ((case, options),) = asked
    assert (case.model, case.size, options["fractions"]) == ("swiftnet_rn18", (512, 1024), (0.5,))


@pytest.mark.parametrize("module", [run, gpu_check])
def test_plans_name_each_part_once(module):
    plan = module.plan()
    names = [part.name for part in plan]
    assert len(set(names)) == len(names) > 5
    assert all(re.fullmatch(r"[\w-]+", name) for name in names)
    for part in plan:
        assert part.options.keys() <= part.measure.__kwdefaults__.keys()
        assert not any(side % part.case.block for side in part.case.size)


def test_a_plan_runs_from_end_to_end(tiny, tmp_path, monkeypatch, capsys):
    def watched(case, frames, target, cache):
        return {"frames": frames}

    monkeypatch.setattr(memory, "apart", watched)
    names = [part.name for part in gpu_check.plan()]
    kinds = ("network", "roofline", "memory")
    chosen = [next(name for name in names if name.startswith(f"{kind}-")) for kind in kinds]
    words = ["--tiny", "--repeats", "1", "--output", str(tmp_path), "--only", *chosen]
    with pytest.raises(SystemExit) as stop:
        gpu_check.main(words)
    said = capsys.readouterr().out
    assert stop.value.code == 0, said
    (folder,) = tmp_path.iterdir()
    assert {path.stem for path in folder.glob("*.json")} == {*chosen, "missing"}
    for name in chosen:
        content = json.loads((folder / f"{name}.json").read_text())
        assert content["environment"]["versions"]["jax"] == jax.__version__
        assert content["rows"] and f"{name}: {len(content['rows'])} rows" in said
    drawn = plots.write_plots(folder, tmp_path / "figures")
    assert [path.stem.split("-")[0] for path in drawn] == ["efficiency", "roofline"]
    assert all(path.stat().st_size > 5000 for path in drawn)


def test_steps_and_scaling_are_drawn(tmp_path):
    parts_ms = {f"{part}_ms": 1.0 for part in step.PARTS}
    steps = [
        CASE.row("step") | {"policy": policy, "fraction": 0.3, "dense_ms": 9.0} | parts_ms
        for policy in ("paper", "light")
    ]
    change = {"fraction": 0.5, "dense_ms": 9.0, "sparse_ms": 5.0}
    scaled = [
        Case(CASE.model, streams=n).row("scaling") | change | {"axis": "streams"} for n in (1, 2)
    ]
    cases.write_rows(tmp_path / "step.json", steps)
    cases.write_rows(tmp_path / "scaling.json", scaled)
    drawn = plots.write_plots(tmp_path, tmp_path)
    assert [path.name for path in drawn] == ["step.png", "scaling-swiftnet_rn18.png"]
    assert all(path.stat().st_size > 5000 for path in drawn)


def test_the_tables_of_the_pages_are_the_rows(root):
    paths = (root / "README.md", root / "docs" / "performance.md")
    pages = [path.read_text(encoding="utf-8") for path in paths]
    rows = plots.read_rows(root / "benchmarks" / "results" / "AMD-EPYC")
    for heading, _, *body in (table.lines(rows) for table in tables.TABLES):
        assert body and sum(page.count(f"{heading}\n") for page in pages) == 1, heading
    assert [tables.fill(page, rows) for page in pages] == pages


def test_a_page_gets_the_tables_of_a_folder(root, tmp_path):
    rows = [
        Case("swiftnet_rn18", dtype=dtype).row("dtypes")
        | {"dense_ms": 4.4, "sparse_ms": 2.6, "sparse_p10_ms": 2.4, "sparse_p90_ms": 3.6}
        | {"efficiency": efficiency, "state_megabytes": 9.0}
        for dtype, efficiency in (("float32", 0.754), ("bfloat16", None))
    ]
    cases.write_rows(tmp_path / "dtypes.json", rows)
    page = (root / "docs" / "performance.md").read_text(encoding="utf-8")
    (tmp_path / "page.md").write_text(page, encoding="utf-8")
    tables.main(str(tmp_path), page=str(tmp_path / "page.md"))
    before, after = set(page.split("\n")), (tmp_path / "page.md").read_text().split("\n")
    assert [line for line in after if line not in before] == [
        "| swiftnet_rn18 | float32 | 4 | 3 (2–4) | 0.75 | 9 MB |",
        "| swiftnet_rn18 | bfloat16 | 4 | 3 (2–4) |  | 9 MB |",
    ]
    assert not any("| deeplabv3plus_rn101 | float16 |" in line for line in after)
    with pytest.raises(ValueError, match="the page has none of these tables"):
        tables.fill("# A page", rows)


def test_sizes_of_a_gpu_are_not_run_elsewhere():
    if jax.default_backend() == "gpu":
        pytest.skip("there is a GPU")
    with pytest.raises(SystemExit, match="jax runs on cpu"):
        gpu_check.main([])


def test_of_two_measurements_the_newer_one_is_drawn(tmp_path):
    row = CASE.row("network")
    for name, day, value in (("b", "2026-01-01", 1), ("a", "2026-01-02", 2)):
        rows = [row | {"value": value}, row | {"value": value, "size": [value, 1]}]
        content = {"environment": {"time": day}, "rows": rows}
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    found = [(r["size"], r["value"]) for r in plots.read_rows(tmp_path)]
    assert found == [([64, 128], 2), ([1, 1], 1), ([2, 1], 2)]
    with pytest.raises(ValueError, match="no file of rows"):
        plots.read_rows(tmp_path / "none")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_both_ways_of_an_operation_are_timed_and_give_the_same(monkeypatch, dtype):
    compared = []

    def alternate(calls, *, repeats, warm_up):
        plain, on_cpu = (np.float32(calls[way]()) for way in ("plain", "cpu"))
        compared.append(plain.shape)
        # A step of bfloat16 is 2^-8 of a value, and sums round in another order.
        close = 1e-3 if dtype == "float32" else 2**-6 * np.abs(plain).max()
        np.testing.assert_allclose(on_cpu, plain, rtol=1e-3, atol=close)
        return {"plain": timing.Timing(2.0, 1.0, 3.0), "cpu": timing.Timing(1.0, 1.0, 1.0)}

    monkeypatch.setattr(lowerings, "alternate", alternate)
    rows = lowerings.measure(Case(dtype=dtype), repeats=1)
    assert len(rows) == len(compared) > 10
    assert {row["ratio"] for row in rows} == {2.0}
    json.dumps(rows)
    assert "7x7" in bench.table(rows, lowerings.COLUMNS)


@pytest.mark.parametrize("name", networks.NAMES)
def test_networks_of_other_kinds_run_on_blocks(name):
    loaded = cases.load(Case(name, (64, 64), block=32))
    report = loaded.sparse.explain(loaded.params, loaded.frames[0])
    assert not report.fallbacks
    out = jax.eval_shape(loaded.sparse.apply_fn, loaded.params, loaded.frames[0])
    side = 16 if name == "segformer_b0" else 4
    assert (out.shape, out.dtype) == ((1, side, side, networks.CLASSES), jnp.float32)


PROGRAM = """HloModule jit_f

%fused (p: f32[4,8]) -> f32[4] {
  ROOT %r = f32[4]{0} reduce(%p), dimensions={1}
}

ENTRY %main (a: f32[4,8], b: bf16[8]) -> (f32[4], bf16[8]) {
  %a = f32[4,8]{1,0} parameter(0)
  %b = bf16[8]{0} parameter(1), metadata={op_name="b"}
  %sum = f32[4]{0} fusion(%a), kind=kInput, calls=%fused, metadata={op_name="jit(f)/reduce_sum"}
  %view = f32[2,2]{1,0} bitcast(%sum)
  %call = (bf16[8]{0}, s8[64]{0}) custom-call(%b, %view), metadata={op_name="jit(f)/dot"}
  %first = bf16[8]{0} get-tuple-element(%call), index=0
  %copy = (u8[16]{0}, u8[8]{0}) custom-call(%b), custom_call_target="__gpu$xla.gpu.triton"
  %last = bf16[8]{0} fusion(%first, %copy), kind=kLoop, calls=%other
  ROOT %tuple = (f32[4]{0}, bf16[8]{0}) tuple(%sum, %last)
}
"""


def test_the_kernels_of_a_program_and_which_wait_for_each_other():
    kernels = compiled.kernels_of(PROGRAM)
    assert [(k.name, k.of) for k in kernels] == [
        ("sum", "jit(f)/reduce_sum"), ("call", "jit(f)/dot"), ("copy", ""), ("last", "")
    ]  # fmt: skip
    assert [(k.reads, k.writes) for k in kernels] == [(128, 16), (32, 16), (16, 24), (40, 16)]
    assert set(kernels[3].needs) == {"call", "copy"} and kernels[2].needs == ()
    assert [k.name for k in compiled.longest(kernels)] == ["sum", "call", "last"]
    assert compiled.longest([]) == []


def test_compiling_for_a_gpu_without_xla_for_it_says_what_is_missing():
    if importlib.util.find_spec("jax_plugins") or jax.default_backend() != "cpu":
        pytest.skip("XLA for CUDA is here")
    with pytest.raises(SystemExit, match=r"pip install '\.\[cuda\]'"):
        compiled.measure()
