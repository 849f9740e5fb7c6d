"""The whole step: policy, network and learning, each in milliseconds and as a share.

python -m benchmarks.step --model swiftnet_rn18 --target 0.3

The network runs on random grids of exactly the target's blocks, so that the figure does not hang
on what the policy has learnt; the policy looks, draws and is read back as it is in `Runner`.
`benchmarks.clip` runs `Runner` itself.
"""

import functools
import itertools
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from bc_jax.bench import random_grids
from bc_jax.policy import PolicyConfig
from bc_jax.runner import CompiledSteps
from bc_jax.steps import Steps
from bc_jax.timing import Timing, alternate, efficiency, fastest
from benchmarks import cases
from benchmarks.cases import DEFAULT, Case, Loaded, load

POLICIES = {
    "paper": PolicyConfig.paper,
    "default": PolicyConfig.constrained,
    "light": PolicyConfig.light,
}
PARTS = ("policy", "network", "bookkeeping", "learning")
COLUMNS = {
    **cases.NETWORK,
    "policy": "{policy}",
    "executed": "{executed}/{blocks}",
    "dense ms": "{dense_ms:.1f}",
    "step ms": "{step_ms:.1f}",
    "speed-up": "{speedup:.2f}",
    **{f"{part} ms": f"{{{part}_ms:.1f}} ({{shares[{part}]:.0%}})" for part in PARTS},
}


def measure(
    case: Case = DEFAULT,
    *,
    target: float = 0.3,
    policies: tuple[Literal[*POLICIES], ...] = ("paper", "light"),
    train_interval: int = 3,
    repeats: int = 15,
    warm_up: int = 2,
) -> list[dict]:
    """One row per policy; dense versions and all parts are timed in turn.

    Args:
        case: the network.
        target: fraction of the blocks that is executed.
        policies: which ones.
        train_interval: frames from one update of the policy to the next.
        repeats: rounds that count.
        warm_up: rounds before them.
    """
    loaded = load(case)
    dense = loaded.dense_calls()
    executed = case.executed(target)
    grids = random_grids(loaded.grid_shape, executed, warm_up + repeats)
    calls = {**dense, "network": loaded.sparse_call(grids)}
    shares = {}
    for name in policies:
        steps = Steps(loaded.sparse, POLICIES[name](target=target), target, train_interval)
        parts, shares[name] = _policy_calls(steps, loaded, grids)
        calls |= {f"{name} {part}": call for part, call in parts.items()}
    # Programs that are not compiled yet are compiled in the first round, which does not count.
    timings = alternate(calls, repeats=repeats, warm_up=max(1, warm_up))
    best = fastest(timings, dense)
    rows = []
    for name in policies:
        called = {part: part if part == "network" else f"{name} {part}" for part in PARTS}
        fraction = executed / case.blocks
        rows.append(
            case.row("step")
            | {"policy": name, "train_interval": train_interval, "repeats": repeats}
            | {"fraction": fraction, "executed": executed, "blocks": case.blocks}
            | {"dense_version": best, **timings[best].milliseconds("dense")}
            | {"policy_macs_share": shares[name]}
            | _sums(
                {part: timings[called[part]].median for part in PARTS}
                | {"learning": _learning(timings, name)},
                dense=timings[best].median,
                train_interval=train_interval,
                fraction=fraction,
            )
        )
    return rows


def _learning(timings: dict[str, Timing], name: str) -> float:
    """Seconds of an update: its own, and what looking takes longer where it is learnt from."""
    look = {what: timings[f"{name} {what}"].median for what in ("policy", "policy that learns")}
    more = look["policy that learns"] - look["policy"]
    return timings[f"{name} learning"].median + more


def _sums(parts: dict[str, float], *, dense: float, train_interval: int, fraction: float) -> dict:
    """A row's figures from seconds per part, of which learning is not in every frame."""
    parts = parts | {"learning": parts["learning"] / train_interval}
    step = sum(parts.values())
    return {
        **{f"{name}_ms": 1e3 * seconds for name, seconds in parts.items()},
        "learning_once_ms": 1e3 * parts["learning"] * train_interval,
        "step_ms": 1e3 * step,
        "shares": {name: seconds / step for name, seconds in parts.items()},
        "speedup": dense / step,
        "efficiency": efficiency(fraction, dense, step),
    }


def _policy_calls(steps: Steps, loaded: Loaded, grids: list[jax.Array]):
    """What `Runner` does beside the network, as calls to be timed; the policy's share of MACs."""
    pieces = CompiledSteps(steps)
    params, frames = loaded.params, loaded.frames[0]
    executed = int(grids[0].sum())
    state = pieces.init(jax.random.key(0), params, frames)
    # As after the first frame, when no block is missing any more.
    state = state.replace(missing=jnp.zeros_like(state.missing))
    memory = state.frame_state.replace(grid=grids[0])
    reset = np.zeros(len(frames), bool)
    after, decision = pieces.decide(state, frames, reset, learns=True)
    # As though the policy had drawn these grids.
    drawn = decision.replace(looked=None)
    decided = itertools.cycle([drawn.replace(sampled=grid) for grid in grids])
    _, outcome = pieces.settle(after, next(decided), memory, capacity=executed)
    policy = jax.tree.map(jnp.copy, state.policy)
    frames = itertools.cycle(loaded.frames)

    def look(*, learns):
        decision = pieces.decide(state, next(frames), reset, learns=learns)[1]
        int(decision.count)  # read back, as the runner does
        return decision

    def bookkeeping():
        decision = next(decided)
        chosen = pieces.choose(decision, next(frames), capacity=executed)
        return chosen, pieces.settle(after, decision, memory, capacity=executed)

    def learning():
        nonlocal policy
        policy, metrics = pieces.learn(policy, decision, outcome)
        return policy, metrics

    calls = {
        "policy": functools.partial(look, learns=False),
        "policy that learns": functools.partial(look, learns=True),
        "bookkeeping": bookkeeping,
        "learning": learning,
    }
    macs = loaded.sparse.explain(params, loaded.frames[0]).macs
    return calls, steps.policy_macs(decision.observation) / macs


if __name__ == "__main__":
    cases.command(measure, COLUMNS, __doc__)
