"""Random distortions of small images, on the device: what a hand would have drawn otherwise.

Dimension key: N images, H height, W width, C channels, P pixels.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key


@dataclasses.dataclass(frozen=True)
class Distortion:
    """How far images are moved; every field is a standard deviation, and 0 does nothing.

    Fields:
      turn: of the angle, radians.
      slant: of the shear.
      scale: of the logarithm of height and width.
      shift: of the position, as a share of the image.
      elastic: of a smooth field of displacements, as a share of the image (Simard et al. 2003).
      grain: knots of that field along each side; between them it is interpolated.

    Raises:
      ValueError: a negative standard deviation, or fewer than two knots.
    """

    turn: float = 0.0
    slant: float = 0.0
    scale: float = 0.0
    shift: float = 0.0
    elastic: float = 0.0
    grain: int = 4

    def __post_init__(self):
        for name in ("turn", "slant", "scale", "shift", "elastic"):
            if getattr(self, name) < 0:
                raise ValueError(
                    f"{name} is a standard deviation, at least 0, not {getattr(self, name)}"
                )
        if self.grain < 2:
            raise ValueError(f"grain must be at least 2 knots, not {self.grain}")


def distort(
    key: Key[Array, ""], images: Float[Array, "N H W C"], distortion: Distortion
) -> Float[Array, "N H W C"]:
    """Every image turned, slanted, scaled, moved and bent by itself; bilinear, edges repeated."""
    if distortion == Distortion(grain=distortion.grain):
        return images
    keys = jax.random.split(key, len(images))
    return jax.vmap(lambda key, image: _distorted(key, image, distortion))(keys, images)


def _distorted(key, image_HWC, how: Distortion):
    H, W, _ = image_HWC.shape
    keys = jax.random.split(key, 5)
    angle = how.turn * jax.random.normal(keys[0])
    slant = how.slant * jax.random.normal(keys[1])
    scale_2 = jnp.exp(how.scale * jax.random.normal(keys[2], (2,)))
    shift_2 = how.shift * jax.random.normal(keys[3], (2,))
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    turned_22 = jnp.array([[cos, -sin], [sin, cos]])
    matrix_22 = turned_22 @ jnp.array([[1.0, slant], [0.0, 1.0]]) * scale_2[None]

    # Places in units of the image, from -1/2 to 1/2: where each pixel is fetched from.
    y_H, x_W = ((jnp.arange(n) + 0.5) / n - 0.5 for n in (H, W))
    places_HW2 = jnp.stack(jnp.meshgrid(y_H, x_W, indexing="ij"), -1)
    places_HW2 = places_HW2 @ matrix_22.T + shift_2[None, None]
    if how.elastic:
        knots = (how.grain, how.grain, 2)
        field = how.elastic * jax.random.normal(keys[4], knots)
        places_HW2 = places_HW2 + jax.image.resize(field, (H, W, 2), "cubic")
    return _bilinear(image_HWC, (places_HW2 + 0.5) * jnp.array([H, W])[None, None] - 0.5)


def _bilinear(image_HWC, places_HW2):
    """The image at fractional pixels; outside of it, that of the nearest edge."""
    H, W, C = image_HWC.shape
    y_HW, x_HW = (jnp.clip(places_HW2[..., i], 0, n - 1) for i, n in enumerate((H, W)))
    top_HW, left_HW = (jnp.floor(a).astype(jnp.int32) for a in (y_HW, x_HW))
    down_HW1, right_HW1 = (y_HW - top_HW)[..., None], (x_HW - left_HW)[..., None]
    flat_PC = image_HWC.reshape(H * W, C)

    def at(row, column):
        return flat_PC[jnp.minimum(row, H - 1) * W + jnp.minimum(column, W - 1)]

    upper = at(top_HW, left_HW) * (1 - right_HW1) + at(top_HW, left_HW + 1) * right_HW1
    lower = at(top_HW + 1, left_HW) * (1 - right_HW1) + at(top_HW + 1, left_HW + 1) * right_HW1
    return upper * (1 - down_HW1) + lower * down_HW1
