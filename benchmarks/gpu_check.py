"""The benchmarks with sizes suited to a GPU, in less than eight minutes: `make gpu-check`.

Rows go to OUTPUT/DEVICE/NAME.json, the most important parts first. A part that fails is reported
and the others go on. `--budget 3600` leaves time for all of them.
"""

import sys

import jax

from benchmarks import lowerings, suite
from benchmarks.cases import Case
from benchmarks.suite import Part, part

LARGE, SMALL = (1024, 2048), (512, 1024)


def plan() -> list[Part]:
    """What is measured: SwiftNet-RN50, alone and in a step, then more of each."""
    rn18, rn50, deeplab = "swiftnet_rn18", "swiftnet_rn50", "deeplabv3plus_rn101"
    espnet, half = "espnet_cityscapes", {"dtype": "bfloat16"}
    few = {"fractions": (0.3, 0.5), "in_a_row": 8}
    more = {"fractions": (0.0, 0.3, 0.5, 1.0), "in_a_row": 8}
    once = {"targets": (0.3,), "intervals": 4}
    return [
        part("network", Case(rn50, LARGE, **half), **more),
        part("step", Case(rn50, LARGE, **half), **once),
        part("network", Case(rn50, LARGE, **half, streams=4), **few),
        part("kernels", Case(rn50, LARGE, **half)),
        part("step", Case(rn50, LARGE, **half, streams=4), **once),
        part("host", Case(rn50, LARGE, **half)),
        part("network", Case(rn18, LARGE, **half), **more),
        part("step", Case(rn18, LARGE, **half), **once),
        part("kernels", Case(rn50, LARGE, **half, streams=4)),
        part("roofline", Case(rn18, LARGE, **half), matrix=8192, array_bytes=2**31),
        part("network", Case(rn18, SMALL), **more),
        part("network", Case(espnet, SMALL), **few),
        part("network", Case(rn18, LARGE, **half, streams=4), **few),
        part("memory", Case(rn18, LARGE, **half)),
        Part("lowerings", lowerings.measure, Case(**half)),
        part("network", Case(deeplab, LARGE, **half), **few),
        part("network", Case(rn50, SMALL, **half), **few),
        part("network", Case(rn18, LARGE), **few),
        part("network", Case(rn50, LARGE), **few),
        part("network", Case("mobilenet_v2", LARGE, **half), **few),
        part("network", Case("convnext_tiny", LARGE, **half), **few),
        part("network", Case(rn18, SMALL, **half, streams=4), **few),
        part("network", Case(espnet, LARGE, **half, streams=4), **few),
        part("against_torch", Case(rn50, LARGE, **half)),
        part("step", Case(deeplab, LARGE, **half), **once),
        part("scaling", Case(rn50, LARGE, **half), dtypes=("float32", "bfloat16", "float16")),
        part("roofline", Case(rn50, LARGE, **half), matrix=8192, array_bytes=2**31),
    ]


def main(argv: list[str] | None = None) -> None:
    """Measure all that time allows."""
    argv = sys.argv[1:] if argv is None else argv
    if jax.default_backend() != "gpu" and not {"--tiny", "--list", "--help", "-h"} & set(argv):
        raise SystemExit(
            f"jax runs on {jax.default_backend()}, and these sizes are a GPU's; "
            "use python -m benchmarks.run here, or --tiny to try every part"
        )
    suite.main(__doc__, plan(), repeats=25, budget=400, argv=argv)


if __name__ == "__main__":
    main()
