"""The benchmarks measure what they say: rows, fields, arithmetic; never a machine's speed."""

import functools
import json
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the benchmarks are no package

from benchmarks import cases, network, parts, smoke, step, suite, timing
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

        params = jnp.ones((3, 3, 3, 4), cases.DTYPES[case.dtype]) / 2550
        frames = (jnp.full((case.streams, *case.size, 3), 9, jnp.uint8),)
        return cases.Loaded(case, apply_fn, params, frames, cases.blockcopy(apply_fn, case.block))

    for module in (network, parts, step):
        monkeypatch.setattr(module, "load", load)


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


@pytest.mark.parametrize("wrong", [{"repeats": 0}, {"repeats": 1, "warm_up": -1}])
def test_no_repeats_are_refused(wrong):
    with pytest.raises(ValueError, match="repeats is"):
        timing.alternate({}, **wrong)


def test_efficiency_is_ideal_time_over_measured_time():
    assert timing.efficiency(0.5, dense=10.0, sparse=5.0) == 1
    assert timing.efficiency(0.25, dense=8.0, sparse=4.0) == 0.5


def test_random_grids_hold_exactly_the_blocks_and_differ():
    grids = cases.random_grids((2, 3, 4), 7, 5)
    assert [int(grid.sum()) for grid in grids] == [7] * 5
    assert all(grid.shape == (2, 3, 4) and grid.dtype == bool for grid in grids)
    assert len({grid.tobytes() for grid in map(np.asarray, grids)}) == 5


def test_a_fraction_is_a_whole_number_of_blocks_over_all_streams():
    case = Case("swiftnet_rn18", (512, 1024), streams=2)
    assert case.blocks == 64
    assert [case.executed(f) for f in (0.001, 0.3, 1.0)] == [1, 19, 64]
    with pytest.raises(ValueError, match="fraction is 0"):
        case.executed(0)


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
    out = jax.eval_shape(loaded.apply_fn, loaded.params, loaded.frames[0])
    assert (out.shape, out.dtype) == ((2, 16, 16, 19), jnp.bfloat16)
    assert loaded.grid_shape == (2, 2, 2)


def test_rows_of_the_network_have_their_fields(tiny):
    rows = network.measure(CASE, fractions=(0.5, 0.25, 0.26), repeats=2, warm_up=1)
    assert [row["executed"] for row in rows] == [2, 4]
    for row in rows:
        assert row["fraction"] == row["executed"] / 8
        assert row["dense_ms"] == min(row["dense_versions_ms"].values())
        assert {"default", "one block"} <= row["dense_versions_ms"].keys()
        assert row["dense_version"] in row["dense_versions_ms"]
        assert row["speedup"] == pytest.approx(row["dense_ms"] / row["sparse_ms"])
        assert row["efficiency"] == pytest.approx(row["fraction"] * row["speedup"])
        assert row["sparse_p10_ms"] <= row["sparse_ms"] <= row["sparse_p90_ms"]
        assert row["state_bytes"] > 64 * 128 * 3 and row["compile_seconds"] > 0
        assert row["programs"] == 2
    assert "efficiency" in timing.table(rows, network.COLUMNS)
    json.dumps(rows)


def test_the_sparse_program_runs_the_blocks_of_its_grids(tiny):
    loaded = network.load(CASE)
    grids = cases.random_grids(loaded.grid_shape, 3, 2)
    call = cases.sparse_program(loaded, 3, grids).call
    for grid in (*grids, grids[0]):
        _, state = call()
        np.testing.assert_array_equal(state.grid, grid)
        state = None  # donated to the next call


def test_the_step_adds_up(tiny, monkeypatch):
    small = functools.partial(step.PolicyConfig.light, widths=(4,), head_width=4)
    monkeypatch.setitem(step.POLICIES, "light", small)
    row = step.measure(CASE, policies=("light",), train_interval=4, repeats=1, warm_up=1)[0]
    assert row["policy"] == "light" and row["executed"] == 2
    parts_ms = [row[f"{part}_ms"] for part in step.PARTS]
    assert row["step_ms"] == pytest.approx(sum(parts_ms))
    assert row["learning_ms"] == pytest.approx(row["learning_once_ms"] / 4)
    assert row["speedup"] == pytest.approx(row["dense_ms"] / row["step_ms"])
    assert sum(row["shares"].values()) == pytest.approx(1)
    assert row["policy_macs_share"] > 0
    json.dumps(row)
    heading = timing.table([row], step.COLUMNS).splitlines()[0]
    assert heading.split("  ")[0] == "network" and "learning ms" in heading


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


def test_rows_are_written_whole_or_not_at_all(tmp_path):
    path = timing.write_rows(tmp_path / "a" / "rows.json", [{"x": 1}])
    content = json.loads(path.read_text())
    assert content["rows"] == [{"x": 1}]
    named = content["environment"]
    assert named["versions"]["jax"] == jax.__version__ and named["device"] and named["cores"] > 0
    assert named["commit"] is None or re.fullmatch(r"[0-9a-f]{40}(-dirty)?", named["commit"])
    with pytest.raises(TypeError):
        timing.write_rows(path, [{"x": object()}])
    assert json.loads(path.read_text()) == content
    assert [p.name for p in path.parent.iterdir()] == ["rows.json"]


def test_a_failing_part_does_not_lose_the_others(tmp_path):
    def fail():
        raise RuntimeError("out of memory")

    names = [
        suite.Part("first", fail),
        suite.Part("second", lambda: [{"benchmark": "other", "x": 1}]),
    ]
    said = []
    rows, missing = suite.run_parts(names, tmp_path, budget=60, log=said.append)
    assert [row["x"] for row in rows] == [1] and missing == {"first": "RuntimeError: out of memory"}
    assert json.loads((tmp_path / "second.json").read_text())["rows"] == rows
    assert json.loads((tmp_path / "missing.json").read_text())["missing"] == missing
    assert "out of memory" in suite.summary(rows, missing) and len(said) == 2
    _, late = suite.run_parts(names[1:], tmp_path, budget=-1, log=said.append)
    assert "not begun" in late["second"]


def test_smoke_prints_one_line(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(sys, "argv", ["smoke"])
    monkeypatch.setattr(
        smoke, "measure", lambda case, **o: asked.append((case, o)) or [{"efficiency": 0.876}]
    )
    smoke.main()
    assert capsys.readouterr().out == "efficiency 0.88\n"
    ((case, options),) = asked
    assert (case.model, case.size, options["fractions"]) == ("swiftnet_rn18", (512, 1024), (0.5,))


def test_plans_name_each_part_once():
    from benchmarks import gpu_check, run

    for plan in (run.plan(1), gpu_check.plan(1)):
        names = [part.name for part in plan]
        assert len(set(names)) == len(names) > 5
        assert all(re.fullmatch(r"[\w-]+", name) for name in names)
