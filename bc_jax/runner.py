"""A network on a video: policy, block-sparse network and learning, frame by frame.

`Runner` is the object for a loop in Python: it reads one number a frame back, the blocks to
execute, and picks the smallest compiled capacity that holds them. What it does with a frame is in
`bc_jax.steps`, as pure functions.
"""

import time
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bc_jax.compiled_steps import CompiledSteps
from bc_jax.logits import only_array
from bc_jax.policy import Gain, PolicyConfig
from bc_jax.policy.inputs import warn_of_range
from bc_jax.runner_state import begun_anew, check, shape_of, written_into
from bc_jax.sizes import Sizes, blocks_of
from bc_jax.sparse import BlockCopy, Prepared, blockcopy
from bc_jax.sparse.transform import one_array
from bc_jax.steps import BASELINES, Decision, Outcome, RunnerState, Steps, whole_streams

__all__ = ["BASELINES", "Decision", "Outcome", "Runner", "RunnerState", "Steps"]


class Runner:
    """A network on a video: `outputs = runner(frames)`.

    The state, `runner.state`, is an explicit pytree: save it, put it back, give it to another. It
    is that of the last frame until the next one is run, which writes into it.

    Attributes:
        steps: the pieces of a frame, `Steps`; `steps.sparse` is the block-sparse network.
        learning: whether the policy learns; it can be set.
        outcome: of the last frame: `grid`, the blocks executed, and `gain`, what each has gained,
            both [N, Gh, Gw]. None before the first, as `decision` is.
        decision: of the last frame: `scores`, the blocks' logits, and `sampled`, the blocks drawn.
        metrics: of the last frame that was learnt from, name -> float32 scalar.
        times: seconds that the last frame's parts took: `policy`, `network`, `learning`; with a
            `capacity`, all of it is `network`.
        compiled: what the last frame was the first to need, and so what it compiled.
    """

    def __init__(
        self,
        apply_fn: Callable | BlockCopy,
        params,
        *,
        block_size: int | tuple[int, int] = 128,
        policy: PolicyConfig | str | None = None,
        target: float = 0.3,
        train_interval: int = 3,
        learning: bool = True,
        capacity_steps: int = 16,
        capacity: float | None = None,
        background: bool = False,
        logits: Callable[[Any], jax.Array] | None = None,
        gain: Gain | None = None,
        seed: int = 0,
        timed: bool = True,
        on_compile: Callable[[str], None] | None = None,
    ):
        """Nothing is compiled before the first frame.

        Args:
            apply_fn: `apply_fn(params, frames)`, see `blockcopy`; or what `blockcopy` returned,
                whose compiled programs are then shared with others that are given the same.
            params: its parameters.
            block_size: pixels per block, or (height, width); what `blockcopy` returned has its own.
            policy: settings of a policy that learns; None takes the default for `target`; or the
                name of one that does not: all, none, random, static, difference, oracle.
            target: fraction of the blocks to execute, where `policy` does not say it.
            train_interval: the policy learns from every `train_interval`-th frame.
            learning: False only applies what was learnt.
            capacity_steps: how many sizes programs are compiled for, each when first needed. With
                no more blocks than these, a frame of which none is drawn runs nothing.
            capacity: blocks to execute in every frame but those in which a stream begins: their
                number over all streams, or, as a float, their share of all blocks. A frame is then
                one program whose cost is always the same, and nothing is read back. Where fewer
                blocks are sampled, the next most probable fill it; where more are, the least
                probable wait. None executes what is sampled.
            background: compile what every stream needs in the first frame, and the network for
                other sizes in another thread when they are first needed. Until a frame's own
                program is there it runs in that of the next larger size, which gives the same but
                for rounding. So no frame but the first waits for the compiler.
            logits: from the network's outputs to logits [N, h, w, classes], where the network
                returns something else.
            gain: how to measure what blocks gain, for outputs that are not class logits; None
                compares the logits, as `policy` says.
            seed: of the policy's parameters and sampling.
            timed: whether to wait for each part, so that `times` has what it took. Without, a GPU
                works ahead, and only the count of blocks is waited for.
            on_compile: called with the name of what is about to be compiled.

        Raises:
            ValueError: `policy` names none, or `target`, `train_interval`, `capacity_steps` or
                `block_size` is out of range.
            TypeError: `apply_fn` or `logits` is no function, or `gain` no `Gain`.
        """
        if capacity_steps < 1:
            raise ValueError(f"capacity_steps is {capacity_steps}; it is 1 or more")
        policy = PolicyConfig(target=target) if policy is None else policy
        self._params = params
        sparse = apply_fn if isinstance(apply_fn, BlockCopy) else blockcopy(apply_fn, block_size)
        self.steps = Steps(sparse, policy, target, train_interval, logits or only_array, gain)
        self.learning = learning and self.steps.learns
        self._state: RunnerState | None = None
        self._frames: int | None = None  # that the state has seen; None where that is to be read
        self.decision: Decision | None = None
        self.outcome: Outcome | None = None
        self.metrics: dict[str, jax.Array] = {}
        self.times: dict[str, float] = {}
        # What the last frame was the first to need, and what was compiled meanwhile.
        self.compiled: tuple[str, ...] = ()
        self._key = jax.random.key(seed)
        self._capacity_steps = capacity_steps
        self._capacity = capacity
        self._background = background
        self._wait = jax.block_until_ready if timed else lambda results: results
        self._on_compile = on_compile or (lambda what: None)
        self._known: set[str] = set()
        self._pieces = CompiledSteps(self.steps)
        self._prepare = jax.jit(sparse.prepare)
        self._prepared: Prepared | None = None
        self._sizes: Sizes | None = None
        self._goes_on: jax.Array | None = None  # `reset` where no stream begins
        self._begun = False  # whether all streams are known to have begun
        self._at_work = False  # whether a frame has begun that has not come to its end

    @property
    def params(self):
        """The network's parameters; others need another Runner."""
        return self._params

    @property
    def state(self) -> RunnerState | None:
        """All that carries over to the next frame; None before the first.

        It is valid until the next call, which writes into it: `jax.tree.map(jnp.copy, state)` keeps
        it. What is put in its place is copied, and stays whole.
        """
        self._mend()
        return None if self._state is None else self._pieces.unpacked(self._state)

    @state.setter
    def state(self, state: RunnerState | None):
        if state is not None:
            check(state, lambda frames: self.steps.init(self._key, self._params, frames))
            state = self._pieces.packed(jax.tree.map(jnp.copy, state))
        self._state = state
        self._frames, self._begun, self._at_work = None, False, False

    def __reduce_ex__(self, protocol):
        """Not to be copied or pickled: the next frame writes into its arrays."""
        raise TypeError("copy or pickle runner.state, not the Runner: another Runner takes it")

    def start(self, frames) -> RunnerState:
        """The state before the first frame; frames [N, H, W, 3] give shape and dtype."""
        return self._pieces.unpacked(self._pieces.init(self._key, self._params, frames))

    def __call__(self, frames, reset=None, *, dense=None, count=None):
        """Run one frame of each stream.

        Args:
            frames: [H, W, 3] or [N, H, W, 3], uint8 or float in [0, 1]; whole blocks, see
                `bc_jax.data.pad_to_blocks`.
            reset: bool [N], True where a stream begins anew with this frame.
            dense: logits [N, h, w, classes] of the dense network, for the oracle alone.
            count: blocks that a baseline executes over all streams, in place of its target.

        Returns:
            The network's outputs for [N, H, W, 3]. They are valid until the next call, which
            writes into them: copy what you keep.

        A frame that ends early, by Ctrl-C or an error, may have written into the state: then all
        streams begin anew with the next one, by what was learnt where that is whole, and a warning
        says so.

        Raises:
            ValueError: frames of another shape or dtype than the first ones', or not of whole
                blocks; `reset` has not one value for each stream; `capacity` is not from 1 to all
                blocks, or a share of them; or see `Steps.init`.
            TypeError: frames are several arrays.
        """
        frames = one_array(frames)
        frames = frames[None] if frames.ndim == 3 else frames
        if np.shape(reset) not in ((), frames.shape[:1]):
            raise ValueError(
                f"reset has shape {np.shape(reset)}, and frames are of {len(frames)} streams, each "
                "of which it says whether it begins; frames are one array, in which several inputs "
                "are joined along the channels"
            )
        total = int(np.prod(self.steps.sparse.grid_shape(frames)))
        capacity = None if self._capacity is None else blocks_of(self._capacity, total)
        self.compiled = ()
        self._mend()
        if self._state is None:
            self._notice("state")
            self.steps.sparse.explain(self._params, frames)  # warns where nothing is to be gained
            warn_of_range(frames)
            self._state = self._pieces.init(self._key, self._params, frames)
        kept = self._state.frame_state.frames
        if frames.shape != kept.shape or frames.dtype != kept.dtype:
            raise ValueError(
                f"frames are {frames.dtype}{list(frames.shape)} and were "
                f"{kept.dtype}{list(kept.shape)} before; begin a new Runner for others"
            )
        options = {"dense": dense, "count": None if count is None else np.int32(count)}
        if self._prepared is None:
            self._prepared = self._prepare(self._params, frames)
            self._sizes = Sizes(total, self._capacity_steps)
            self._goes_on = jnp.zeros(frames.shape[0], bool)
            if self._background:
                self._rehearse(frames, {total} if capacity is None else {capacity, total}, options)
        begins = reset is not None and np.any(reset)
        reset = np.broadcast_to(np.asarray(reset, bool), len(frames)) if begins else self._goes_on
        frame = 1 + (int(self._state.frame) if self._frames is None else self._frames)
        learns = self.learning and frame % self.steps.train_interval == 0
        self._at_work = True
        if capacity is None:
            outputs = self._run_in_parts(frames, reset, learns, options)
        else:
            if self._begins(frames, begins):
                capacity = self._to_begin(frames, reset, total)
            outputs = self._run_at_once(frames, reset, learns, capacity, options)
        self._frames, self._at_work = frame, False
        return outputs

    def _mend(self) -> None:
        """Begin anew where the last frame ended early, after it had written into the state."""
        if not self._at_work:
            return
        self._frames, self._begun, self._at_work = None, False, False
        old = self._state
        if not written_into(old):
            return
        frames = old.frame_state.frames
        new = self._pieces.init(self._key, self._params, jnp.zeros(frames.shape, frames.dtype))
        self._state = begun_anew(old, new)
        forgotten = self.steps.learns and self._state.policy is new.policy
        warnings.warn(
            "the last frame ended early, and had written into the state: all streams begin anew"
            + (", and what the policy had learnt is lost" if forgotten else ""),
            stacklevel=3,
        )

    def _rehearse(self, frames, capacities: set[int], options: dict) -> None:
        """Compile what every stream needs, by frames of which nothing stays."""
        kept, metrics, frames = self._state, self.metrics, jnp.zeros_like(frames)
        all_begin = jnp.ones(len(frames), bool)
        try:
            for capacity in capacities:
                for learns in {False, self.learning}:
                    self._state = jax.tree.map(jnp.copy, kept)
                    if self._capacity is None:
                        self._run_in_parts(frames, all_begin, learns, options)
                    else:
                        self._run_at_once(frames, all_begin, learns, capacity, options)
        except BaseException:
            self._prepared = None  # so that the next frame does all of this
            raise
        finally:
            self._state, self.metrics = kept, metrics

    def _begins(self, frames, reset: bool) -> bool:
        """Whether a stream begins with this frame: by `reset`, or as its first ones were left out.

        Whether one has waited is read back until all are known to have begun.
        """
        if reset:
            self._begun = False
        if reset or self._begun:
            return reset
        missing = np.asarray(self._state.missing).any((1, 2))
        self._begun = not missing.any()
        return not self._begun and bool((missing & np.asarray(whole_streams(frames))).any())

    def _to_begin(self, frames, reset, total: int) -> int | None:
        """The capacity of a frame with which a stream begins; None where all blocks run."""
        fills = self.steps.learns or np.all(reset) or self._state.missing.all()
        return None if not self._background and fills and whole_streams(frames).all() else total

    def _run_at_once(self, frames, reset, learns: bool, capacity: int | None, options: dict):
        """One program, of a capacity."""
        size = "all" if capacity is None else capacity
        self._notice(f"frame of {size} blocks{' that is learnt from' if learns else ''}")
        clock = time.perf_counter()
        self.times = {"policy": 0.0, "learning": 0.0}
        results = self._pieces.frame(
            self._prepared, self._state, frames, reset, capacity=capacity, learns=learns, **options
        )
        self._state, self.decision, self.outcome, metrics = results
        self.metrics = metrics or self.metrics
        self._wait(results)
        self._lap("network", clock)
        return self._state.frame_state.outputs

    def _run_in_parts(self, frames, reset, learns: bool, options: dict):
        """Look, read the count of blocks back, and run the smallest program that holds them."""
        self._notice("policy that learns" if learns else "policy")
        clock = time.perf_counter()
        after, decision = self._pieces.decide(self._state, frames, reset, learns=learns, **options)
        self.decision = decision.replace(looked=None)
        wanted = int(decision.count)  # the one number that is read back
        capacity, grid = self._sizes.fitting(wanted), None
        if not self._all_run(capacity, wanted):
            grid, frames = self._pieces.choose(self.decision, frames, capacity=capacity)
        if self._background:
            capacity = self._room(capacity, after, frames, grid)
        clock, memory = self._lap("policy", clock), self._state.frame_state
        if wanted or not self._sizes.exact:
            self._notice(f"network for {'all' if grid is None else capacity} blocks")
            # The network writes into the memory, so that this state cannot be used again.
            memory = self.steps.sparse.compiled(
                self._prepared, memory, frames, grid, capacity=capacity
            )
        else:
            memory = memory.replace(grid=jnp.zeros_like(self.decision.sampled))
        self._wait(memory)
        clock = self._lap("network", clock)
        self._state, self.outcome = self._pieces.settle(
            after, self.decision, memory, capacity=capacity
        )
        self._wait(self.outcome)
        self.times["policy"] += time.perf_counter() - clock
        self.times["learning"] = 0.0
        if learns:
            clock = time.perf_counter()
            learnt, self.metrics = self._pieces.learn(self._state.policy, decision, self.outcome)
            self._state = self._state.replace(policy=learnt)
            self._wait(learnt)
            self._lap("learning", clock)
        return memory.outputs

    def _all_run(self, capacity: int, wanted: int) -> bool:
        """Whether all blocks run, as wanted or to fill the capacity, so that no grid is needed."""
        total = self._state.missing.size
        if capacity < total or self._background:  # whose program for all is one for fewer too
            return False
        return wanted == total or (self.steps.learns and bool(self.decision.allowed.all()))

    def _room(self, capacity: int, after: RunnerState, frames, grid) -> int:
        """The capacity, or a larger one whose program is there while its own is compiled."""
        sizes = self._sizes
        room = sizes.room(capacity)
        if room == capacity:
            sizes.add(capacity)
        elif sizes.lacks(capacity):
            sizes.compile(capacity, self._compiling(capacity, after, frames, grid))
            self._on_compile(f"network for {capacity} blocks, in the background")
        if sizes.compiling is not None:
            self.compiled += (f"network for {sizes.compiling} blocks",)
        return room

    def _compiling(self, capacity: int, after: RunnerState, frames, grid) -> Callable[[], None]:
        """What compiles a capacity's programs for arrays like these, none of which it holds."""
        given = (self._prepared, self._state.frame_state, frames, grid, after, self.decision)
        prepared, memory, frames, grid, after, decision = jax.tree.map(shape_of, given)

        def compile_both():
            program = self.steps.sparse.compiled
            program.lower(prepared, memory, frames, grid, capacity=capacity).compile()
            self._pieces.lower_settle(after, decision, memory, capacity=capacity).compile()

        return compile_both

    def _lap(self, part: str, since: float) -> float:
        now = time.perf_counter()
        self.times[part] = now - since
        return now

    def _notice(self, what: str) -> None:
        if what not in self._known:
            self._known.add(what)
            self.compiled += (what,)
            self._on_compile(what)
