"""The whole step: policy, network and learning, each in milliseconds and as a share.

python -m benchmarks.step --model swiftnet_rn18 --target 0.3

The network runs on random grids of exactly the target's blocks, so that the figure does not hang
on what the policy has learnt; the policy looks, draws and is read back as it is in `Runner`.
`benchmarks.clip` runs `Runner` itself.
"""

import argparse
import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from bc_jax.policy import PolicyConfig, policy_macs
from bc_jax.sparse import compiler_options
from bc_jax.steps import Decision, RunnerState, Steps
from benchmarks.cases import (
    Case,
    Loaded,
    add_case_options,
    case_of,
    compile_timed,
    dense_programs,
    load,
    random_grids,
    sparse_program,
)
from benchmarks.network import fastest, milliseconds
from benchmarks.timing import alternate, efficiency, table, write_rows

POLICIES = {
    "paper": PolicyConfig.paper,
    "default": PolicyConfig.constrained,
    "light": PolicyConfig.light,
}
PARTS = ("policy", "network", "bookkeeping", "learning")
COLUMNS = {
    "network": "{model}",
    "size": "{size[0]}x{size[1]}",
    "policy": "{policy}",
    "executed": "{executed}/{blocks}",
    "dense ms": "{dense_ms:.1f}",
    "step ms": "{step_ms:.1f}",
    "speed-up": "{speedup:.2f}",
    **{f"{part} ms": f"{{{part}_ms:.1f}} ({{shares[{part}]:.0%}})" for part in PARTS},
}


def measure(
    case: Case,
    *,
    target: float = 0.3,
    policies: Sequence[str] = ("paper", "light"),
    train_interval: int = 3,
    repeats: int = 15,
    warm_up: int = 2,
) -> list[dict]:
    """One row per policy; dense versions and all parts are timed in turn."""
    loaded = load(case)
    dense = dense_programs(loaded)
    executed = case.executed(target)
    grids = random_grids(loaded.grid_shape, executed, warm_up + repeats)
    calls = {name: program.call for name, program in dense.items()}
    calls["network"] = sparse_program(loaded, executed, grids).call
    macs = loaded.sparse.explain(loaded.params, loaded.frames[0]).macs
    shares = {}
    for name in policies:
        config = POLICIES[name](target=target)
        steps = Steps(loaded.sparse, config, target, train_interval)
        parts, observation = _part_calls(steps, loaded, executed, grids)
        calls |= {f"{name} {part}": call for part, call in parts.items()}
        shares[name] = policy_macs(observation, config) / macs
    timings = alternate(calls, repeats=repeats, warm_up=warm_up)
    best = fastest(timings, dense)
    return [
        case.row("step")
        | {"policy": name, "train_interval": train_interval, "repeats": repeats}
        | {"fraction": executed / case.blocks, "executed": executed, "blocks": case.blocks}
        | {"dense_version": best, **milliseconds(timings[best], "dense")}
        | {"policy_macs_share": shares[name]}
        | _sums(
            dense=timings[best].median,
            policy=timings[f"{name} policy"].median,
            execute=timings[f"{name} execute"].median,
            learn=timings[f"{name} learning"].median,
            network=timings["network"].median,
            train_interval=train_interval,
            fraction=executed / case.blocks,
        )
        for name in policies
    ]


def _sums(*, dense, policy, execute, learn, network, train_interval, fraction) -> dict:
    """A row's figures, from seconds. `execute` holds the network and what the runner adds."""
    # Each is measured by itself: noise may leave nothing for the difference.
    bookkeeping = max(0.0, execute - network)
    parts = {
        "policy": policy,
        "network": execute - bookkeeping,
        "bookkeeping": bookkeeping,
        "learning": learn / train_interval,
    }
    step = sum(parts.values())
    return {
        **{f"{name}_ms": 1e3 * seconds for name, seconds in parts.items()},
        "learning_once_ms": 1e3 * learn,
        "step_ms": 1e3 * step,
        "shares": {name: seconds / step for name, seconds in parts.items()},
        "speedup": dense / step,
        "efficiency": efficiency(fraction, dense, step),
    }


def _part_calls(steps: Steps, loaded: Loaded, executed: int, grids: list[jax.Array]):
    """The pieces of a step as calls to be timed, compiled as `Runner` does; an observation."""
    options = {"compiler_options": compiler_options()}
    frames = loaded.frames[0]
    init = jax.jit(steps.init, **options)

    def begin() -> RunnerState:
        state = init(jax.random.key(0), loaded.params, frames)
        # As after the first frame, when no block is missing any more.
        return state.replace(missing=jnp.zeros_like(state.missing))

    watched, running = begin(), begin()
    decide, *_ = compile_timed(jax.jit(steps.decide, **options), watched, frames)
    _, decision = decide(watched, frames)
    decided = itertools.cycle([_with_grid(decision, grid, executed) for grid in grids])
    execute, *_ = compile_timed(
        jax.jit(steps.execute, static_argnames="capacity", donate_argnums=1, **options),
        loaded.params, running, decision, frames, capacity=executed,
    )  # fmt: skip
    running, outcome = execute(loaded.params, running, next(decided), frames)
    outcome = jax.tree.map(jnp.copy, outcome)  # its logits belong to the state, which is donated
    learning = jax.tree.map(jnp.copy, watched.policy)
    learn, *_ = compile_timed(
        jax.jit(steps.learn, donate_argnums=0, **options), learning, decision, outcome
    )
    frames = itertools.cycle(loaded.frames)

    def call_policy():
        state, decision = decide(watched, next(frames))
        return state, int(decision.count)  # read back, as the runner does

    def call_execute():
        nonlocal running
        running, outcome = execute(loaded.params, running, next(decided), next(frames))
        return running, outcome

    def call_learning():
        nonlocal learning
        learning, metrics = learn(learning, decision, outcome)
        return learning, metrics

    calls = {"policy": call_policy, "execute": call_execute, "learning": call_learning}
    return calls, decision.observation


def _with_grid(decision: Decision, grid: jax.Array, executed: int) -> Decision:
    """The decision as it were, had the policy drawn this grid."""
    return decision.replace(sampled=grid, count=jnp.int32(executed))


def main() -> None:
    """Measure one network with some policies."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_case_options(parser)
    parser.add_argument("--target", type=float, default=0.3, help="fraction of blocks executed")
    parser.add_argument("--policies", nargs="+", default=("paper", "light"), choices=POLICIES)
    parser.add_argument("--train-interval", type=int, default=3, help="frames between learning")
    options = parser.parse_args()
    rows = measure(
        case_of(options),
        target=options.target,
        policies=options.policies,
        train_interval=options.train_interval,
        repeats=options.repeats,
        warm_up=options.warm_up,
    )
    print(table(rows, COLUMNS))
    if options.output:
        print(write_rows(options.output, rows))


if __name__ == "__main__":
    main()
