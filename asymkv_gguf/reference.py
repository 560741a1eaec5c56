"""The whole algorithm in NumPy, float64: what the native code is held against, and the place to read it in one sitting.

A KV cache that merges adjacent slots (AsymKV, NeurIPS 2025, arXiv 2506.05410). Data flows down this file:
group -> observation -> key weights -> costs -> greedy plan -> merged group.

Symbols: n slots, H KV heads of the group, R observed queries per KV head, dk and dv channels of a key and of a value.
A *group* is what shares one plan: one KV head (H = 1), or all KV heads of a layer. Slots are called by their index
before the compression; a merged slot keeps the index of its left part.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Score = Literal["mass", "output", "exact", "random", "h2o", "snapkv", "tova", "streaming", "keydiff"]
KeyWeights = Literal["mean", "mass", "slimmer", "fisher"]

SCORES: tuple[Score, ...] = get_args(Score)
KEY_WEIGHTS: tuple[KeyWeights, ...] = get_args(KeyWeights)

TINY = 1e-30  # a denominator below this says nothing: take the next simpler key weights
FILLED = 0.75  # of the span, what slots take when they have moved: text fills the rest before they move again
LEAST_DIVISOR = 1e-12  # rows are never divided by less
LEAST_LEFT = 1e-6  # an operation that leaves a query less of its attention costs |v| + |o|: its exact price is 0/0
ONLY_EVICT = ("h2o", "snapkv", "tova", "streaming", "keydiff")  # scores that order the slots once, and never merge
POOL = 7  # slots over which snapkv takes the maximum
LOGIT_OF_NOTHING = -1e4  # stands for ln 0
MERGE, EVICT = 0, 1  # kinds of operation; at equal cost a merge is done first


@dataclass(frozen=True, kw_only=True)
class Params:
    """How to plan and merge: fields of `struct asymkv_params`. ValueError when one is out of range."""

    score: Score = "exact"
    key_weights: KeyWeights = "fisher"
    evict: bool = True  # `exact`: take the cheaper of merging and evicting
    merge: bool = True  # False: only evict; `exact` and `random`
    max_cardinality: int = 0  # 0: none
    decay: float = 0.0  # `mass` only, in slots; 0: none
    accumulate: float = 0.95  # weight of the scores of earlier compressions
    history: float = 0.15  # `exact` only: weight of what they saw of a slot, per compression; 0: none
    seed: int = 0  # `random` only
    span: int = 0  # 0: positions stay; else the most that slots and the next `room` tokens may span
    room: int = 512

    def __post_init__(self) -> None:
        if self.score not in SCORES or self.key_weights not in KEY_WEIGHTS:
            raise ValueError(f"unknown score {self.score!r} or key_weights {self.key_weights!r}")
        if (
            self.max_cardinality < 0
            or not all(0 <= x < math.inf for x in (self.decay, self.history))
            or not 0 <= self.accumulate <= 1
        ):
            raise ValueError("max_cardinality, decay and history must not be negative, accumulate must lie in [0, 1]")


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """The arrays that share one plan: fields of `struct asymkv_group`. ValueError when shapes or values clash."""

    keys: Floats  # [n, H, dk], after RoPE
    values: Floats  # [n, H, dv], mean value of a slot's tokens
    queries: Floats  # [H, R, dk], after RoPE
    query_positions: Ints  # [R]; a query sees the slots at or before its position
    positions: Floats  # [n], ascending, in tokens; real-valued after a merge
    cardinalities: Ints  # [n], tokens that a slot stands for
    scores: Floats  # [n], accumulated attention mass
    is_protected: NDArray[np.bool_]  # [n]
    rope_freqs: Floats  # [n_rot / 2], radians per position
    rope_neox: bool = False  # rotated pairs are (t, t + n_rot / 2); else (2t, 2t + 1)
    n_rot: int = 0  # rotated channels; 0: no RoPE
    scale: float = 1.0
    softcap: float = 0.0  # 0: none
    is_expired: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))  # [n], or empty: none is
    sink_logits: Floats | None = None  # [H, R], learned attention sinks: scores without a slot; None: the model has none

    def __post_init__(self) -> None:
        n, n_heads, head_k = self.keys.shape
        n_queries = len(self.query_positions)
        shapes = {"values": (n, n_heads, *self.values.shape[2:3]), "queries": (n_heads, n_queries, head_k)}
        shapes |= dict.fromkeys(("positions", "cardinalities", "scores", "is_protected"), (n,))
        if len(self.is_expired) == 0:
            object.__setattr__(self, "is_expired", np.zeros(n, bool))
        shapes |= {"is_expired": (n,), "rope_freqs": (self.n_rot // 2,)}
        shapes |= {} if self.sink_logits is None else {"sink_logits": (n_heads, n_queries)}
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} must have shape {shape}, not {getattr(self, name).shape}")
        if self.n_rot % 2 or not 0 <= self.n_rot <= head_k:
            raise ValueError(f"n_rot must be even and at most {head_k}, not {self.n_rot}")
        if np.any(np.diff(self.positions) < 0) or np.any(self.cardinalities < 1):
            raise ValueError("positions must ascend, and cardinalities must be at least 1")


class Op(NamedTuple):
    """One step of a plan: slot `i` takes in its right neighbour `j`, or leaves when `j` is None."""

    i: int
    j: int | None
    cost: float


class Observation(NamedTuple):
    """What the observed queries see of the slots."""

    mass: Floats  # [n], summed over heads and queries
    a: Floats  # [H, R, n], probabilities; all zeros where a query sees no slot
    o: Floats  # [H, R, dv], outputs


class Result(NamedTuple):
    """A compressed group, and how it came about."""

    ops: list[Op]
    kept: list[int]  # [n_keep], the slots that are left
    group: Group
    n_lost: int  # tokens that no slot counts any more


def rotate(x: ArrayLike, delta: ArrayLike, freqs: ArrayLike, n_rot: int, neox: bool) -> Floats:
    """Keys x [..., dk] moved by delta positions (broadcast over the leading axes): R(delta) x, RoPE's rotation.

    freqs [n_rot / 2] in radians per position; channels from n_rot on stay. Source: RoFormer, arXiv 2104.09864, eq. 34.
    """
    moved = np.array(x, dtype=np.float64)
    first, second = _rope_pairs(n_rot, neox)
    angle = np.asarray(delta, dtype=np.float64)[..., None] * np.asarray(freqs, dtype=np.float64)
    x0, x1 = moved[..., first], moved[..., second]  # fancy indexing copies
    moved[..., first] = x0 * np.cos(angle) - x1 * np.sin(angle)
    moved[..., second] = x0 * np.sin(angle) + x1 * np.cos(angle)
    return moved


def observe(group: Group) -> Observation:
    """Locally merged attention: softmax over scale q.k + ln c of the visible slots (arXiv 2506.05410).

    Where the model has learned sinks a query's probabilities sum to less than one: the rest is the sink's, which has no value.
    Without queries nothing is known, and every slot counts alike.
    """
    n, n_heads, _ = group.keys.shape
    if len(group.query_positions) == 0:
        nothing = np.zeros((n_heads, 0, n))
        return Observation(np.full(n, 1 / n), nothing, np.zeros((n_heads, 0, group.values.shape[2])))
    logits = group.scale * np.einsum("hrd,nhd->hrn", group.queries, group.keys)
    if group.softcap > 0:
        logits = group.softcap * np.tanh(logits / group.softcap)
    is_visible = group.positions <= group.query_positions[:, None]  # [R, n]
    logits = np.where(is_visible, logits + np.log(group.cardinalities), -np.inf)
    sinks = np.full(logits.shape[:2], -np.inf) if group.sink_logits is None else group.sink_logits
    top = np.maximum(logits.max(axis=-1), sinks)
    top = np.where(np.isfinite(top), top, 0.0)
    weights = np.exp(logits - top[..., None])
    total = (weights.sum(axis=-1) + np.exp(sinks - top))[..., None]
    a = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
    return Observation(a.sum(axis=(0, 1)), a, np.einsum("hrn,nhd->hrd", a, group.values))


def attention(group: Group) -> Floats:
    """Outputs [H, R, dv] of the group's queries."""
    return observe(group).o


def costs(group: Group, params: Params) -> tuple[Floats, Floats]:
    """Costs before the first step, of merging with the right neighbour [n] and of evicting [n]; +inf: not allowed."""
    at_start = np.full((2, len(group.positions)), np.inf)
    for (kind, i), cost in _Greedy(group, params).costs.items():
        at_start[kind, i] = cost
    return at_start[MERGE], at_start[EVICT]


def compress(group: Group, params: Params, n_keep: int) -> Result:
    """The group after its cheapest operations, one at a time, until n_keep slots are left.

    ValueError when n_keep is less than there are protected slots, counting also one slot for each run of others when
    nothing may be evicted; and when it is less than one.
    """
    params = _answerable(group, params)
    is_open = ~group.is_protected
    n_runs = int(np.sum(np.diff(is_open.astype(int), prepend=0) > 0))
    n_least = max(1, int(np.sum(group.is_protected)) + (0 if _can_evict(params) else n_runs))
    if n_keep < min(n_least, len(is_open)):
        raise ValueError(f"n_keep must be at least {n_least} here, not {n_keep}")
    greedy, ops = _Greedy(group, params), []
    while len(greedy.slots.order) > n_keep:
        ops.append(greedy.cheapest())
        greedy.do(ops[-1])
    greedy.slots.compact()
    return greedy.slots.result(ops)


def plan(group: Group, params: Params, n_keep: int) -> list[Op]:
    """The operations that `compress` does, in order."""
    return compress(group, params, n_keep).ops


def apply(group: Group, params: Params, ops: list[Op]) -> Result:
    """The group after somebody's operations, whatever they cost. ValueError where one is not allowed."""
    greedy = _Greedy(group, params)
    for op in ops:
        greedy.do(op)
    return greedy.slots.result(ops)


def replay(group: Group, params: Params, ops: list[Op]) -> list[tuple[float, float]]:
    """For each of somebody's operations its cost, and the least cost of any operation at that step.

    A plan is greedy when the two agree; rounding may order ties otherwise than `plan` does. ValueError as in `apply`.
    """
    greedy, steps = _Greedy(group, params), []
    for op in ops:
        steps.append((greedy.cost_of(op), greedy.cheapest().cost))
        greedy.do(op)
    return steps


def _answerable(group: Group, params: Params) -> Params:
    """Without queries all output changes are 0, and the leftmost slot would take in all others, or leave: `mass` shares evenly,
    and where nothing may merge, the least attention so far is evicted."""
    has_no_answer = len(group.query_positions) == 0 and params.score in ("output", "exact")
    return replace(params, score="mass" if params.merge else "h2o") if has_no_answer else params


def _can_evict(params: Params) -> bool:
    if params.score in ONLY_EVICT or not params.merge:
        return True
    return params.evict and params.score == "exact"


def _can_merge(params: Params) -> bool:
    return params.merge and params.score not in ONLY_EVICT


def _priorities(group: Group, params: Params, mass: Floats, scores: Floats, a: Floats) -> Floats:
    """[n]: the least is evicted first. mass [n] of the observed queries, scores [n] accumulated, probabilities a [H, R, n]."""
    n = len(group.positions)
    if params.score == "h2o":  # arXiv 2306.14048
        return scores
    if params.score == "snapkv":  # arXiv 2404.14469
        return np.array([mass[max(i - POOL // 2, 0) : i + POOL // 2 + 1].max() for i in range(n)])
    if params.score == "tova" and len(group.query_positions):  # arXiv 2401.06104
        last: Floats = a[:, group.query_positions == group.query_positions.max()].sum(axis=(0, 1))
        return last
    if params.score == "streaming":  # arXiv 2309.17453
        return np.arange(n, dtype=np.float64)
    if params.score == "keydiff":  # arXiv 2504.15364
        direction = group.keys / np.maximum(np.linalg.norm(group.keys, axis=-1, keepdims=True), TINY)
        mean = direction.sum(axis=0)
        mean /= np.maximum(np.linalg.norm(mean, axis=-1, keepdims=True), TINY)
        return np.asarray(direction.shape[1] - (direction * mean).sum(axis=(1, 2)))
    return np.zeros(n)


def _rope_pairs(n_rot: int, neox: bool) -> tuple[Ints, Ints]:
    t = np.arange(n_rot // 2)
    return (t, t + n_rot // 2) if neox else (2 * t, 2 * t + 1)


def compressions(params: Params, age: Floats) -> Floats:
    """How many compressions a slot of that age in tokens has been in, weighed as its score weighs them [n]."""
    n = np.maximum(age / params.room, 1)  # `room` tokens come between two
    a = params.accumulate
    return (1 - a**n) / (1 - a) if a < 1 else n


def _uniform_hash(x: int) -> float:
    # splitmix64 (Steele et al., OOPSLA 2014), as a number in [0, 1)
    z = (x + 0x9E3779B97F4A7C15) % 2**64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
    return float((z ^ (z >> 31)) >> 11) * 2.0**-53


class _Slots:
    """The slots of a group while operations change them."""

    def __init__(self, group: Group, params: Params) -> None:
        self.group, self.params = group, params
        self.order, self.n_lost = list(range(len(group.positions))), 0  # the live slots; tokens lost
        self.n_leading = int(np.argmin(np.append(group.is_protected, False)))  # protected slots at the front
        self.k, self.v = group.keys.astype(np.float64), group.values.astype(np.float64)
        self.p, self.c = group.positions.astype(np.float64), group.cardinalities.astype(np.int64)
        mass, self.a, self.o = observe(group)  # `a` follows the operations, `o` stays
        per_token = self.a / self.c  # may underflow to 0
        self.logits = np.log(per_token, out=np.full_like(per_token, LOGIT_OF_NOTHING), where=per_token > 0)  # as `a`
        past = params.accumulate * group.scores
        self.mass = past + mass  # A
        self.history = params.history * past / compressions(params, self.p[-1] - self.p)
        self.all_mass = max(float(self.mass.sum()), TINY)
        self.mean_output = np.einsum("n,nhd->hd", self.mass / self.all_mass, self.v)  # slimmer's o, stays
        self.priorities = _priorities(group, params, mass, self.mass, self.a)
        # Fisher diagonal [n, H, dk] of the keys for an isotropic gradient of the output, up to a common factor: local
        # form of E[(dL/dk)^2] in arXiv 2506.05410. A rotated pair shares its mean: weights and rotation commute
        pull = self.a.transpose(2, 0, 1) * np.linalg.norm(self.v[:, :, None] - self.o, axis=-1)  # [n, H, R]
        self.fisher = np.einsum("nhr,hrd->nhd", pull**2, group.queries**2)
        first, second = _rope_pairs(group.n_rot, group.rope_neox)
        self.fisher[..., first] = self.fisher[..., second] = (self.fisher[..., first] + self.fisher[..., second]) / 2

    # weight of the left key

    def mass_weight(self, i: int, j: int) -> float:
        total = self.mass[i] + self.mass[j]
        return float(self.mass[i] / total if total >= TINY else self.c[i] / (self.c[i] + self.c[j]))

    def slimmer_weight(self, i: int, j: int) -> float:
        """KVSlimmer, arXiv 2603.00907: forward-only second derivatives."""
        alpha_i, alpha_j = self.mass[i] / self.all_mass, self.mass[j] / self.all_mass
        d_i, d_j = (float(np.abs(self.v[s] - self.mean_output).sum()) for s in (i, j))
        h_ii, h_jj = alpha_i * (1 - 2 * alpha_i) * d_i, alpha_j * (1 - 2 * alpha_j) * d_j
        h_ij = alpha_i * alpha_j * (d_i + d_j)
        curvature = h_ii + h_jj - 2 * h_ij
        w = float((h_ii - h_ij) / curvature) if abs(curvature) >= TINY else -1.0
        return w if 0 <= w <= 1 else self.mass_weight(i, j)

    def scalar_weight(self, i: int, j: int) -> float:
        """One weight for the whole key."""
        if self.params.key_weights == "mean":
            return float(self.c[i] / (self.c[i] + self.c[j]))
        if self.params.key_weights == "slimmer":
            return self.slimmer_weight(i, j)
        h_i, h_j = float(self.fisher[i].sum()), float(self.fisher[j].sum())
        if self.params.key_weights == "fisher" and h_i + h_j >= TINY:
            return h_i / (h_i + h_j)
        return self.mass_weight(i, j)

    def channel_weights(self, i: int, j: int) -> Floats:
        """A weight per head and channel [H, dk]: only fisher tells channels apart."""
        if self.params.key_weights != "fisher":
            return np.full(self.k.shape[1:], self.scalar_weight(i, j))
        h = self.fisher[i] + self.fisher[j]
        w: Floats = np.divide(self.fisher[i], h, out=np.full_like(h, self.mass_weight(i, j)), where=h >= TINY)
        return w

    # costs

    def merge_cost(self, i: int, j: int) -> float:
        """What it costs that slot i takes in its right neighbour j, in the unit of `params.score`."""
        c_i, c_j, a_i, a_j = int(self.c[i]), int(self.c[j]), self.a[:, :, i], self.a[:, :, j]
        f = c_i / (c_i + c_j)
        if self.params.score == "mass":  # the paper's code
            fading = math.exp((self.n_leading - i) / self.params.decay) if self.params.decay > 0 else 1.0
            return float((self.mass[i] + self.mass[j]) * (c_i + c_j) * fading)
        if self.params.score == "output":  # equal attention per token forced on the pair
            distance = np.linalg.norm(self.v[i] - self.v[j], axis=-1)  # [H]
            return float((np.abs(a_i * (1 - f) - a_j * f) * distance[:, None]).sum())
        if self.params.score == "exact":
            m = self.merged_probability(i, j)
            u_i, u_j = self.v[i][:, None] - self.o, self.v[j][:, None] - self.o  # [H, R, dv]
            change = (m * f - a_i)[..., None] * u_i + (m * (1 - f) - a_j)[..., None] * u_j
            lengths = np.linalg.norm(self.v[[i, j]], axis=-1).max(axis=0)  # [H]
            # of earlier queries only their sums are known: as if each had looked at both slots in the same proportion
            past = abs(self.history[i] * (1 - f) - self.history[j] * f)
            distance = np.linalg.norm(self.v[i] - self.v[j], axis=-1).mean()
            return self.price(np.linalg.norm(change, axis=-1), 1 + m - a_i - a_j, lengths) + float(past * distance)
        return _uniform_hash(self.params.seed + i + 65536 * c_i)

    def evict_cost(self, i: int) -> float:
        """Output change when slot i leaves, the unit of `exact`; its place in the order where a score has one."""
        if self.params.score in ONLY_EVICT:
            return float(self.priorities[i])
        if self.params.score == "random":
            return _uniform_hash(self.params.seed + i)
        a_i, distance = self.a[:, :, i], np.linalg.norm(self.v[i][:, None] - self.o, axis=-1)  # [H, R]
        length = np.linalg.norm(self.v[i], axis=-1)  # [H]
        return self.price(a_i * distance, 1 - a_i, length) + float(self.history[i] * length.mean())

    def price(self, change: Floats, left: Floats, lengths: Floats) -> float:
        """Output change summed over [H, R]: `change` over what is `left` of a row; lengths |v| [H] where that is nothing."""
        lost = lengths[:, None] + np.linalg.norm(self.o, axis=-1)
        return float(np.where(left < LEAST_LEFT, lost, change / np.maximum(left, LEAST_LEFT)).sum())

    def merged_cardinality(self, i: int, j: int) -> int:
        c = int(self.c[i] + self.c[j])
        return min(c, self.params.max_cardinality) if self.params.max_cardinality > 0 else c

    def merged_probability(self, i: int, j: int) -> Floats:
        """Probability [H, R] of the merged slot before the row is normalised: its logit is the two keys' weighted one."""
        if self.params.score != "exact":
            return self.a[:, :, i] + self.a[:, :, j]
        return np.asarray(self.merged_cardinality(i, j) * np.exp(self.merged_logits(i, j)))

    def merged_logits(self, i: int, j: int) -> Floats:
        w = self.scalar_weight(i, j)
        return np.asarray(w * self.logits[:, :, i] + (1 - w) * self.logits[:, :, j])

    # operations

    def merge(self, i: int, j: int) -> None:
        """Slot i takes in its right neighbour j: the keys meet at one position, the values at their mean."""
        w, m, c = self.channel_weights(i, j), self.merged_probability(i, j), self.merged_cardinality(i, j)
        total = 1 + m - self.a[:, :, i] - self.a[:, :, j]
        self.logits[:, :, i] = self.merged_logits(i, j)
        self.a[:, :, i], self.a[:, :, j] = m, 0
        if self.params.score == "exact":
            self.normalise(total)
        n_tokens = int(self.c[i] + self.c[j])
        f = int(self.c[i]) / n_tokens
        p = self.p[i] + (1 - f) * (self.p[j] - self.p[i])  # never outside of the two
        self.k[i] = w * self.key_at(i, p) + (1 - w) * self.key_at(j, p)
        self.v[i] = f * self.v[i] + (1 - f) * self.v[j]
        self.p[i], self.c[i] = p, c
        self.mass[i] += self.mass[j]
        self.history[i] += self.history[j]
        self.fisher[i] += self.fisher[j]
        self.n_lost += n_tokens - c
        self.order.remove(j)

    def evict(self, i: int) -> None:
        """Slot i leaves, and its tokens are lost."""
        total = 1 - self.a[:, :, i]
        self.a[:, :, i] = 0
        if self.params.score == "exact":
            self.normalise(total)
        self.n_lost += int(self.c[i])
        self.order.remove(i)

    def normalise(self, total: Floats) -> None:
        """Rows that sum to `total` [H, R] sum to one again."""
        total = np.maximum(total, LEAST_DIVISOR)[..., None]
        self.a /= total
        self.logits -= np.log(total)

    def compact(self) -> None:
        """Slots before the last protected run move up to it where all would span too many positions: each gets as many as it
        has tokens, but no more than fit. As attention sees differences only, a text may be of any length."""
        p, order, span = self.params, self.order, self.params.span
        if span == 0 or self.p[order[-1]] + p.room - self.p[order[0]] < span:
            return
        n_moved = len(order) - int(np.argmin(np.append(self.group.is_protected[order][::-1], False)))
        if n_moved in (0, len(order)):
            return
        moved, first_recent = order[:n_moved], self.p[order[n_moved]]
        available = max(FILLED * span - p.room - (self.p[order[-1]] - first_recent), 1.0)
        c = np.sort(self.c[moved]).astype(np.float64)
        below = np.concatenate(([0.0], np.cumsum(c)[:-1]))  # what narrower slots take
        above = np.arange(n_moved, 0, -1)
        too_wide = below + above * c > available
        width = float(((available - below) / above)[np.argmax(too_wide)]) if too_wide.any() else float(c[-1])
        widths = np.minimum(self.c[moved], width)
        ends = first_recent - 0.5 - np.concatenate((np.cumsum(widths[::-1])[::-1][1:], [0.0]))
        for i, position in zip(moved, ends - widths / 2, strict=True):
            self.k[i], self.p[i] = self.key_at(i, float(position)), position

    def key_at(self, i: int, p: float) -> Floats:
        """Key of slot i, moved to position p."""
        g = self.group
        return rotate(self.k[i], p - self.p[i], g.rope_freqs, g.n_rot, g.rope_neox)

    def neighbours(self, i: int) -> tuple[int | None, int | None]:
        at = self.order.index(i)
        return self.order[at - 1] if at > 0 else None, self.order[at + 1] if at + 1 < len(self.order) else None

    def result(self, ops: list[Op]) -> Result:
        left = self.order
        group = replace(
            self.group,
            keys=self.k[left],
            values=self.v[left],
            positions=self.p[left],
            cardinalities=self.c[left],
            scores=self.mass[left],
            is_protected=self.group.is_protected[left],
            is_expired=self.group.is_expired[left],
        )
        return Result(ops, list(self.order), group, self.n_lost)


class _Greedy:
    """All operations that are allowed now, each with the cost it had when an operation last touched its slots."""

    def __init__(self, group: Group, params: Params) -> None:
        self.slots, self.costs = _Slots(group, _answerable(group, params)), dict[tuple[int, int], float]()  # (kind, i) -> cost
        for i in self.slots.order:
            self.score_merge(i)
            self.score_evict(i)
        for key in [(EVICT, i) for i in self.slots.order if group.is_expired[i]]:  # before all others, the oldest first
            if key in self.costs:
                self.costs[key] = -1.0

    def cheapest(self) -> Op:
        """The operation to do next; at equal cost merge before evict, then the lower slot."""
        cost, kind, i = min((cost, kind, i) for (kind, i), cost in self.costs.items())
        return Op(i, self.slots.neighbours(i)[1] if kind == MERGE else None, cost)

    def cost_of(self, op: Op) -> float:
        cost = self.costs.get((EVICT if op.j is None else MERGE, op.i))
        if cost is None or (op.j is not None and op.j != self.slots.neighbours(op.i)[1]):
            raise ValueError(f"not allowed now: {op}")
        return cost

    def do(self, op: Op) -> None:
        """Apply an operation, and score anew what it touched."""
        self.cost_of(op)
        before, gone = self.slots.neighbours(op.i)[0], op.i if op.j is None else op.j
        if op.j is None:
            self.slots.evict(op.i)
        else:
            self.slots.merge(op.i, op.j)
        self.costs = {key: cost for key, cost in self.costs.items() if key[1] != gone}
        for i in (before, op.i):
            if i is not None and i != gone:
                self.score_merge(i)
        if op.i != gone:
            self.score_evict(op.i)

    def score_merge(self, i: int) -> None:
        j, is_protected = self.slots.neighbours(i)[1], self.slots.group.is_protected
        self.costs.pop((MERGE, i), None)
        if _can_merge(self.slots.params) and j is not None and not is_protected[i] and not is_protected[j]:
            self.costs[MERGE, i] = self.slots.merge_cost(i, j)

    def score_evict(self, i: int) -> None:
        if _can_evict(self.slots.params) and not self.slots.group.is_protected[i]:
            self.costs[EVICT, i] = self.slots.evict_cost(i)
