"""Mean messages of a dense graph, without ever storing a hidden unit per pair of nodes.

A message MLP 3 -> H -> 1 with LeakyReLU of slope s reads receiver, sender and edge:

    z_hij = a_h v_i + b_h + c_h v_j + d_h E_ij                                                      (1)
    mean_j m_ij = sum_h w_h (1/n) sum_j leaky(z_hij)  (+ the output bias)                           (2)
    leaky(z) = s z + (1 - s) relu(z)                                                                (3)

The second layer is linear, so it commutes with the mean over j. By (3) what is linear in z has the
closed form

    sum_h w_h (1/n) sum_j z_hij = (w.a) v_i + w.b + (w.c) mean(v) + (w.d) mean_j E_ij               (4)

and only A_hi = sum_j relu(z_hij) needs all pairs: a multiply-add, two additions and a choice per pair
and hidden unit. A_hi is accumulated over blocks of senders j, with the receivers i along the vector
lanes; E is symmetric, so row j of E holds E_ij for all i. Memory beside E is O(batch H n).

(leaky(z) could be split into z and |z| at one operation less, but trained units are mostly negative,
and two large sums that cancel cost two digits.)

With the cotangent g_i of (2) and the step function theta = relu', the reverse pass computes z_hij again
and needs three more sums:

    S_hi = sum_j theta(z_hij),  T_hj = sum_i g_i theta(z_hij),  U_h = sum_ij g_i E_ij theta(z_hij)  (5)

from which, with r = (1 - s) / n, the part that belongs to relu(z) is

    dv_i = r sum_h w_h (a_h g_i S_hi + c_h T_hi)                                                    (6)
    da_h = r w_h sum_i g_i v_i S_hi     db_h = r w_h sum_i g_i S_hi                                 (7)
    dc_h = r w_h sum_j v_j T_hj         dd_h = r w_h U_h                                            (8)
    dw_h = r sum_i g_i A_hi = r (sum_i g_i (a_h v_i + b_h) S_hi + c_h sum_j v_j T_hj + d_h U_h)     (9)
    dE_ij = r g_i sum_h w_h d_h theta(z_hij)                                                       (10)

(10) is computed only where someone differentiates by E. theta(0) = 0, so that leaky'(0) = s.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from diffusions.precision import einsum
from diffusions.typing import Array, Float, PyTree

NEGATIVE_SLOPE = 0.01

# Senders per step of the loop, and the multiple that nodes are padded to. Each step reads and writes
# its accumulators once, so more is faster until a step's operands no longer fit the registers; a
# multiple of the vector lanes leaves no scalar remainder, which costs half of the reverse pass.
_BLOCK = 16

# Hidden units at a time: the accumulators, [batch, units, n], stay small beside E at any width.
_UNITS = 32

# Floats of an accumulator that a processor's second-level cache holds beside what else is read.
_CACHED_FLOATS = 2**18


def aligned(edges: Float[Array, "batch n n"]) -> Float[Array, "batch m m"]:
    """The same edges with rows and columns of zeros up to the size that is fast."""
    missing = -edges.shape[-1] % _BLOCK
    return jnp.pad(edges, ((0, 0), (0, missing), (0, missing))) if missing else edges


def mean_messages(
    v: Float[Array, "batch n"],
    edges: Float[Array, "batch m m"],
    kernel: Float[Array, "hidden 3"],
    bias: Float[Array, " hidden"],
    output: Float[Array, " hidden"],
) -> Float[Array, "batch n"]:
    """Equation (2) without the output bias, for every receiver i.

    Args:
        v: node features.
        edges: E, symmetric, as it is or `aligned`: whoever has several layers aligns once. Neither
            the symmetry nor that the padding is zero is checked.
        kernel: columns a, c, d of (1): receiver, sender, edge.
        bias: b.
        output: w.

    Returns:
        The mean message at each node; differentiable in every argument.
    """
    n = v.shape[1]
    edges = aligned(edges)
    a, c, d = einsum("h,hi->i", output, kernel)
    # By symmetry the sum over senders may run along the leading axis, across the vector lanes.
    edge_means = edges.sum(axis=1)[:, :n] / n
    linear = (
        a * v + einsum("h,h->", output, bias) + c * v.mean(axis=1, keepdims=True) + d * edge_means
    )
    return NEGATIVE_SLOPE * linear + _in_groups(v, edges, kernel, bias, output)


def _in_groups(v: Array, edges: Array, kernel: Array, bias: Array, output: Array) -> Array:
    """`_mean_rectified`, the sum over hidden units taken over groups of them."""
    width = output.shape[0]
    if width <= _UNITS:
        return _mean_rectified(v, edges, kernel, bias, output)
    units = jnp.concatenate([kernel, bias[:, None], output[:, None]], axis=1)
    # Units whose output weight is zero add nothing.
    groups = jnp.pad(units, ((0, -width % _UNITS), (0, 0))).reshape(-1, _UNITS, 5)

    def add(total: Array, group: Array) -> tuple[Array, None]:
        part = _mean_rectified(v, edges, group[:, :3], group[:, 3], group[:, 4])
        return total + part, None

    return jax.lax.scan(add, jnp.zeros_like(v), groups)[0]


@jax.custom_vjp
def _mean_rectified(
    v: Float[Array, "batch n"],
    edges: Float[Array, "batch m m"],
    kernel: Float[Array, "hidden 3"],
    bias: Float[Array, " hidden"],
    output: Float[Array, " hidden"],
) -> Float[Array, "batch n"]:
    """(1 - s) (1/n) sum_h w_h A_hi, the part of (2) that is not (4); `edges` aligned."""
    n = v.shape[1]
    receiver, sender, edge = _terms(_padded(v, edges), kernel, bias)

    def rectified(receiver: Array, sender: Array, row: Array) -> Array:
        return _relu(edge * row + (receiver + sender))

    sums = _sum_over_nodes(rectified, receiver, sender, edges)
    sums = sums - (edges.shape[-1] - n) * _relu(receiver)  # the padding sent z = a_h v_i + b_h
    return _share(n) * einsum("h,bhi->bi", output, sums)[:, :n]


def _forward(
    v: Array, edges: Array, kernel: Array, bias: Array, output: Array
) -> tuple[Array, tuple[Array, ...]]:
    return _mean_rectified(v, edges, kernel, bias, output), (v, edges, kernel, bias, output)


def _reverse(saved: tuple[Array, ...], cotangent: Array) -> tuple[Array, ...]:
    nodes, edges, kernel, bias, output = saved
    n = nodes.shape[1]
    v, g = _padded(nodes, edges), _padded(cotangent, edges)  # g = 0 there: T, U need no correction
    receiver, sender, edge = _terms(v, kernel, bias)

    def step(receiver: Array, sender: Array, row: Array) -> Array:
        return _step(edge * row + (receiver + sender))

    def weighted(sender: Array, here: tuple[Array, Array], row: Array) -> tuple[Array, Array]:
        receiver, weight = here
        counted = jnp.where(edge * row + (receiver + sender) > 0, weight, 0.0)
        return counted, counted * row

    s = _sum_over_nodes(step, receiver, sender, edges)
    s = s - (edges.shape[-1] - n) * _step(receiver)
    t, u = _sum_over_nodes(weighted, sender, (receiver, g[:, None]), edges)

    r = _share(n)
    u_h = u.sum(axis=(0, 2))
    gs_h = einsum("bi,bhi->h", g, s)
    gvs_h = einsum("bi,bhi->h", g * v, s)
    vt_h = einsum("bj,bhj->h", v, t)
    a, c, d = kernel.T
    d_v = g * einsum("h,bhi->bi", output * a, s) + einsum("h,bhi->bi", output * c, t)
    d_kernel = output[:, None] * jnp.stack([gvs_h, vt_h, u_h], axis=1)
    d_output = a * gvs_h + bias * gs_h + c * vt_h + d * u_h
    d_edges = _edge_cotangent(g, edges, receiver, sender, d, output)
    return r * d_v[:, :n], r * d_edges, r * d_kernel, r * output * gs_h, r * d_output


_mean_rectified.defvjp(_forward, _reverse)


def _relu(z: Array) -> Array:
    return jnp.where(z > 0, z, 0.0)  # one operation; a maximum that hands on NaN takes three


def _step(z: Array) -> Array:
    return jnp.where(z > 0, 1.0, 0.0).astype(z.dtype)


def _padded(v: Array, edges: Array) -> Array:
    return jnp.pad(v, ((0, 0), (0, edges.shape[-1] - v.shape[1])))


def _terms(v: Array, kernel: Array, bias: Array) -> tuple[Array, Array, Array]:
    """a_h v_i + b_h and c_h v_j of (1), each [batch, hidden, n], and d_h with room for both axes."""
    receiver = kernel[:, 0, None] * v[:, None, :] + bias[:, None]
    return receiver, kernel[:, 1, None] * v[:, None, :], kernel[:, 2, None]


def _share(n: int) -> float:
    return (1 - NEGATIVE_SLOPE) / n


def _sum_over_nodes(
    term: Callable[[Array, PyTree, Array], PyTree], lanes: Array, here: PyTree, edges: Array
) -> PyTree:
    """The sum of the terms of nodes 0, 1, ..., each [batch, hidden, n].

    A group of samples at a time, and a block of nodes per step. Each block is summed before it is
    added: hundreds of additions in a row would round to several times the error of a sum by pairs.

    Args:
        term: (`lanes`, `here` at one node, its row of edges [batch, 1, n]) -> its term.
        lanes: what belongs to the nodes of the result, [batch, hidden, n].
        here: arrays [batch, ..., n] of what belongs to the nodes of the sum.
        edges: E, aligned.
    """
    batch, n, _ = edges.shape
    n_groups = -(-batch // _samples_at_once(lanes))
    size = -(-batch // n_groups)

    def group(first: Array | int) -> PyTree:
        lanes_here, nodes = jax.tree.map(
            lambda x: jax.lax.dynamic_slice_in_dim(x, first, size), (lanes, here)
        )

        def block_term(node: Array) -> PyTree:
            row = jax.lax.dynamic_slice(edges, (first, node, 0), (size, 1, n))
            at_node = functools.partial(
                jax.lax.dynamic_slice_in_dim, start_index=node, slice_size=1, axis=-1
            )
            return term(lanes_here, jax.tree.map(at_node, nodes), row)

        def block(i: Array, total: PyTree) -> PyTree:
            terms = [block_term(i * _BLOCK + offset) for offset in range(_BLOCK)]
            return jax.tree.map(lambda total, *parts: total + _by_pairs(parts), total, *terms)

        return jax.lax.fori_loop(0, n // _BLOCK, block, zeros(size))

    def zeros(rows: int) -> PyTree:
        shapes = jax.eval_shape(term, lanes, jax.tree.map(lambda x: x[..., :1], here), edges[:, :1])
        return jax.tree.map(lambda x: jnp.zeros((rows, *x.shape[1:]), x.dtype), shapes)

    def put(i: Array, result: PyTree) -> PyTree:
        first = jnp.minimum(i * size, batch - size)  # the last group may repeat some samples
        return jax.tree.map(
            lambda whole, part: jax.lax.dynamic_update_slice_in_dim(whole, part, first, axis=0),
            result,
            group(first),
        )

    return group(0) if n_groups == 1 else jax.lax.fori_loop(0, n_groups, put, zeros(batch))


def _samples_at_once(lanes: Array) -> int:
    """How many samples' accumulators stay in a processor's cache; on an accelerator all."""
    if jax.default_backend() != "cpu":
        return lanes.shape[0]
    return max(1, _CACHED_FLOATS // (lanes.shape[1] * lanes.shape[2]))


def _by_pairs(parts: Sequence[Array]) -> Array:
    while len(parts) > 1:
        parts = [a + b for a, b in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def _edge_cotangent(
    g: Array, edges: Array, receiver: Array, sender: Array, d: Array, output: Array
) -> Array:
    """Equation (10) without r, one hidden unit at a time; the receivers along the last axis."""

    def add(h: Array, total: Array) -> Array:
        at = functools.partial(jax.lax.dynamic_index_in_dim, index=h, keepdims=False)
        z = at(d) * edges + at(receiver, axis=1)[:, None, :] + at(sender, axis=1)[:, :, None]
        return total + _step(z) * (at(output) * at(d))

    steps = jax.lax.fori_loop(0, d.shape[0], add, jnp.zeros_like(edges))
    return g[:, None, :] * steps
