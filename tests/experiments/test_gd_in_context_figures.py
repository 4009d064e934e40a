"""Figures of `gd_in_context`, drawn from studies made up here."""

import numpy as np
import pytest

from experiments.gd_in_context import figures
from experiments.gd_in_context.config import STUDIES
from ico.report import StudyResult, load_study, save_study

S, T, ROWS = 3, 20, 6  # seeds, tasks, rows of a training history


def _loss(rng, *shape):
    return rng.uniform(0.1, 0.4, shape)


def _history(rng, prefix, *names):
    curves = {f"{prefix}/{name}": _loss(rng, ROWS, S) for name in names}
    return {f"{prefix}/step": 100 * np.arange(1, ROWS + 1), **curves}


def _one_layer(rng):
    names = ("loss", "interpolated", "cosine", "model_difference", "prediction_difference")
    shapes = {"kq": (S, 11, 11), "pv": (S, 11, 11), "built_kq": (11, 11), "built_pv": (11, 11)}
    weights = {f"weights/{name}": rng.normal(size=shape) for name, shape in shapes.items()}
    return StudyResult(
        arrays={**_history(rng, "curve", *names), "gd_loss": np.array(0.2), **weights}
    )


def _dimensions(rng):
    dims = np.array([2, 10])
    losses = {f"model/{d}": _loss(rng, S, T) for d in dims}
    return StudyResult(arrays={"dims": dims, **losses, **{f"gd/{d}": _loss(rng, T) for d in dims}})


def _layers(rng, prefix, depth):
    arrays = {"model": _loss(rng, S, depth), "gd": _loss(rng, depth)}
    arrays["gd_plus_plus"] = _loss(rng, depth)
    history = _history(rng, f"{prefix}curve", "loss")
    return {f"{prefix}{name}": value for name, value in arrays.items()} | history


def _deep(rng):
    wanted = ((2, "tied"), (5, "tied"), (10, "tied"), (2, "untied"), (5, "untied"))
    arrays = {name: rng.uniform(0.9, 1, S) for name in ("two_tied/cosine_gd",
                                                        "two_tied/cosine_plus")}  # fmt: skip
    for depth, kind in wanted:
        arrays |= _layers(rng, f"{depth}-{kind}/", depth)
    return StudyResult(arrays=arrays)


def _pairs(rng, *names):
    return {
        f"{name}/{key}": value
        for name in names
        for key, value in (("x", np.arange(4)), ("model", _loss(rng, S, 4)), ("gd", _loss(rng, 4)))
    }


def _out_of_distribution(rng):
    names = ("input_range", "weight_scale", "normal", "exponential", "laplace")
    return StudyResult(arrays=_pairs(rng, *names))


def _softmax_heads(rng):
    names = ("linear, 1 head", "softmax, 1 head", "softmax, 2 heads")
    rows = [{"learner": name, "loss": 0.2, "cosine with GD": 0.9} for name in names]
    arrays = {"gd_loss": np.array(0.2)}
    for name in names:
        arrays |= _history(rng, f"curve/{name}", "loss")
    return StudyResult(
        tables={"losses": [*rows, {"learner": "gradient descent, 1 step", "loss": 0.2}]},
        arrays=arrays,
    )


def _layer_norm(rng):
    return StudyResult(
        arrays={**_history(rng, "curve", "loss"), "gd_loss": np.array(0.2), "cosine": _loss(rng, S)}
    )


def _sine_mlp(rng):
    arrays = {"x": np.linspace(-5, 5, 11)}
    arrays |= {f"context/{name}": _loss(rng, 4, 10) for name in "xy"}
    for name in ("attention", "descent"):
        arrays[f"prediction/{name}"] = _loss(rng, 4, 11)
        arrays |= _history(rng, f"curve/{name}", "loss")
    return StudyResult(arrays=arrays)


def _token_copy(rng):
    arrays = {"gd_loss": np.array(0.2), "weights": rng.dirichlet(np.ones(20), (S, 20))}
    arrays |= {f"gradient/{name}": _loss(rng, S, 19) for name in ("own", "next", "other")}
    arrays |= {name: _loss(rng, S) for name in ("matching", "shuffled")}
    for name in ("softmax", "linear"):
        arrays |= _history(rng, f"curve/{name}", "loss")
    return StudyResult(arrays=arrays)


def _fixed_task_set(rng):
    sizes = (16, 128)
    rows = [{"tasks": size, "loss": 0.3, "95% low": 0.2, "95% high": 0.4,
             "loss on its own tasks": 0.1} for size in sizes]  # fmt: skip
    arrays = {"sizes": np.array(sizes), "gd_loss": np.array(0.2)}
    for size in sizes:
        arrays |= _history(rng, f"curve/{size}", "train", "test")
    return StudyResult(tables={"losses": rows}, arrays=arrays)


def _real_data(rng):
    names = ("trained layer", "GD, rate of training", "gradient descent, searched",
             "GD++, 2 steps, searched", "ridge regression, searched", "zero predictor",
             "layer, update not scaled", "layer, inputs not scaled",
             "layer, neither scaled")  # fmt: skip
    rows = [
        {"rows in context": n, "learner": name, "loss": loss, "95% low": 0.9 * loss,
         "95% high": 1.1 * loss}
        for n in (10, 20) for name, loss in zip(names, rng.uniform(0.3, 1, 9), strict=True)
    ]  # fmt: skip
    return StudyResult(tables={"losses": rows})


MAKERS = {
    "one_layer": _one_layer,
    "dimensions": _dimensions,
    "roll_out": lambda rng: StudyResult(arrays={"model": _loss(rng, S, 20), "gd": _loss(rng, 20)}),
    "deep": _deep,
    "full_block": lambda rng: StudyResult(arrays=_layers(rng, "", 12)),
    "out_of_distribution": _out_of_distribution,
    "softmax_heads": _softmax_heads,
    "layer_norm": _layer_norm,
    "distractors": lambda rng: StudyResult(arrays=_pairs(rng, "count")),
    "sine_mlp": _sine_mlp,
    "token_copy": _token_copy,
    "fixed_task_set": _fixed_task_set,
    "real_data": _real_data,
}


def _make(study, directory, spoil=None):
    result = MAKERS[study](np.random.default_rng(0))
    if spoil:
        spoil(result)
    save_study(directory, study, result)


def test_every_study_has_figures():
    assert list(figures.FIGURES) == list(STUDIES) == list(MAKERS)
    names = [name for entries in figures.FIGURES.values() for name, _, _ in entries]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("study", MAKERS)
def test_draws_the_figures_of_a_study_and_of_no_other(study, tmp_path):
    _make(study, tmp_path)
    drawn = figures.draw(tmp_path)
    assert [(study, name, caption) for name, _, caption in figures.FIGURES[study]] == drawn
    for _, name, caption in drawn:
        assert (tmp_path / "figures" / f"{name}.png").stat().st_size > 5_000
        assert (tmp_path / "figures" / f"{name}.svg").exists()
        assert caption.endswith(".")


def test_draws_nothing_of_an_empty_folder(tmp_path):
    assert figures.draw(tmp_path) == []


def test_skips_depths_left_out(tmp_path):
    def spoil(result):
        result.arrays = {k: v for k, v in result.arrays.items() if k.startswith("5-untied")}

    _make("deep", tmp_path, spoil)
    assert [name for _, name, _ in figures.draw(tmp_path)] == ["deep_5_untied", "deep_by_depth"]


@pytest.mark.parametrize("study", ["roll_out", "real_data", "one_layer"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_draws_what_diverged(study, value, tmp_path):
    def spoil(result):
        for name in ("model", "curve/interpolated"):
            if name in result.arrays:
                result.arrays[name][-1] = value
        for row in result.tables.get("losses", ())[:1]:
            row.update({"loss": value, "95% low": value, "95% high": value})

    _make(study, tmp_path, spoil)
    assert load_study(tmp_path, study) is not None
    assert len(figures.draw(tmp_path)) == len(figures.FIGURES[study])


def test_needs_no_jax(python):
    code = "import sys, experiments.gd_in_context.figures; sys.exit('jax' in sys.modules)"
    assert python("-c", code).returncode == 0
