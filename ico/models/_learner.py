"""From a Linen module to a learner."""

from ico.types import Learner


def learner(model, *, all_layers: bool = False) -> Learner:
    """The pure function `apply(params, prompt) -> prediction` of an in-context model.

    Args:
      model: a module called with a prompt, such as `LinearTransformer`.
      all_layers: return one prediction a layer, [L, B, Q, K], in place of the last, [B, Q, K].
    """

    def apply(params, prompt):
        return model.apply({"params": params}, prompt, all_layers=all_layers)

    return apply
