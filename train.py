"""Train a policy online, on video, without labels: `python train.py --config configs/NAME.py`.

A config with a `task`, such as configs/street_network.py, trains the network itself, with labels.

What it does, step by step, stands in `bc_jax/train.py`; `bc-jax train` is the same.
"""

from bc_jax.train import main

if __name__ == "__main__":
    main()
