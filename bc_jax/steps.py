"""One frame of a video in pure pieces: decide on blocks, execute them, settle, learn.

`Steps` holds them as functions of a `RunnerState`, and `step`, all of them in one program of a
fixed capacity, for `jax.lax.scan`. `bc_jax.runner` is the object for a loop in Python.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bc_jax import policy as policies
from bc_jax.logits import check_whole_blocks, only_array, reduced
from bc_jax.policy import Gain, Observation, PolicyConfig, PolicyState
from bc_jax.policy.baselines import NAMES as BASELINES
from bc_jax.policy.inputs import resize_nearest
from bc_jax.runner_state import Decision, Outcome, RunnerState
from bc_jax.sparse import BlockCopy, Blocks, FrameState, split


def whole_streams(frames) -> jax.Array:
    """Bool [N]: the streams whose frame, of [N, H, W, 3], has no pixel that is not finite."""
    if not jnp.issubdtype(frames.dtype, jnp.floating):
        return jnp.ones(frames.shape[:1], bool)
    return jnp.isfinite(frames).all(axis=(1, 2, 3))


@dataclasses.dataclass(frozen=True, eq=False)
class Steps:
    """The pieces of one frame, pure in the state; all of them run under jit, scan and vmap.

    Attributes:
        sparse: the block-sparse network.
        policy: settings of a policy that learns, or the name of one that does not (`BASELINES`).
        target: fraction of the blocks that a baseline executes.
        train_interval: `step` learns at every so many frames.
        logits: from the network's outputs to logits [N, h, w, classes].
        gain: how a policy that learns measures what blocks gain; None is by these logits.
        fill: whether a policy that learns fills a capacity with its next choices.
    """

    sparse: BlockCopy
    policy: PolicyConfig | str
    target: float = 0.3
    train_interval: int = 3
    logits: Callable[[Any], jax.Array] = only_array
    gain: Gain | None = None
    fill: bool = True

    def __post_init__(self):
        """Raises ValueError for an unknown policy, and for what cannot be; TypeError likewise."""
        if not callable(self.logits):
            raise TypeError(
                f"logits is {self.logits!r}; it is a function from the network's outputs to logits "
                "[N, h, w, classes]"
            )
        if self.gain is not None and not isinstance(self.gain, Gain):
            raise TypeError(f"gain is {self.gain!r}; it is a bc_jax.policy.Gain(keep, compare)")
        every = self.train_interval
        if isinstance(every, bool) or not isinstance(every, int | np.integer) or every < 1:
            raise ValueError(f"train_interval is {every!r}; it is 1 frame or more, whole")
        if not isinstance(self.target, jax.core.Tracer) and not 0 <= self.target <= 1:
            raise ValueError(f"target is {self.target}; it is a fraction of the blocks, 0 to 1")
        if not self.learns and self.policy not in BASELINES:
            raise ValueError(
                f"no policy is named {self.policy!r}; there are {', '.join(BASELINES)}"
            )

    @property
    def learns(self) -> bool:
        """Whether the policy is one that learns."""
        return isinstance(self.policy, PolicyConfig)

    @functools.cached_property
    def _policy(self) -> PolicyConfig:
        # What is seen is already at the resolution where gain is measured.
        return dataclasses.replace(self.policy, gain_scale=1.0)

    def policy_macs(self, state: RunnerState) -> int:
        """Multiply-accumulates of one look of the policy; a third of those of one that learns."""
        if not self.learns:
            return 0
        observation = jax.eval_shape(self._observe, state, state.frame_state.frames)
        return policies.policy_macs(observation, self._policy)

    def init(self, key: jax.Array, params, frames) -> RunnerState:
        """A state in which nothing has been executed or learnt.

        Args:
            key: for the policy's parameters and its sampling.
            params: the network's.
            frames: [N, H, W, 3]; only shape and dtype matter.

        Raises:
            ValueError: the policy looks at what blocks gain, and no whole number of the logits'
                rows and columns is a block's.
        """
        policy_key, key = jax.random.split(key)
        grid_shape = self.sparse.grid_shape(frames)
        frame_state = self.sparse.init(params, frames)
        state = RunnerState(
            frame_state=frame_state,
            policy=None,
            seen=self._see(frame_state),
            kept=self._nothing_kept(frame_state, grid_shape),
            age=jnp.zeros(grid_shape, jnp.int32),
            running_gain=jnp.full(grid_shape, policies.FIRST_GAIN, jnp.float32),
            missing=jnp.ones(grid_shape, bool),
            key=key,
            carry=jnp.float32(0),
            frame=jnp.int32(0),
            skipped_frames=jnp.zeros(grid_shape[:1], jnp.int32),
        )
        if self.policy == "oracle" or (self.learns and not self.gain):
            check_whole_blocks(state.seen, frames, grid_shape[1:])
        if not self.learns:
            return state
        observation = self._observe(state, jnp.zeros(frames.shape, frames.dtype))
        return state.replace(policy=policies.init(policy_key, observation, self._policy))

    def decide(
        self, state: RunnerState, frames, reset=None, *, dense=None, count=None, learns=False
    ):
        """Let the policy look at the frames and draw a grid.

        Args:
            state: of the frame before.
            frames: [N, H, W, 3], uint8 or float. A stream with a pixel that is not finite is left
                out: nothing of it is executed, and its last output stands.
            reset: bool [N], True where a stream begins anew with this frame.
            dense: logits [N, h, w, classes] of the dense network, for the oracle.
            count: int [], blocks that a baseline executes over all streams, in place of its target.
            learns: whether `learn` follows, static: the decision then keeps what that needs, and
                the policy looks at the frame once instead of twice.

        Returns:
            The state, with new randomness, and the Decision.
        """
        reset = jnp.zeros(frames.shape[:1], bool) if reset is None else jnp.asarray(reset)
        again = reset.reshape(-1, 1, 1)
        state = state.replace(
            missing=state.missing | again,
            age=jnp.where(again, 0, state.age),
            running_gain=jnp.where(again, policies.FIRST_GAIN, state.running_gain),
        )
        whole = whole_streams(frames)
        observation = self._observe(state, frames)
        key, now = jax.random.split(state.key)
        carry, looked = state.carry, None
        if self.learns:
            if learns:
                looked = policies.look(state.policy, observation, self._policy)
                scores = looked.logits
            else:
                scores = policies.logits(state.policy, observation, self._policy)
            sampled = policies.sample_grid(now, scores)
        else:
            dense = None if dense is None else self._reduce(dense, frames)
            observation = observation.replace(outputs=dense)
            sampled, carry = self._baseline(now, state, frames, dense, count)
            scores = sampled.astype(jnp.float32)
        allowed = whole.reshape(-1, 1, 1)
        wanted = (sampled | state.missing) & allowed
        decision = Decision(
            observation=observation,
            scores=scores,
            sampled=sampled,
            required=state.missing & allowed,
            allowed=allowed,
            counts=whole & ~state.missing.any(axis=(1, 2)),
            count=wanted.sum(dtype=jnp.int32),
            looked=looked,
        )
        skipped = state.skipped_frames + (~whole).astype(jnp.int32)
        return state.replace(key=key, carry=carry, skipped_frames=skipped), decision

    def execute(
        self, params, state: RunnerState, decision: Decision, frames, *, capacity: int | None
    ):
        """Run the network on the blocks decided, as many as `capacity`, and measure the gain.

        Args:
            params: the network's.
            state: what `decide` returned.
            decision: likewise.
            frames: the same frames.
            capacity: K, static. A policy that learns fills spare room, see `fill`. None
                runs all blocks, whatever was decided, which is faster than as many blocks are.

        Returns:
            The state after the frame, and the Outcome.
        """
        grid = None
        if capacity is not None:
            grid, frames = self.choose(decision, frames, capacity=capacity)
        frame_state = self.sparse.advance(
            params, state.frame_state, frames, grid, capacity=capacity
        )
        state, outcome = self.settle(state, decision, frame_state, capacity=capacity)
        return state.replace(frame_state=frame_state), outcome

    def choose(self, decision: Decision, frames, *, capacity: jax.Array | int):
        """The grid [N, Gh, Gw] that fits the capacity, and the frames with no pixel that is NaN."""
        wanted = (decision.sampled | decision.required) & decision.allowed
        filled = policies.fill_capacity(
            wanted,
            jnp.where(decision.allowed, decision.scores, -jnp.inf),
            capacity=capacity,
            required=decision.required,
        )
        # A policy to compare with executes what it says, and no more.
        grid = filled & (decision.allowed if self.learns and self.fill else wanted)
        if jnp.issubdtype(frames.dtype, jnp.floating):  # others are always allowed
            frames = jnp.where(decision.allowed[..., None], frames, jnp.zeros((), frames.dtype))
        return grid, frames

    def settle(
        self,
        state: RunnerState,
        decision: Decision,
        frame_state: FrameState,
        *,
        capacity: int | None,
    ):
        """Measure what the execution gained; all of the next state but its `frame_state`.

        Args:
            state: what `decide` returned.
            decision: likewise.
            frame_state: after the execution.
            capacity: K, static, that it was executed with; None for all blocks.

        Returns:
            The state, and the Outcome.
        """
        grid = frame_state.grid
        seen = self._see(frame_state)
        if self.policy == "oracle":
            executed = resize_nearest(grid[..., None], seen.shape[1:3])
            seen = jnp.where(executed, decision.observation.outputs, state.seen)
        gain = jnp.zeros(grid.shape, jnp.float32)
        policy, running_gain, kept = state.policy, state.running_gain, self._keep(frame_state)
        if self.learns:
            if self.gain:
                gain = self.gain.of_blocks(state.kept, kept, grid)
            else:
                gain = self._gain(state.seen, seen, grid, capacity or grid.size)
            # All of a stream's first frame is new: that tells nothing of its blocks.
            counts = decision.counts[:, None, None]
            running_gain = policies.next_running_gain(running_gain, grid & counts, gain)
            policy = policies.track(policy, grid, self._policy, weight=decision.counts)
        state = state.replace(
            policy=policy,
            seen=seen,
            kept=kept,
            age=policies.next_age(state.age, grid),
            running_gain=running_gain,
            missing=state.missing & ~grid,
            frame=state.frame + 1,
        )
        return state, Outcome(grid, seen, gain)

    def learn(self, policy: PolicyState, decision: Decision, outcome: Outcome):
        """One REINFORCE step; returns the policy's new state and metrics, float32 scalars."""
        return policies.learn(
            policy,
            decision.observation,
            decision.sampled,
            outcome.grid,
            outcome.seen,
            self._policy,
            weight=decision.counts,
            gain=outcome.gain,
            looked=decision.looked,
        )

    def step(self, params, state: RunnerState, frames, reset=None, *, capacity: int | None):
        """Decide, execute and, at every `train_interval`-th frame, learn: one program.

        Returns:
            The next state, and the Outcome; the outputs are `state.frame_state.outputs`.
        """
        policy = state.policy
        state, decision = self.decide(state, frames, reset)
        state, outcome = self.execute(params, state, decision, frames, capacity=capacity)
        if not self.learns:
            return state, outcome

        def learnt(now):
            # Looked at once more, in these frames alone: a look to learn from is dear to keep.
            looked = policies.look(policy, decision.observation, self._policy)
            return self.learn(now, decision.replace(looked=looked), outcome)[0]

        due = state.frame % self.train_interval == 0
        return state.replace(
            policy=jax.lax.cond(due, learnt, lambda kept: kept, state.policy)
        ), outcome

    def frame(
        self,
        params,
        state: RunnerState,
        frames,
        reset=None,
        *,
        capacity: int | None,
        learns: bool = False,
        **options,
    ):
        """Decide, execute and, where it is said, learn: as `step`, for a loop in Python.

        Args:
            params: the network's, or what `BlockCopy.prepare` made of them.
            state: of the frame before.
            frames: [N, H, W, 3].
            reset: bool [N], True where a stream begins anew with this frame.
            capacity: K, static, or None, as `execute` has it. Of more blocks those run that are
                required, then the likeliest.
            learns: whether the policy learns from this frame, static.
            **options: of `decide`.

        Returns:
            The next state, the Decision without what was looked at, the Outcome without what was
            seen, which the state has, and the metrics of learning, an empty dict where nothing is
            learnt.
        """
        state, decision = self.decide(state, frames, reset, learns=learns, **options)
        state, outcome = self.execute(params, state, decision, frames, capacity=capacity)
        metrics = {}
        if learns:
            learnt, metrics = self.learn(state.policy, decision, outcome)
            state = state.replace(policy=learnt)
        decision = decision.replace(observation=None, looked=None)
        return state, decision, outcome.replace(seen=None), metrics

    def _gain(self, before: jax.Array, after: jax.Array, grid: jax.Array, capacity: int):
        """What each executed block gained, and 0 for the others: float32 [N, Gh, Gw]."""
        blocks = Blocks.of(grid, capacity=capacity)
        tiles = (split(seen, blocks) for seen in (before, after))
        gain = policies.information_gain(*tiles, (1, 1), self._policy).reshape(-1)
        none = jnp.zeros(blocks.total, jnp.float32)
        return none.at[blocks.index].set(gain, mode="drop").reshape(grid.shape)

    def _keep(self, frame_state: FrameState):
        """What a gain of one's own compares with the next frame's."""
        return self.gain.keep(frame_state.outputs) if self.learns and self.gain else None

    def _nothing_kept(self, frame_state: FrameState, grid_shape):
        """The same, zeros; what the gain cannot say of these outputs, it says here."""
        shapes = jax.eval_shape(self._keep, frame_state)
        if self.learns and self.gain:
            grid = jax.ShapeDtypeStruct(grid_shape, bool)
            jax.eval_shape(self.gain.of_blocks, shapes, shapes, grid)
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def _see(self, frame_state: FrameState) -> jax.Array:
        """The logits at the resolution where gain is measured: every so many rows and columns."""
        return self._reduce(self.logits(frame_state.outputs), frame_state.frames)

    def _reduce(self, logits, frames) -> jax.Array:
        if not self.learns and self.policy != "oracle":
            return logits[:, :1, :1]  # nothing is looked at
        scale = self.policy.gain_scale if self.learns else 0.25
        grid = self.sparse.grid_shape(frames)[1:]
        return reduced(logits, rows=frames.shape[1], grid=grid, scale=scale)

    def _observe(self, state: RunnerState, frames) -> Observation:
        # The policy looks at a fraction of the pixels: half are plenty, and cheap to keep.
        every = 1 if any(side % 2 for side in self.sparse.block_size) else 2
        return Observation(
            frames=frames[:, ::every, ::every],
            frame_state=state.frame_state.frames[:, ::every, ::every],
            outputs=state.seen,
            grid=state.frame_state.grid,
            age=state.age,
            running_gain=state.running_gain,
        )

    def _baseline(self, key, state: RunnerState, frames, dense, count):
        blocks = state.age.size
        return policies.baseline_grid(
            self.policy,
            key,
            state.carry,
            frames=frames,
            frame_state=state.frame_state.frames,
            outputs=state.seen,
            age=state.age,
            grid_shape=state.age.shape[1:],
            target=self.target if count is None else count / blocks,
            dense=dense,
        )
