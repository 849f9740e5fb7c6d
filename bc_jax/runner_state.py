"""What carries over from frame to frame, what is decided of one, and what became of that."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from bc_jax import policy as policies
from bc_jax.policy import Observation, PolicyState
from bc_jax.sparse import FrameState


@struct.dataclass
class RunnerState:
    """All that carries over from frame to frame, N streams of Gh x Gw blocks.

    Attributes:
        frame_state: the block-sparse network's memory.
        policy: what the policy has learnt; None for a policy that does not learn.
        seen: logits after the last frame, at the resolution where gain is measured; for the oracle,
            what the dense network said of each block when it was last executed.
        kept: of the last outputs, what a gain of one's own compares; None without one.
        age: int32 [N, Gh, Gw], frames since each block was executed.
        running_gain: float32 [N, Gh, Gw], what each block gained when it was executed.
        missing: bool [N, Gh, Gw], blocks not executed since their stream began: they come first.
        key: for sampling.
        carry: f32 [], blocks that rounding to whole ones has left over (baselines).
        frame: int32 [], frames so far.
        skipped_frames: int32 [N], frames left out since a pixel was not finite.
    """

    frame_state: FrameState
    policy: PolicyState | None
    seen: jax.Array
    kept: Any
    age: jax.Array
    running_gain: jax.Array
    missing: jax.Array
    key: jax.Array
    carry: jax.Array
    frame: jax.Array
    skipped_frames: jax.Array


def written_into(state) -> bool:
    """Whether one of a pytree's arrays is no longer there, as another program wrote into it."""
    leaves = jax.tree.leaves(state)
    return any(isinstance(leaf, jax.Array) and leaf.is_deleted() for leaf in leaves)


def begun_anew(old: RunnerState, new: RunnerState) -> RunnerState:
    """A new state with what is still there of an old one and belongs to no frame."""
    names = ("policy", "key", "carry", "frame", "skipped_frames")
    kept = {name: getattr(old, name) for name in names}
    return new.replace(**{name: x for name, x in kept.items() if not written_into(x)})


@struct.dataclass
class Decision:
    """What the policy wants of one frame, before capacity.

    Attributes:
        observation: what it saw.
        scores: float32 [N, Gh, Gw], logits; the higher, the sooner spare room goes to a block.
        sampled: bool [N, Gh, Gw], the actions drawn.
        required: bool [N, Gh, Gw], blocks to execute whatever the policy says.
        allowed: bool [N, 1, 1], False for a stream whose frame is left out.
        counts: bool [N], streams that the policy learns from in this frame.
        count: int32 [], blocks wanted over all streams.
        looked: what to learn from, where `decide` was told that this frame is learnt from.
    """

    observation: Observation
    scores: jax.Array
    sampled: jax.Array
    required: jax.Array
    allowed: jax.Array
    counts: jax.Array
    count: jax.Array
    looked: policies.Look | None = None


@struct.dataclass
class Outcome:
    """What became of a decision.

    Attributes:
        grid: bool [N, Gh, Gw], the blocks executed.
        seen: logits after the frame, as `RunnerState.seen`; None out of `Steps.frame`.
        gain: float32 [N, Gh, Gw], information gained per block.
    """

    grid: jax.Array
    seen: jax.Array | None
    gain: jax.Array


def check(state: RunnerState, init: Callable) -> None:
    """Raises TypeError or ValueError for a state that no frame can begin with.

    Args:
        state: what is given for one.
        init: a state of the Runner's own, for frames.
    """
    if not isinstance(state, RunnerState):
        raise TypeError(f"a state is a RunnerState or None; this is a {type(state).__name__}")
    if written_into(state):
        raise ValueError(
            "this state is not that of the last frame: the next one has written into it; keep "
            "jax.tree.map(jnp.copy, runner.state) of a state to come back to"
        )
    expected = jax.eval_shape(init, shape_of(jnp.asarray(state.frame_state.frames)))
    if unlike := difference(state, expected):
        raise ValueError(
            "this state is of another network, policy or block size, or of another version of "
            f"bc_jax: {unlike}"
        )


def shape_of(x: jax.Array) -> jax.ShapeDtypeStruct:
    """What a program is compiled for, in the place of an array."""
    sharding = x.sharding if x.committed else None
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding, weak_type=x.aval.weak_type)


def difference(state: RunnerState, expected: RunnerState) -> str | None:
    """The first array of a state that is not of the shape and dtype expected, in words; or None."""
    given, wanted = map(_arrays, (state, expected))
    # What is there on one side alone tells more than a size.
    for name in sorted(wanted | given, key=lambda name: name in wanted and name in given):
        here, there = wanted.get(name, "not there"), given.get(name, "not there")
        if here != there:
            return f"{name} is {there}, and this Runner's is {here}"
    return None


def _arrays(tree) -> dict[str, str]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        jax.tree_util.keystr(path).lstrip("."): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in leaves
    }
