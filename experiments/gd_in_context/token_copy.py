"""Can a model build the paired tokens from alternating ones by itself? (Fig. 5, section 5)

Tokens alternate between x and y. The paper: a softmax layer copies each y to its x, or each x to
its y, and a linear layer then takes the gradient step; with a linear first layer this fails. The
copying is the induction head's (Olsson et al. 2022).

Dimension key: S seeds, T tasks, N context pairs, P tokens.
"""

import jax.numpy as jnp
import numpy as np

from experiments.gd_in_context import regression
from experiments.gd_in_context.paper import paper
from experiments.gd_in_context.regression import GD, SEEDS
from ico import lab, tasks
from ico.models import AlternatingTransformer
from ico.probes import attention_to_partner, own_next_other, pair_share, token_dependence

SOFTMAX, LINEAR = "softmax, then linear", "linear, then linear"
REPEATED, ANOTHER = "repeated pair", "another pair"


@paper.study("Can a model build the paired tokens from alternating ones by itself?")
def token_copy(run):
    """Alternating tokens: a softmax layer that copies, then a linear layer that descends."""
    recipe = regression.recipe(run, run.config.copy_steps, clip=10.0)
    trained = {}
    for name, first in ((SOFTMAX, "softmax"), (LINEAR, "linear")):
        model = AlternatingTransformer(attention=(first, "linear"), init_scale=0.01)
        sampler = regression.deep_sampler(run)
        trained[name] = lab.train(run, f"token_copy-{first}", model, sampler, recipe)
    yield from regression.beside_one_step(run, "token_copy", trained, alike=(SOFTMAX,))
    yield partner_attention(run, trained[SOFTMAX])
    yield from gradient_norms(run, trained[SOFTMAX])
    yield from prefix_matching(run, trained[SOFTMAX])


def partner_attention(run, trained):
    """How much x and y tokens attend to the other of their pair, and mean attention weights."""
    prompt = regression.draw(run, "token_copy/attention", count=run.config.curve_tasks).prompt
    n = prompt.x.shape[1]

    def scores(params):
        model = trained.model
        weights = model.apply({"params": params}, prompt, 0, method=model.scores)
        return jnp.mean(weights, axis=1)[:, : 2 * n]  # over heads; context tokens only

    weights_STPP = trained.mapped(scores)
    of_x, of_y = attention_to_partner(weights_STPP)
    # The kind that attends more is chosen for each seed on one half of the tasks and measured on
    # the other.
    half = of_x.shape[-1] // 2
    y_more_S = of_y[:, :half].mean(-1) > of_x[:, :half].mean(-1)
    stronger = np.where(y_more_S[:, None], of_y[:, half:], of_x[:, half:])
    kinds = ", ".join("y" if more else "x" for more in y_more_S)
    run.note(f"Tokens that attend to the other of their pair, seed by seed: {kinds}.")
    return lab.record("attention", on_partner=stronger, weights=weights_STPP[:1].mean(1))


def gradient_norms(run, trained):
    """The paper's probe: how tokens after layer 1 depend on their own, next and other inputs.

    Norm of the mean over tasks of `d sum(token_j after layer 1) / d token_i`, [S, 2N - 1] each.
    """
    count = min(run.config.curve_tasks, 256)
    prompt = regression.draw(run, "token_copy/gradients", count=count).prompt
    model, n = trained.model, prompt.x.shape[1]

    def norms(params):
        block = model.bind({"params": params}).blocks[0]
        tokens = model.apply({"params": params}, prompt, method=model.tokens)
        return own_next_other(
            token_dependence(lambda tokens: block(tokens, 2 * n), tokens)[:-1, :-1]
        )

    values = trained.mapped(norms)
    for i, name in enumerate(("own input", "next input", "another input, mean")):
        yield lab.record("gradient", by=name, token=np.arange(1, 2 * n), norm=values[:, i])


def prefix_matching(run, trained):
    """Second-layer attention of a query that repeats one context input: on its pair, on another.

    Shares of the sum of absolute scores over all pairs, [S, T] each (2212.07677, section 5; the
    prefix-matching score of Olsson 2022, with a random other pair as its control).
    """
    prompt = regression.draw(run, "token_copy/repeat").prompt
    prompt, *places = tasks.repeated_query(run.key("token_copy/places"), prompt)
    model = trained.model

    def shares(params):
        scores = model.apply({"params": params}, prompt, 1, method=model.scores)
        return jnp.stack([pair_share(scores[:, :, -1], place) for place in places])

    values = trained.mapped(shares)
    yield lab.record("matching", pair=REPEATED, share=values[:, 0])
    yield lab.record("matching", pair=ANOTHER, share=values[:, 1])


token_copy.claim(
    "neighbour_attention",
    "The first layer attends to the other token of the pair: its mean attention weight there, "
    "for the kind of token (x or y) that does it more",
    "Fig. 5",
    unit="attention weight",
    band=(0.5, None),
    of=lab.mean("on_partner", record="attention"),
)
token_copy.claim(
    "cosine",
    "On alternating tokens the two-layer model's sensitivities match one gradient step's",
    "Fig. 5",
    unit="cosine",
    band=(0.95, None),
    of=lab.mean("cosine", learner=SOFTMAX),
)


token_copy.claim(
    "linear_first_layer_ratio",
    "With a linear first layer the loss stays far above one gradient step's",
    "section 5",
    unit="ratio",
    band=(1.5, None),
    of=lab.controlled(
        lab.ratio("loss", learner=(LINEAR, GD)),
        lab.ratio("loss", learner=(SOFTMAX, GD)),
        below=1.5,
        note="ratio with a softmax first layer, trained alike",
    ),
)
token_copy.claim(
    "prefix_matching",
    "The second layer's attention on the pair whose input the query repeats is above that on "
    "another pair (difference of scores): the induction-head link",
    "section 5",
    unit="share of attention",
    band=(0.0, None),
    kind="core",
    of=lab.difference("share", record="matching", pair=(REPEATED, ANOTHER)),
)
token_copy.table("losses", lab.rows("loss", reference={"learner": GD}, also=("cosine",)))
token_copy.figure(
    lab.lines(
        "token",
        "norm",
        record="gradient",
        color="by",
        xlabel="token (odd: x, even: y)",
        ylabel="norm of the gradient",
    ),
    "Paper, Fig. 5. Tokens alternate between x and y: how much each token behind the softmax layer "
    "depends on its own input, on the next token's and, on average, on any other's: norm of the "
    f"mean gradient over tasks. {SEEDS}",
    name="token_copy_gradients",
)


token_copy.figure(
    lab.maps("weights", each=("",), record="attention", high=np.nanmax),
    "Paper, Fig. 5. Mean attention weights of the softmax layer over the context tokens (columns), "
    "of the first seed.",
    name="token_copy_attention",
)
token_copy.figure(
    regression.while_training(),
    "Paper, Fig. 5. Loss while training with a softmax and with a linear first layer, and the loss "
    f"of one gradient step. {SEEDS}",
    name="token_copy_training",
)
token_copy.figure(
    lab.bars("share", record="matching", color="pair", ylabel="share of attention, layer 2"),
    "Section 5. Where the query looks in the second layer when it repeats an input of the context: "
    "share of absolute scores on the pair it repeats and on another pair drawn at random, with 95% "
    "intervals.",
    name="token_copy_matching",
)
