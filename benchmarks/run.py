"""The benchmarks on this machine, in minutes: `make bench`.

Rows go to OUTPUT/DEVICE/NAME.json. On a GPU, `benchmarks.gpu_check` has the fitting sizes.
"""

import argparse
import functools

from benchmarks import network, parts, step
from benchmarks.cases import Case
from benchmarks.suite import Part, folder_for_device, run_parts, summary

RN18 = Case("swiftnet_rn18", (512, 1024))
RN50 = Case("swiftnet_rn50", (512, 1024))
ESPNET = Case("espnet_cityscapes", (576, 768), block=64)
FRACTIONS = (0.125, 0.25, 0.5, 0.75, 1.0)


def plan(repeats: int) -> list[Part]:
    """What is measured, in order."""
    found = []
    for name, case in (("rn18", RN18), ("espnet", ESPNET), ("rn50", RN50)):
        measure = functools.partial(network.measure, case, fractions=FRACTIONS, repeats=repeats)
        found.append(Part(f"network-{name}", measure))
        found.append(Part(f"step-{name}", functools.partial(step.measure, case, repeats=repeats)))
    for name, case in (("rn18", RN18), ("espnet", ESPNET)):
        found.append(Part(f"parts-{name}", functools.partial(parts.measure, case)))
    return found


def main() -> None:
    """Measure all and print a summary; status 1 where a part failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", default="benchmarks/results")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--budget", type=float, default=1800, help="seconds")
    options = parser.parse_args()
    folder = folder_for_device(options.output)
    rows, missing = run_parts(plan(options.repeats), folder, budget=options.budget)
    print(f"\n{summary(rows, missing)}\n\n{folder}")
    raise SystemExit(1 if missing else 0)


if __name__ == "__main__":
    main()
