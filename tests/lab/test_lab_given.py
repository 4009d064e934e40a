"""What `lab.train` is given beside batches: shared by all seeds, or each seed its own."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from ico import lab


@dataclasses.dataclass
class Config:
    """Three models."""

    num_seeds: int = 3


def no_batch(key, given, setting=0.0):
    return jnp.zeros(())


def distance(params, batch, given, setting=0.0):
    """Smallest where the parameter is the sum of all that it is given."""
    return (params["w"] - given["own"] - given["shared"] - setting) ** 2, {}


@pytest.mark.parametrize("settings", [None, [1.0, 2.0]])
def test_every_seed_is_given_its_own_and_what_all_share(settings, tmp_path):
    run = lab.Run(Config(), tmp_path, progress=False)
    trained = lab.train(
        run,
        "sums",
        None,
        no_batch,
        lab.Recipe(400, 0.1, clip=None),
        loss=distance,
        start={"w": jnp.zeros(3)},
        given={"own": jnp.arange(3.0), "shared": jnp.asarray(10.0)},
        given_axes={"own": 0, "shared": None},
        settings=None if settings is None else jnp.asarray(settings),
    )
    sums = np.arange(3.0) + 10
    if settings is not None:
        sums = sums[:, None] + np.asarray(settings)
    np.testing.assert_allclose(trained.params["w"], sums, atol=0.1)
