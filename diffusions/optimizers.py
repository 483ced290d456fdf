"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner (Vyas et al., ICLR 2025, arXiv 2409.11321).

For a matrix W with gradient G, and all averages over steps with decay b:

    L = E[G G^T],   R = E[G^T G],   Q_L, Q_R their eigenvectors,                                     (1)
    M = E[G],   V = E[(Q_L^T G Q_R)^2],                                                             (2)
    W <- W - rate Q_L [(Q_L^T M Q_R) / (sqrt(V) + eps)] Q_R^T,                                      (3)

M and V divided by 1 - b^t as in Adam (Kingma and Ba, 2015). Eigenvectors are followed by one step of
orthogonal iteration every few gradient steps,

    Q <- orthogonal factor of (L + c tr(L) 1) Q,                                                    (4)

from the identity on; what is no matrix moves as by Adam. c is ours (published: 0). Gradients of small
networks have singular values down to rounding, where the published basis is arbitrary: each direction
of it gets a step of full length, and two programs of one training differ in their first digits. With c
such directions stay as they are, and the learned functions are better.

Small networks that fit a smooth function to many digits are badly conditioned, and gain most. A step
costs eight products of the size of W more than one of Adam.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from diffusions.arguments import checked
from diffusions.typing import Array, Float, Int, Params, PyTree

LARGEST_SIDE = 512
"""Of a matrix; a longer one keeps the identity, as published for vocabularies. Turning a square of side
n costs 4 n / (3 b) times the gradient of a potential by b couplings."""
STIFFNESS = 0.03
"""c of equation (4). A network's gradient on Styblinski-Tang is as good from 0.01 to 0.05; at 0.3 the
basis follows too slowly, at 0 five epochs of a training in two programs differ by a tenth."""


class Sides(NamedTuple):
    """Of one matrix: (1) and its eigenvectors, for each side that is turned."""

    second_moments: tuple[Array, ...]
    eigenvectors: tuple[Array, ...]


class SoapState(NamedTuple):
    """What `scale_by_soap` carries; leaves as those of the parameters."""

    steps: Int[Array, ""]
    mean: PyTree  # M
    squares: PyTree  # V, in the eigenbasis
    sides: tuple[Sides, ...]  # in the order of the leaves


def _turned_sides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The axes along which a parameter of a shape is turned."""
    if len(shape) != 2:
        return ()
    return tuple(axis for axis in (0, 1) if 1 < shape[axis] <= LARGEST_SIDE)


def _precise(leaf: Array) -> Any:
    """The type in which moments of a leaf are kept: nothing below single precision."""
    return jnp.promote_types(leaf.dtype, jnp.float32)


def _along(axis: int, matrix: Float[Array, "n n"], values: Float[Array, "a b"]) -> Array:
    """matrix^T values along the rows, values matrix along the columns."""
    return matrix.T @ values if axis == 0 else values @ matrix


def _iterated(moments: tuple[Array, ...], bases: tuple[Array, ...]) -> tuple[Array, ...]:
    """Equation (4)."""

    def iterated(moment: Array, basis: Array) -> Array:
        return jnp.linalg.qr(moment @ basis + STIFFNESS * jnp.trace(moment) * basis)[0]

    def each(moment: Array, basis: Array) -> Array:
        if moment.ndim == 2:
            return iterated(moment, basis)
        # One after the other: in a batch LAPACK may wait for ever for threads (jaxlib 0.10.2, CPU).
        square = (-1, *moment.shape[-2:])
        found = jax.lax.map(
            lambda pair: iterated(*pair), (moment.reshape(square), basis.reshape(square))
        )
        return found.reshape(basis.shape)

    return tuple(map(each, moments, bases))


@jax.custom_batching.custom_vmap
def _followed(due: Array, moments: PyTree, bases: PyTree) -> PyTree:
    """Equation (4) of all matrices where it is due.

    Members of a vmapped training count alike. Plainly batched, the condition would become a selection
    and every step pay for (4).
    """
    return jax.lax.cond(
        due,
        lambda: [_iterated(m, q) for m, q in zip(moments, bases, strict=True)],
        lambda: bases,
    )


@_followed.def_vmap
def _followed_of_many(
    size: int, batched: Any, due: Array, moments: PyTree, bases: PyTree
) -> tuple[PyTree, PyTree]:
    def spread(values: PyTree, is_batched: PyTree) -> PyTree:
        return jax.tree.map(
            lambda x, b: x if b else jnp.broadcast_to(x, (size, *x.shape)), values, is_batched
        )

    # Matrices may have leading axes; itself, so that members of members are as cheap.
    result = _followed(jnp.any(due), spread(moments, batched[1]), spread(bases, batched[2]))
    return result, jax.tree.map(lambda _: True, result)


@checked
def scale_by_soap(
    b1: float = 0.95, b2: float = 0.95, eps: float = 1e-8, every: int = 20
) -> optax.GradientTransformation:
    """The direction of equation (3).

    Args:
        b1: decay of M.
        b2: decay of V, L and R.
        eps: beside the square root.
        every: gradient steps from one (4) to the next; the first gradient is followed by one.

    Raises:
        ValueError: decays outside [0, 1), `every` below 1; parameters that are complex.
    """
    for name, decay in (("b1", b1), ("b2", b2)):
        if not 0 <= decay < 1:
            raise ValueError(f"{name} must be in [0, 1), got {decay}")
    if every < 1:
        raise ValueError(f"every must be at least 1, got {every}")

    def init(params: Params) -> SoapState:
        for leaf in jax.tree.leaves(params):
            if jnp.iscomplexobj(leaf):
                raise ValueError(f"SOAP is for real parameters, got {leaf.dtype}")

        def sides(leaf: Array) -> Sides:
            lengths = [leaf.shape[axis] for axis in _turned_sides(leaf.shape)]
            return Sides(
                second_moments=tuple(jnp.zeros((n, n), _precise(leaf)) for n in lengths),
                eigenvectors=tuple(jnp.eye(n, dtype=_precise(leaf)) for n in lengths),
            )

        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, _precise(leaf)), params)

        return SoapState(
            steps=jnp.zeros((), jnp.int32),
            mean=zeros,
            squares=jax.tree.map(jnp.copy, zeros),
            sides=tuple(map(sides, jax.tree.leaves(params))),
        )

    def update(
        updates: PyTree, state: SoapState, params: Params | None = None
    ) -> tuple[PyTree, SoapState]:
        del params
        given, tree = jax.tree.flatten(updates)
        gradients = [g.astype(_precise(g)) for g in given]
        count = state.steps + 1
        means = [
            b1 * m + (1 - b1) * g
            for m, g in zip(jax.tree.leaves(state.mean), gradients, strict=True)
        ]
        moments = [
            tuple(
                b2 * moment + (1 - b2) * (g @ g.T if axis == 0 else g.T @ g)
                for axis, moment in zip(_turned_sides(g.shape), of.second_moments, strict=True)
            )
            for g, of in zip(gradients, state.sides, strict=True)
        ]
        bases = _followed(
            (count - 1) % every == 0, moments, [of.eigenvectors for of in state.sides]
        )
        squares, directions = [], []
        for g, mean, square, basis, own in zip(
            gradients, means, jax.tree.leaves(state.squares), bases, given, strict=True
        ):
            axes = _turned_sides(g.shape)
            turned, turned_mean = g, mean
            for axis, q in zip(axes, basis, strict=True):
                turned, turned_mean = _along(axis, q, turned), _along(axis, q, turned_mean)
            square = b2 * square + (1 - b2) * turned**2
            direction = (turned_mean / (1 - b1**count)) / (jnp.sqrt(square / (1 - b2**count)) + eps)
            for axis, q in zip(axes, basis, strict=True):
                direction = _along(axis, q.T, direction)
            squares.append(square)
            directions.append(direction.astype(own.dtype))
        return jax.tree.unflatten(tree, directions), SoapState(
            steps=count,
            mean=jax.tree.unflatten(tree, means),
            squares=jax.tree.unflatten(tree, squares),
            sides=tuple(Sides(*pair) for pair in zip(moments, bases, strict=True)),
        )

    return optax.GradientTransformation(init, update)


@checked
def soap(
    learning_rate: optax.ScalarOrSchedule, weight_decay: float | Array = 0.0
) -> optax.GradientTransformation:
    """SOAP: Adam in the eigenbasis of Shampoo's preconditioner, equation (3), with weight decay.

    Args:
        learning_rate: or a schedule of it.
        weight_decay: times the learning rate, taken off the parameters in every step.
    """
    parts = [scale_by_soap()]
    # What optax.inject_hyperparams hands over has no truth value.
    if not isinstance(weight_decay, int | float) or weight_decay:
        parts.append(optax.add_decayed_weights(weight_decay))
    return optax.chain(*parts, optax.scale_by_learning_rate(learning_rate))
