"""Compare policies with the dense network: `python evaluate.py --config configs/NAME.py`.

What it does, step by step, stands in `bc_jax/evaluate.py`; `bc-jax evaluate` is the same.
"""

from bc_jax.evaluate import main

if __name__ == "__main__":
    main()
