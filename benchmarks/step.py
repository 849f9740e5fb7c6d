"""The whole step: policy, network and learning, each in milliseconds and as a share.

python -m benchmarks.step --model swiftnet_rn18 --targets 0.3 0.5

The network runs on random grids of exactly a target's blocks, so that the figure does not hang
on what the policy has learnt; the policy looks, draws and is read back as it is in `Runner`.
`benchmarks.clip` runs `Runner` itself.
"""

import functools
import itertools
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from bc_jax.bench import random_grids
from bc_jax.compiled_steps import CompiledSteps
from bc_jax.policy import PolicyConfig
from bc_jax.steps import RunnerState, Steps
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
    "target": "{target:g}",
    "executed": "{executed}/{blocks}",
    "dense ms": "{dense_ms:.1f}",
    "step ms": "{step_ms:.1f}",
    "speed-up": "{speedup:.2f}",
    "in a row": "{row_step_ms:.2f} of {row_dense_ms:.2f} ms, {row_speedup:.2f}",
    "one program": "{one_program_ms:.2f} ms, {one_program_speedup:.2f}",
    **{f"{part} ms": f"{{{part}_ms:.1f}} ({{shares[{part}]:.0%}})" for part in PARTS},
}


def measure(
    case: Case = DEFAULT,
    *,
    targets: tuple[float, ...] = (0.3, 0.5, 0.7),
    policies: tuple[Literal[*POLICIES], ...] = ("paper", "light"),
    train_interval: int = 3,
    repeats: int = 15,
    warm_up: int = 2,
    intervals: int = 1,
) -> list[dict]:
    """One row per target and policy; dense versions and all parts are timed in turn.

    Each part is waited for. Then frames are timed as a video gives them, so many in a row, and of
    them only the count of blocks is waited for: what a GPU and its host do at once shows in these.
    So are, for the first target, frames in one program each, in which nothing is read back.

    Args:
        case: the network.
        targets: fractions of the blocks that are executed. Looking and learning are timed with
            the first: they are the same work for all.
        policies: which ones.
        train_interval: frames from one update of the policy to the next.
        repeats: rounds that count.
        warm_up: rounds before them.
        intervals: of `train_interval` frames that are given in a row.
    """
    in_a_row = intervals * train_interval
    loaded = load(case)
    dense = loaded.dense_calls()
    grids = {
        target: random_grids(loaded.grid_shape, case.executed(target), warm_up + repeats)
        for target in targets
    }
    calls = dense | {
        f"{target} network": loaded.sparse_call(drawn) for target, drawn in grids.items()
    }
    shares, compiled = {}, {}
    for name in policies:
        steps = Steps(loaded.sparse, POLICIES[name](target=targets[0]), targets[0], train_interval)
        compiled[name] = CompiledSteps(steps)
        parts, shares[name] = _policy_calls(steps, compiled[name], loaded, grids)
        calls |= {f"{name} {part}": call for part, call in parts.items()}
    # Programs that are not compiled yet are compiled in the first round, which does not count.
    timings = alternate(calls, repeats=repeats, warm_up=max(1, warm_up))
    best = fastest(timings, dense)
    whole = {
        (target, name): _frame(calls, name, target, train_interval)
        for target, name in itertools.product(targets, policies)
    }
    at_once = {
        name: _at_once(pieces, loaded, case.executed(targets[0]), train_interval)
        for name, pieces in compiled.items()
    }
    whole |= {("at once", name): call for name, call in at_once.items()}
    in_rows = alternate(dense | whole, repeats=repeats, warm_up=warm_up, in_a_row=in_a_row)
    best_in_a_row = in_rows[fastest(in_rows, dense)]
    rows = []
    for target, name in itertools.product(targets, policies):
        executed = case.executed(target)
        called = {
            "policy": f"{name} policy",
            "network": f"{target} network",
            "bookkeeping": f"{name} {target} bookkeeping",
        }
        fraction = executed / case.blocks
        rows.append(
            case.row("step")
            | {"policy": name, "target": target}
            | {"train_interval": train_interval, "repeats": repeats}
            | {"fraction": fraction, "executed": executed, "blocks": case.blocks}
            | {"dense_version": best, **timings[best].milliseconds("dense")}
            | {"policy_macs_share": shares[name], "in_a_row": in_a_row}
            | best_in_a_row.milliseconds("row_dense")
            | in_rows[target, name].milliseconds("row_step")
            | {"row_speedup": best_in_a_row.median / in_rows[target, name].median}
            | (
                _one_program(best_in_a_row, in_rows["at once", name])
                if target == targets[0]
                else {}
            )
            | _sums(
                {part: timings[call].median for part, call in called.items()}
                | {"learning": _learning(timings, name)},
                dense=timings[best].median,
                train_interval=train_interval,
                fraction=fraction,
            )
        )
    return rows


def begun(pieces: CompiledSteps, loaded: Loaded) -> RunnerState:
    """A state as after the first frame, when no block is missing any more."""
    state = pieces.init(jax.random.key(0), loaded.params, loaded.frames[0])
    return state.replace(missing=jnp.zeros_like(state.missing))


def _frame(calls: dict[str, Callable], name: str, target: float, train_interval: int) -> Callable:
    """A call that does all the parts of a frame, learning in every so many of them."""
    frames = itertools.count(1)

    def frame():
        learns = next(frames) % train_interval == 0
        calls[f"{name} policy that learns" if learns else f"{name} policy"]()
        results = calls[f"{target} network"](), calls[f"{name} {target} bookkeeping"]()
        return (*results, calls[f"{name} learning"]()) if learns else results

    return frame


def _one_program(dense: Timing, timing: Timing) -> dict:
    """The fields of a row that are of frames of a fixed number of blocks, a program each."""
    return timing.milliseconds("one_program") | {
        "one_program_speedup": dense.median / timing.median
    }


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


def _at_once(pieces: CompiledSteps, loaded: Loaded, capacity: int, train_interval: int) -> Callable:
    """A call that does a whole frame in one program, as `Runner` does for a fixed capacity."""
    state = begun(pieces, loaded)
    prepared = jax.jit(loaded.sparse.prepare)(loaded.params, loaded.frames[0])
    reset = jnp.zeros(len(loaded.frames[0]), bool)
    frames, number = itertools.cycle(loaded.frames), itertools.count(1)

    def call():
        nonlocal state
        learns = next(number) % train_interval == 0
        state, *results = pieces.frame(
            prepared, state, next(frames), reset, capacity=capacity, learns=learns
        )
        return state.frame_state.outputs, results

    return call


def _policy_calls(
    steps: Steps, pieces: CompiledSteps, loaded: Loaded, grids: dict[float, list[jax.Array]]
):
    """What `Runner` does beside the network, as calls to be timed; the policy's share of MACs.

    Bookkeeping is one call for each of the targets, whose grids are given.
    """
    params, first = loaded.params, loaded.frames[0]
    state = begun(pieces, loaded)
    reset = jnp.zeros(len(first), bool)
    after, decision = pieces.decide(state, first, reset, learns=True)
    policy = state.policy
    frames = itertools.cycle(loaded.frames)

    def look(*, learns):
        decision = pieces.decide(state, next(frames), reset, learns=learns)[1]
        int(decision.count)  # read back, as the runner does
        return decision

    def bookkeeping(drawn):
        """Choosing and settling, as though the policy had drawn these grids."""
        executed = int(drawn[0].sum())
        memory = state.frame_state.replace(grid=drawn[0])
        # What is learnt from belongs to the look, and is not handed on.
        decided = itertools.cycle([decision.replace(looked=None, sampled=grid) for grid in drawn])

        def call():
            decision = next(decided)
            chosen = pieces.choose(decision, next(frames), capacity=executed)
            return chosen, pieces.settle(after, decision, memory, capacity=executed)

        return call

    settle = {f"{target} bookkeeping": bookkeeping(drawn) for target, drawn in grids.items()}
    _, (_, outcome) = next(iter(settle.values()))()

    def learning():
        nonlocal policy
        policy, metrics = pieces.learn(policy, decision, outcome)
        return policy, metrics

    calls = settle | {
        "policy": functools.partial(look, learns=False),
        "policy that learns": functools.partial(look, learns=True),
        "learning": learning,
    }
    macs = loaded.sparse.explain(params, first).macs
    return calls, steps.policy_macs(state) / macs


if __name__ == "__main__":
    cases.command(measure, COLUMNS, __doc__)
