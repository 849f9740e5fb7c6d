"""One line in less than a minute: `efficiency 0.xx`, SwiftNet-RN18, 512x1024, half the blocks."""

from benchmarks.cases import Case
from benchmarks.network import measure


def main(repeats: int = 5) -> None:
    """Measure and print.

    Args:
        repeats: rounds that count.
    """
    row = measure(Case(), fractions=(0.5,), repeats=repeats, warm_up=1)[0]
    print(f"efficiency {row['efficiency']:.2f}")


if __name__ == "__main__":
    import tyro

    tyro.cli(main, description=__doc__)
