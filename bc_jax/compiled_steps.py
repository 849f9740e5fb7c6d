"""The pieces of a frame, each compiled to a program that takes and returns little."""

import functools
import operator
from collections.abc import Callable

import jax
from flax import struct

from bc_jax import lowering
from bc_jax.forwarding import forwarding_jit
from bc_jax.packing import Packed, pack, unpack
from bc_jax.policy import PolicyState
from bc_jax.runner_state import Decision, RunnerState
from bc_jax.sparse import FrameState, Prepared, compiler_options
from bc_jax.steps import Steps


@struct.dataclass
class PackedPolicy:
    """A policy's state, its many arrays as one.

    Attributes:
        learnt: what a step of learning changes.
        rest: the state with None in place of that.
    """

    learnt: Packed
    rest: PolicyState


class CompiledSteps:
    """The pieces of `Steps`, compiled; what they return as it came is not copied.

    Where they are packed, states have a `PackedPolicy` from `init` on: `unpacked` opens one.
    """

    def __init__(self, steps: Steps, *, packed: bool | None = None):
        """Nothing is compiled before it is called.

        Args:
            steps: the pieces.
            packed: whether the policy's arrays are put together, which a GPU's host gains from and
                a CPU loses by; None asks the backend.
        """

        def decide(*args, **options):
            state, decision = steps.decide(*args, **options)
            return state.replace(frame_state=None), decision

        self.steps = steps
        packs = (lowering.on_gpu() if packed is None else packed) and steps.learns
        whole = _on_packed if packs else lambda function: function
        options = {"compiler_options": compiler_options()}
        # The network's memory is updated in place while what came of a frame is still looked at.
        forwarding = options | {"copied": FrameState}
        self.init = jax.jit(whole(steps.init), compiler_options=compiler_options(once=True))
        self.decide = forwarding_jit(whole(decide), static=("learns",), **forwarding)
        self.choose = forwarding_jit(steps.choose, **forwarding)
        self._settle = forwarding_jit(whole(steps.settle), static=("capacity",), **forwarding)
        self.learn = forwarding_jit(whole(steps.learn), **forwarding)
        self.frame = lowering.jit(
            whole(steps.frame),
            prepared=Prepared,
            static_argnames=("capacity", "learns"),
            donate_argnums=1,
            keep_unused=True,  # a state that is written alone is written in place too
        )
        self._pack = jax.jit(_pack_policy) if packs else lambda policy: policy
        self._unpack = jax.jit(_unpack_policy) if packs else lambda policy: policy

    def settle(self, state: RunnerState, decision: Decision, memory: FrameState, *, capacity: int):
        """`Steps.settle` of what `decide` returned, and the next state with its memory."""
        state, outcome = self._settle(state, decision, memory, capacity=capacity)
        return state.replace(frame_state=memory), outcome

    def lower_settle(self, *args, capacity: int) -> jax.stages.Lowered:
        """The program of `settle`, for arrays or their shapes, to be compiled."""
        return self._settle.lower(*args, capacity=capacity)

    def packed(self, state: RunnerState) -> RunnerState:
        """A state as these programs take it."""
        return state.replace(policy=self._pack(state.policy))

    def unpacked(self, state: RunnerState) -> RunnerState:
        """A state as everyone else has it."""
        return state.replace(policy=self._unpack(state.policy))


# The fields of a policy's state that learning changes.
_LEARNT = ("params", "batch_stats", "opt_state")


def _learnt(policy: PolicyState) -> dict:
    return {name: getattr(policy, name) for name in _LEARNT}


def _pack_policy(policy: PolicyState, learnt: Packed | None = None) -> PackedPolicy:
    """The state packed; `learnt`, where what learning changes is packed already."""
    learnt = pack(_learnt(policy)) if learnt is None else learnt
    return PackedPolicy(learnt, policy.replace(**dict.fromkeys(_LEARNT)))


def _unpack_policy(policy: PackedPolicy) -> PolicyState:
    return policy.rest.replace(**unpack(policy.learnt))


def _same(tree, other) -> bool:
    """Whether two pytrees have the very same arrays."""
    leaves, others = jax.tree.leaves(tree), jax.tree.leaves(other)
    return len(leaves) == len(others) and all(map(operator.is_, leaves, others))


def _on_packed(function: Callable) -> Callable:
    """A function of pytrees with policies, of and to such with packed ones."""

    @functools.wraps(function)
    def call(*arguments, **names):
        opened = []

        def unpacked(x):
            if not isinstance(x, PackedPolicy):
                return x
            opened.append((x, _unpack_policy(x)))
            return opened[-1][1]

        def packed(x):
            if not isinstance(x, PolicyState):
                return x
            # What came as it is need not be copied.
            same = (p.learnt for p, policy in opened if _same(_learnt(x), _learnt(policy)))
            return _pack_policy(x, next(same, None))

        arguments, names = jax.tree.map(
            unpacked, (arguments, names), is_leaf=lambda x: isinstance(x, PackedPolicy)
        )
        results = function(*arguments, **names)
        return jax.tree.map(packed, results, is_leaf=lambda x: isinstance(x, PolicyState))

    return call
