"""Table 1 of the paper's supplement, with one's own runs beside it.

    python -m bc_jax.table runs/cityscapes_swiftnet_rn50 --output runs/table --tflops 11.34

Writes table.md, table.json and table.png (the paper's Figure 7). Every row says whether it was
measured or is quoted from the supplement; data sets are kept apart. A time is normalised to a GTX
1080 Ti as the supplement does it, `ms * TFLOPS / 11.34`, where the device's TFLOPS (float32, its
maker's figure) are given, and else not at all. Of runs that differ in their seed alone, means and
deviations are shown too.
"""

import argparse
import csv
import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

from bc_jax import command_line
from bc_jax.files import write_text
from bc_jax.measurement import DENSE, LEARNING, policy_of
from bc_jax.models import TRAINED
from bc_jax.over_seeds import lines, over_seeds
from bc_jax.results import markdown
from bc_jax.view import Method, plot_methods

QUOTED = "quoted from the supplement"
CITYSCAPES = "Cityscapes val"
_PAPER = Path(__file__).parent / "paper"
_REFERENCE = "Nvidia GTX 1080 Ti"
_NUMBERS = ("baseline_miou", "baseline_ms", "baseline_ms_norm", "miou", "ms", "ms_norm")


@dataclasses.dataclass(frozen=True)
class Run:
    """What one evaluation measured.

    Attributes:
        folder: that it was read from.
        data_set: what was gone through, such as "Cityscapes val".
        about: the contents of its results.json.
        tflops: of its device, or None where that is not known.
    """

    folder: Path
    data_set: str
    about: dict
    tflops: float | None

    @property
    def device(self) -> str:
        """What it ran on."""
        device = self.about["device"]
        return device["kind"] if device["platform"] != "cpu" else device["processor"]

    @property
    def weights(self) -> str:
        """Where the network's parameters are from."""
        model = self.about["config"]["model"]
        shipped = "the package's" if model["name"] in TRAINED else "random"
        return model["weights"] or shipped

    @property
    def settings(self) -> str:
        """All that it depends on but its seed, as a text; not its name and folder."""
        config = {k: v for k, v in self.about["config"].items() if k not in ("name", "seed")}
        train = {k: v for k, v in config.get("train", {}).items() if k != "directory"}
        return json.dumps([config | {"train": train}, self.about["frame_size"]], sort_keys=True)


def quoted() -> list[dict]:
    """The rows of the supplement's Table 1: texts, and numbers or None; mIoU in per cent."""
    rows = []
    for row in _read("table1.csv"):
        numbers = {name: float(row[name]) if row[name] else None for name in _NUMBERS}
        rows.append({**row, **numbers})
    return rows


def factors() -> dict[str, float]:
    """Table 2: each GPU's TFLOPS."""
    return {row["gpu"]: float(row["tflops"]) for row in _read("table2.csv")}


def factor(tflops: float) -> float:
    """What a device's times are multiplied by to be a GTX 1080 Ti's: TFLOPS / 11.34."""
    return tflops / factors()[_REFERENCE]


def read_run(folder: str | Path, tflops: float | None = None) -> Run:
    """What an evaluation left in its folder.

    Raises:
        ValueError: it holds no results.json, a damaged one, or one without mIoU on clips' last
            frames; or the TFLOPS are not above 0.
    """
    folder = Path(folder)
    if tflops is not None and not 0 < tflops < math.inf:
        raise ValueError(f"tflops is {tflops:g}; a device has a number above 0")
    path = folder / "results.json"
    if not path.is_file():
        raise ValueError(f"{folder} has no results.json; evaluate.py writes it")
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        rows, config = about["rows"], about["config"]
        source = config["evaluate"].get("source") or config["data"]["source"]
        labelled = all(row["labelled_last_frames"] for row in rows)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged, or of an evaluate.py before this table: {error!r}"
        ) from error
    if not labelled:
        raise ValueError(
            f"{folder} has no clip of {source} measured to its last frame with labels, whose mIoU "
            "Table 1 needs"
        )
    return Run(folder, _data_set(source, about["frame_size"]), about, tflops)


def measured(run: Run) -> list[dict]:
    """A run's rows: mIoU in per cent, costs and times per frame over all frames."""
    dense = next(row for row in run.about["rows"] if row["policy"] == DENSE)
    rows = []
    for row in run.about["rows"]:
        took, dense_took = row["ms_per_frame_all"], dense["ms_per_frame_all"]
        rows.append({
            "source": "measured",
            "run": str(run.folder),
            "data_set": run.data_set,
            "clips": row["labelled_last_frames"],
            "network": run.about["config"]["model"]["name"],
            "seed": run.about["config"]["seed"],
            "policy": policy_of(row["policy"]),
            "target": row["target"],
            "device": run.device,
            "miou_last": _per_cent(row["miou_labels_last"]),
            "miou_all": _per_cent(row["miou_labels"]),
            "gmacs": row["macs_per_frame_all"] / 1e9,
            "executed": row["executed_fraction"],
            "ms": took,
            "ms_norm": _normalised(took, run.tflops),
            "speedup": dense_took / took if took and dense_took else None,
            "dense_miou_last": _per_cent(dense["miou_labels_last"]),
            "loss_last": _per_cent(dense["miou_labels_last"] - row["miou_labels_last"]),
            "dense_ms": dense_took,
            "dense_ms_norm": _normalised(dense_took, run.tflops),
        })  # fmt: skip
    return rows


def write(runs: Sequence[Run], directory: str | Path) -> Path:
    """Write table.md, table.json and table.png into a folder.

    Args:
        runs: from `read_run`.
        directory: is made where it is missing.

    Returns:
        The path of table.md.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    pairs = [(run.settings, row) for run in runs for row in measured(run)]
    rows, several = [row for _, row in pairs], over_seeds(pairs)
    document = {
        "measured": rows,
        "over_seeds": several,
        "quoted": [{"source": QUOTED, "data_set": CITYSCAPES, **row} for row in quoted()],
        "tflops": {**factors(), **{run.device: run.tflops for run in runs if run.tflops}},
        "reference": _REFERENCE,
        "runs": [_facts(run) for run in runs],
    }
    write_text(directory / "table.json", json.dumps(document, indent=2, allow_nan=False) + "\n")
    path = directory / "table.md"
    write_text(path, _text(runs, rows, several))
    _draw(directory / "table.png", rows)
    return path


def _text(runs: Sequence[Run], rows: list[dict], several: list[dict]) -> str:
    parts = ["# Table 1", f"## {CITYSCAPES}", markdown(_beside(rows), texts=4)]
    parts.append(
        f"'{QUOTED}': not run here. mIoU in per cent on clips' last, labelled frames. 'norm.': "
        "times a GTX 1080 Ti would take, ms × TFLOPS / 11.34 (Table 2); quoted ones as printed, "
        "where those of the Titan XP were divided by the factor. Empty: not printed, or not known."
    )
    for data_set in dict.fromkeys(row["data_set"] for row in rows):
        own = [row for row in rows if row["data_set"] == data_set]
        clips = sorted({row["clips"] for row in own})
        parts.append(f"## Measured on {data_set}: {' and '.join(map(str, clips))} clips")
        if not data_set.startswith("Cityscapes"):
            parts.append("Not Cityscapes: mIoU cannot be compared with the table above.")
        parts.append(markdown(_figures(own), texts=4))
        averaged = [row for row in several if row["data_set"] == data_set]
        if averaged:
            parts.append("Mean ± deviation over runs that differ in their seed alone:")
            parts.append(markdown(lines(averaged), texts=3))
    parts.append(
        "mIoU in per cent: 'last', on clips' last frames; 'all', on every labelled frame but "
        "clips' first ones, which all policies execute whole. GMACs and ms are of policy, network "
        "and learning, over all frames, first ones included; 'executed' is without them, as the "
        "target is. Times are medians; the speed-up compares them with the fastest dense version."
    )
    without = [run.folder.name for run in runs if run.tflops is None]
    if without:
        parts.append(f"Not normalised, the device's TFLOPS not being given: {', '.join(without)}.")
    parts += ["## Runs", *("\n".join(_facts_text(_facts(run))) for run in runs)]
    return "\n\n".join(parts) + "\n\n![mIoU against time](table.png)\n"


def _beside(rows: list[dict]) -> list[list[str]]:
    """The supplement's Table 1 with the policies that learn, where they ran on its data set."""
    lines = [
        ["method", "GPU", "baseline", "figures are", "baseline mIoU", "baseline ms",
         "baseline ms norm.", "mIoU", "ms", "ms norm."]
    ]  # fmt: skip
    for row in rows:
        if row["policy"] in LEARNING and row["data_set"] == CITYSCAPES:
            name = f"bc_jax {row['policy']}, t={row['target']:g}"
            said = f"measured: {Path(row['run']).name}, {row['clips']} clips"
            columns = ("dense_miou_last", "dense_ms", "dense_ms_norm", "miou_last", "ms", "ms_norm")
            lines.append([name, row["device"], row["network"], said, *_cells(row, columns, ".1f")])
    for row in quoted():
        name = " ".join(filter(None, (row["method"], row["variant"])))
        texts = [name, row["gpu"], row["baseline_architecture"], QUOTED]
        lines.append([*texts, *_cells(row, _NUMBERS, "g")])
    return lines


def _figures(rows: list[dict]) -> list[list[str]]:
    lines = [
        ["run", "network", "policy", "device", "target", "mIoU last", "mIoU all", "GMACs",
         "executed", "ms", "ms norm.", "speed-up"]
    ]  # fmt: skip
    for row in rows:
        texts = [Path(row["run"]).name, row["network"], row["policy"], row["device"]]
        lines.append([
            *texts,
            *_cells(row, ("target",), "g"),
            *_cells(row, ("miou_last", "miou_all", "gmacs"), ".2f"),
            *_cells(row, ("executed",), ".3f"),
            *_cells(row, ("ms", "ms_norm"), ".1f"),
            *_cells(row, ("speedup",), ".2f"),
        ])  # fmt: skip
    return lines


def _draw(path: Path, rows: list[dict]) -> None:
    absolute, relative = [], []
    groups = {}  # rows that are linked
    for row in quoted():
        groups.setdefault((row["method"], row["baseline_architecture"]), []).append(row)
    several = [name for name, _ in groups]
    for (name, network), group in groups.items():
        name += f" {network}" if several.count(name) > 1 else ""
        known = [row["ms_norm"] is not None for row in group]
        points = [(row["ms_norm"] or row["ms"], row["miou"]) for row in group]
        absolute.append(Method(name, tuple(points), quoted=True, hollow=not all(known)))
        change = [
            (row["ms"] / row["baseline_ms"], row["miou"] - row["baseline_miou"])
            for row in group
            if row["baseline_ms"] and row["baseline_miou"]
        ]
        if change:
            relative.append(Method(name, tuple(change), quoted=True))
    groups = {}
    seeds = len({row["seed"] for row in rows}) > 1
    for row in rows:
        if row["target"] is not None and row["speedup"]:
            name = f"{row['data_set']}: {row['network']}, {row['policy']}"
            name += f", seed {row['seed']}" if seeds else ""
            groups.setdefault(name, []).append(row)
    left_out = []
    for name, group in groups.items():
        group.sort(key=lambda row: row["target"])
        change = [(1 / row["speedup"], row["miou_last"] - row["dense_miou_last"]) for row in group]
        relative.append(Method(name, tuple(change)))
        if group[0]["data_set"] == CITYSCAPES:
            points = [(row["ms_norm"], row["miou_last"]) for row in group if row["ms_norm"]]
            if points:
                absolute.append(Method(name, tuple(points)))
            if len(points) < len(group):
                left_out.append(name)
    note = f"Not on the left, its time not being normalised: {'; '.join(left_out)}"
    plot_methods(path, absolute, relative, note=note if left_out else "")


def _facts(run: Run) -> dict:
    about = run.about
    return {
        "run": str(run.folder),
        "data_set": run.data_set,
        "device": run.device,
        "cores": about["device"]["cores"],
        "tflops": run.tflops,
        "factor": None if run.tflops is None else factor(run.tflops),
        "weights": run.weights,
        "policy_began_from": about["checkpoint"] or "a cold start",
        "objective": about["config"]["policy"]["objective"],
        "seed": about["config"]["seed"],
        "command": about["command"],
        "commit": about["commit"],
        "versions": about["versions"],
    }


def _facts_text(facts: dict) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    tflops = "not given"
    if facts["tflops"] is not None:
        tflops = f"{facts['tflops']:g}, factor {facts['factor']:.3g}"
    cores = f", {facts['cores']} cores" if facts["cores"] else ""
    return [
        f"- **{Path(facts['run']).name}**: `{facts['command']}`",
        f"    - {facts['data_set']}; weights: {facts['weights']}; 'learned' has the "
        f"{facts['objective']} objective and began from {facts['policy_began_from']}; seed "
        f"{facts['seed']}",
        f"    - {facts['device']}{cores}; TFLOPS: {tflops}; {versions}; commit {facts['commit']}",
    ]


def _data_set(source: str, size: Sequence[int]) -> str:
    shown = "{}x{}".format(*size)
    if source.startswith("cityscapes:"):
        name = f"Cityscapes {source.rstrip('/').rpartition('/')[2]}"
        return name if tuple(size) == (1024, 2048) else f"{name} at {shown}"
    if source.startswith("street:"):
        return f"street {source.removeprefix('street:')} at {shown} (generated)"
    return f"{Path(source).name} at {shown}"


def _read(name: str) -> list[dict]:
    with (_PAPER / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _cells(row: dict, names: Sequence[str], form: str) -> list[str]:
    return ["" if row[name] is None else format(row[name], form) for name in names]


def _per_cent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _normalised(ms: float | None, tflops: float | None) -> float | None:
    return None if ms is None or tflops is None else ms * factor(tflops)


def main(argv: Sequence[str] | None = None) -> None:
    """Write Table 1 with the rows of the runs that are named."""
    parser = argparse.ArgumentParser(prog="bc-jax table", description=main.__doc__)
    parser.add_argument("run", nargs="+", help="folder of an evaluation, such as runs/mine")
    parser.add_argument("--output", required=True, help="folder to write to")
    parser.add_argument(
        "--tflops", type=float, nargs="+", help="of the device in float32: one, or one per run"
    )
    given = parser.parse_args(argv)
    with command_line.errors_told():
        tflops = given.tflops or [None]
        if len(tflops) == 1:
            tflops *= len(given.run)
        if len(tflops) != len(given.run):
            raise ValueError(
                f"--tflops has {len(tflops)} figures for {len(given.run)} runs; give one, or one "
                "for each"
            )
        runs = [read_run(*pair) for pair in zip(given.run, tflops, strict=True)]
        print(write(runs, given.output))


if __name__ == "__main__":
    main()
