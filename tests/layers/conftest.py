"""What the tests of layers share."""

import jaxtyping
import pytest


@pytest.fixture
def annotations_off():
    """Calls as users make them: without the tests' hook, which would object to bad shapes first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
