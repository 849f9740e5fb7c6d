"""One line in less than a minute: `efficiency 0.xx`, SwiftNet-RN18, 512x1024, half the blocks."""

import argparse

from benchmarks.cases import Case
from benchmarks.network import measure


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    case = Case("swiftnet_rn18", (512, 1024))
    row = measure(case, fractions=(0.5,), repeats=options.repeats, warm_up=1)[0]
    print(f"efficiency {row['efficiency']:.2f}")


if __name__ == "__main__":
    main()
