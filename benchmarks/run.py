"""The benchmarks on a CPU, in an hour or two: `make bench`. Rows go to OUTPUT/DEVICE/NAME.json.

On a GPU, `benchmarks.gpu_check` has the fitting sizes.
"""

from benchmarks import lowerings, networks, suite
from benchmarks.cases import Case
from benchmarks.suite import Part, part

SMALL, LARGE = (512, 1024), (1024, 2048)
ESPNET = Case("espnet_cityscapes", (576, 768), block=64)


def plan() -> list[Part]:
    """What is measured, in order."""
    rn18, rn50, deeplab = "swiftnet_rn18", "swiftnet_rn50", "deeplabv3plus_rn101"
    return [
        *(part(kind, Case(model, SMALL)) for model in (rn18, rn50) for kind in ("network", "step")),
        *(part(kind, ESPNET) for kind in ("network", "step")),
        *(part(kind, Case(rn18, LARGE)) for kind in ("network", "step")),
        *(part("network", Case(model, SMALL)) for model in networks.NAMES),
        part("step", Case("segformer_b0", SMALL)),
        Part("lowerings", lowerings.measure, Case()),
        Part("lowerings-bfloat16", lowerings.measure, Case(dtype="bfloat16")),
        *(part("dtypes", Case(model, SMALL)) for model in (rn18, rn50, deeplab)),
        part("dtypes", ESPNET),
        part("roofline", Case(rn18, SMALL)),
        part("memory", Case(rn18, LARGE)),
        part("memory", Case(rn18, LARGE, dtype="bfloat16")),
        *(part(kind, Case(deeplab, SMALL)) for kind in ("network", "step")),
        *(part(kind, Case(rn50, LARGE)) for kind in ("network", "step")),
        part("against_torch", Case(rn18, SMALL)),
        part("against_torch", Case(rn50, SMALL)),
        part("clip", ESPNET, frames=240, windows=4, policy="random"),
        part("stalls", ESPNET),
        part("roofline", ESPNET),
        part("roofline", Case(rn50, SMALL)),
        part("scaling", Case(rn18, SMALL)),
        *(part(kind, Case(deeplab, LARGE)) for kind in ("network", "step")),
        part("memory", Case(rn50, LARGE)),
        part("memory", Case(deeplab, LARGE)),
    ]


if __name__ == "__main__":
    suite.main(__doc__, plan(), repeats=9, budget=7200)
