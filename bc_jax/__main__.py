"""`python -m bc_jax`: the command `bc-jax`."""

from bc_jax.commands import main

if __name__ == "__main__":
    main()
