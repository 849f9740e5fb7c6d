"""The benchmarks with sizes suited to a GPU, in less than eight minutes: `make gpu-check`.

Rows go to OUTPUT/DEVICE/NAME.json, the most important parts first. A part that fails is reported
and the others go on.
"""

import argparse
import functools

import jax

from benchmarks import network, parts, step
from benchmarks.cases import Case
from benchmarks.suite import Part, folder_for_device, run_parts, summary

LARGE, SMALL = (1024, 2048), (512, 1024)


def cases() -> list[tuple[Case, tuple[float, ...]]]:
    """Networks and fractions, the most important first."""
    rn18 = functools.partial(Case, "swiftnet_rn18")
    rn50 = functools.partial(Case, "swiftnet_rn50")
    espnet = functools.partial(Case, "espnet_cityscapes")
    return [
        (rn18(LARGE, dtype="bfloat16"), (0.125, 0.3, 0.5, 1.0)),
        (rn50(LARGE, dtype="bfloat16"), (0.3, 0.5, 1.0)),
        (rn50(LARGE, dtype="bfloat16", streams=4), (0.3, 0.5)),
        (rn18(SMALL), (0.3, 0.5, 1.0)),
        (espnet(SMALL), (0.3, 0.5)),
        (rn18(LARGE, dtype="bfloat16", streams=4), (0.3, 0.5)),
        (rn50(SMALL, dtype="bfloat16"), (0.3, 0.5)),
        (rn18(LARGE), (0.3, 0.5)),
        (rn50(LARGE), (0.3,)),
        (rn18(SMALL, dtype="bfloat16", streams=4), (0.3,)),
        (espnet(LARGE, dtype="bfloat16", streams=4), (0.3,)),
    ]


def plan(repeats: int) -> list[Part]:
    """What is measured: the first networks, a step and a network's parts, the other networks."""
    networks = []
    for case, fractions in cases():
        name = f"network-{case.model}-{case.size[0]}x{case.size[1]}-{case.dtype}-{case.streams}"
        measure = functools.partial(network.measure, case, fractions=fractions, repeats=repeats)
        networks.append(Part(name, measure))
    between = []
    for model in ("swiftnet_rn18", "swiftnet_rn50"):
        case = Case(model, LARGE, dtype="bfloat16")
        between.append(
            Part(f"step-{model}", functools.partial(step.measure, case, repeats=repeats))
        )
    measure = functools.partial(parts.measure, Case("swiftnet_rn18", LARGE, dtype="bfloat16"))
    between.append(Part("parts-swiftnet_rn18", measure))
    return [*networks[:3], *between, *networks[3:]]


def main() -> None:
    """Measure all that time allows; status 1 where a part failed or was left out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", default="benchmarks/results")
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--budget", type=float, default=400, help="seconds to begin parts in")
    options = parser.parse_args()
    if jax.default_backend() != "gpu":
        raise SystemExit(
            f"jax runs on {jax.default_backend()}, and these sizes are a GPU's; "
            "use python -m benchmarks.run here"
        )
    folder = folder_for_device(options.output)
    rows, missing = run_parts(plan(options.repeats), folder, budget=options.budget)
    print(f"\n{summary(rows, missing)}\n\n{folder}")
    raise SystemExit(1 if missing else 0)


if __name__ == "__main__":
    main()
