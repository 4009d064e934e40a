"""The step is pure, the loop is the step repeated, seeds do not see each other."""

import dataclasses
import json
import subprocess
import threading

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ico import train


def config(**changes):
    return train.LoopConfig(**{"num_steps": 25, "steps_per_call": 10} | changes)


def without_key(state):
    return state._replace(key=jax.random.key_data(state.key))


def test_loop_is_the_step_repeated(program):
    start = state = program.new_state(seeds=0)
    losses = []
    step = jax.jit(program.STEP)
    for n in range(25):
        state, metrics = step(state, program.sample(jax.random.fold_in(start.key, n)))
        losses.append(float(metrics["loss"]))
    result = train.fit(program.STEP, start, program.sample, config())
    chex.assert_trees_all_close(without_key(result.state), without_key(state), rtol=1e-5)
    history = result.history
    np.testing.assert_array_equal(history["step"], [10, 20, 25])
    means = [np.mean(losses[:10]), np.mean(losses[10:20]), np.mean(losses[20:])]
    np.testing.assert_allclose(history["loss"], means, rtol=1e-5)
    np.testing.assert_allclose(history["grad_norm"][-1], metrics["grad_norm"], rtol=1e-4)
    np.testing.assert_allclose(history["param_norm"][-1], optax.tree.norm(state.params), rtol=1e-5)


def test_step_is_pure(program):
    state = program.new_state(seeds=0)
    batch = program.sample(jax.random.key(1))
    first, second = (jax.jit(program.STEP)(state, batch) for _ in range(2))
    chex.assert_trees_all_equal(first, second)
    assert int(state.step) == 0 and int(first[0].step) == 1


def test_each_seed_equals_its_own_run(program):
    keys = jax.random.split(jax.random.key(3), 3)
    run = lambda key: train.fit(  # noqa: E731
        program.STEP,
        train.init_state(program.init_params, program.OPTIMIZER, key),
        program.sample,
        config(num_steps=20),
        evaluate=program.evaluate,
    )
    together = run(keys)
    for i, key in enumerate(keys[1:], start=1):
        alone = run(key)
        mine = jax.tree.map(lambda x, i=i: x[i], without_key(together.state))
        chex.assert_trees_all_close(mine, without_key(alone.state), rtol=1e-5, atol=1e-6)
        for name in ("loss", "update_norm", "eval/distance"):
            np.testing.assert_allclose(
                together.history[name][:, i], alone.history[name], rtol=1e-4, atol=1e-6
            )


def test_no_batch_shares_the_initialisers_key(program):
    state = program.new_state(seeds=0)
    params = [program.init_params(jax.random.fold_in(state.key, n)) for n in range(3)]
    assert not any(np.array_equal(p["w"], state.params["w"]) for p in params)


def test_the_callers_state_survives_donation(program):
    state = program.new_state()
    # One buffer in two leaves: donated as it is, it would be donated twice.
    state = state._replace(opt_state=(state.opt_state, state.params))
    step = lambda s, b: (  # noqa: E731
        (new := program.STEP(s._replace(opt_state=s.opt_state[0]), b))[0]._replace(
            opt_state=(new[0].opt_state, new[0].params)
        ),
        new[1],
    )
    before = jax.tree.map(np.asarray, without_key(state))
    train.fit(step, state, program.Rows(), config(num_steps=20))
    chex.assert_trees_all_equal(without_key(state), before)


def test_second_call_and_second_fit_compile_nothing(program):
    traces = []

    def loss_fn(params, batch):
        traces.append(1)
        return program.loss_fn(params, batch)

    step = train.make_step(loss_fn, program.OPTIMIZER)
    state = program.new_state()
    # A weakly typed leaf, as `init` functions often make.
    state = state._replace(params={**state.params, "b": jnp.full((2, 1), 0.0)})
    train.fit(step, state, program.sample, config(num_steps=10))
    once = len(traces)
    train.fit(step, state, program.sample, config(num_steps=100))
    assert len(traces) == once


def test_optimizer_gets_the_loss_as_value(program):
    seen = []

    def update(updates, state, params=None, *, value, **extra):
        seen.append(value.shape)
        return updates, state

    optimizer = optax.GradientTransformationExtraArgs(lambda params: (), update)
    state = train.init_state(program.init_params, optimizer, jax.random.key(0))
    train.make_step(program.loss_fn, optimizer)(state, program.sample(jax.random.key(0)))
    assert seen == [()]


def test_metric_name_clash_is_refused(program):
    step = train.make_step(lambda p, b: (jnp.sum(p["w"]), {"loss": 0.0}), program.OPTIMIZER)
    with pytest.raises(ValueError, match="must not be named"):
        step(program.new_state(seeds=0), None)


def test_untyped_key_is_refused(program):
    with pytest.raises(TypeError):
        train.init_state(program.init_params, program.OPTIMIZER, jnp.zeros(2, jnp.uint32))


def exploding(key):
    # The batch knows its key; from step 13 on, seed 1's labels are infinite.
    x = jax.random.normal(key, (8, 4))
    return {"x": x, "y": x[:, :1]}


@pytest.mark.parametrize("seeds", [0, 2])
def test_non_finite_loss_names_step_norms_and_checkpoint(program, seeds, tmp_path):
    def step(state, batch):
        bad = (state.step == 13) & (state.params["b"][0] > 50 if seeds else True)
        batch = {**batch, "y": jnp.where(bad, jnp.nan, batch["y"])}
        return program.STEP(state, batch)

    state = program.new_state(seeds)
    if seeds:
        state.params["b"] = jnp.array([[0.0], [100.0]])
    with pytest.raises(train.NonFiniteLoss) as caught:
        train.fit(step, state, exploding, config(checkpoint_every=10), directory=tmp_path)
    error = caught.value
    assert error.step == 13
    assert error.seed == (1 if seeds else None)
    assert np.isnan(error.norms["grad_norm"]) and np.isnan(error.norms["loss"])
    assert error.last_checkpoint == tmp_path / "checkpoints" / "10"
    assert "step 13" in str(error) and str(error.last_checkpoint) in str(error)
    assert "\n" not in str(error)
    saved = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert saved == {"10"}


def test_metrics_file_and_tensorboard(program, tmp_path):
    result = train.fit(
        program.STEP,
        program.new_state(),
        program.Rows(),
        config(evaluate_every=20),
        directory=tmp_path,
        evaluate=program.evaluate,
    )
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [10, 20, 25]
    for i, row in enumerate(rows):
        np.testing.assert_array_equal(row["loss"], result.history["loss"][i])
    assert [row["step"] for row in rows if "eval/distance" in row] == [20, 25]
    np.testing.assert_array_equal(result.history["eval/step"], [20, 25])
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"eval/distance" in events.read_bytes()


def test_floats_beyond_json_round_trip(tmp_path):
    from ico.train._log import MetricLog

    values = np.array([np.nan, np.inf, -np.inf, np.float32(0.1), 1e-45])
    log = MetricLog(tmp_path, 0)
    log.add(1, {"x": values})
    log.close()
    line = (tmp_path / "metrics.jsonl").read_text()
    json.loads(line, parse_constant=pytest.fail)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "seco')  # a kill in the middle of a line
    again = MetricLog(tmp_path, 1)
    np.testing.assert_array_equal(again.history()["x"], [values])
    again.close()


def test_without_directory_nothing_is_written(program, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    train.fit(program.STEP, program.new_state(), program.sample, config())
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr() == ("", "")


def test_runs_outside_the_main_thread(program):
    results = []
    work = lambda: results.append(  # noqa: E731
        train.fit(program.STEP, program.new_state(), program.sample, config())
    )
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert len(results) == 1


def test_stream_is_shared_by_seeds_and_read_once(program):
    stream = program.Rows()
    result = train.fit(program.STEP, program.new_state(), stream, config())
    assert stream.next == 25
    step = jax.jit(jax.vmap(program.STEP, in_axes=(0, None)))
    state, fresh = program.new_state(), program.Rows()
    for _ in range(25):
        state, _ = step(state, next(fresh))
    chex.assert_trees_all_close(without_key(result.state), without_key(state), rtol=1e-5)


def test_a_plain_iterator_does_without_a_directory(program, tmp_path):
    expected = train.fit(program.STEP, program.new_state(), program.Rows(), config())
    rows = program.Rows()
    generator = (next(rows) for _ in range(100))
    found = train.fit(program.STEP, program.new_state(), generator, config())
    chex.assert_trees_all_equal(found.state.params, expected.state.params)
    assert rows.next == 25
    with pytest.raises(TypeError, match="no position to go on from; give a Stream"):
        train.fit(program.STEP, program.new_state(), generator, config(), directory=tmp_path / "a")
    assert not (tmp_path / "a").exists() and rows.next == 25


def test_what_gives_no_batches_is_refused(program, annotations_off):
    with pytest.raises(TypeError, match="data must be a sampler, a Stream or an iterable"):
        train.fit(program.STEP, program.new_state(), 3, config())


def test_a_resumed_run_may_evaluate_something_else(program, tmp_path):
    """Rows that lack a metric hold NaN; another shape of one is refused at once."""

    def fit(num_steps, evaluate):
        return train.fit(
            program.STEP,
            program.new_state(),
            program.sample,
            config(num_steps=num_steps, evaluate_every=10),
            directory=tmp_path,
            evaluate=evaluate,
        )

    fit(10, None)
    fit(20, program.evaluate)
    history = fit(30, lambda params: {"b": params["b"][0]}).history
    np.testing.assert_array_equal(history["step"], [10, 20, 30])
    np.testing.assert_array_equal(history["eval/step"], [20, 30])
    np.testing.assert_array_equal(np.isnan(history["eval/distance"]), [[False] * 2, [True] * 2])
    np.testing.assert_array_equal(np.isnan(history["eval/b"]), [[True] * 2, [False] * 2])
    assert len(history["loss"]) == 3 and np.isfinite(history["loss"]).all()
    with pytest.raises(train.CheckpointError, match=r"'eval/b' of shape \[2\] in earlier rows"):
        fit(40, lambda params: {"b": params["b"]})
    assert int(fit(30, None).state.step[0]) == 30


def test_stream_that_ends_early_says_so(program):
    class Short(program.Rows):
        def __next__(self):
            if self.next == 15:
                raise StopIteration
            return super().__next__()

    with pytest.raises(ValueError, match="ended 5 batches early"):
        train.fit(program.STEP, program.new_state(), Short(), config(num_steps=20))


@pytest.mark.parametrize(
    "changes",
    [{"num_steps": -1}, {"steps_per_call": 0}, {"keep": 0}, {"evaluate_every": 15}],
)
def test_bad_counts_are_refused(changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        config(**changes)


def test_boundaries_do_not_depend_on_where_a_run_resumed():
    c = config(num_steps=95, checkpoint_every=15)
    assert [c.next_boundary(n) for n in (0, 9, 10, 50, 90)] == [10, 10, 20, 60, 95]
    due = [n for n in (10, 20, 30, 40, 95) if c.is_due(c.checkpoint_every, n)]
    assert due == [20, 40, 95]
    assert dataclasses.replace(c, checkpoint_every=0).is_due(0, 95)


def test_precision_reaches_the_program(program):
    seen = []

    def loss_fn(params, batch):
        seen.append(jax.config.jax_default_matmul_precision)
        return program.loss_fn(params, batch)

    step = train.make_step(loss_fn, program.OPTIMIZER)
    short = config(num_steps=10, precision="highest")
    train.fit(step, program.new_state(0), program.Rows(), short)
    assert set(seen) == {"highest"}


FOUR_DEVICES = """
import importlib.util, json, sys
import jax, numpy as np
jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_platforms", "cpu")
from ico import train
spec = importlib.util.spec_from_file_location("program", sys.argv[1])
program = importlib.util.module_from_spec(spec); spec.loader.exec_module(program)
four, one = train.make_mesh(), train.make_mesh({"data": 1})
assert dict(four.shape) == {"data": 4}
c = train.LoopConfig(num_steps=30, steps_per_call=10)
worst = 0.0
for seeds, data in ((0, program.Rows), (2, lambda: program.sample)):
    split, whole = (
        train.fit(program.STEP, program.new_state(seeds), data(), c, mesh=m).state
        for m in (four, one))
    w = split.params["w"]
    assert len(w.sharding.device_set) == 4 and w.sharding.is_fully_replicated
    worst = max(worst, float(np.max(np.abs(np.asarray(w) - np.asarray(whole.params["w"])))))
from ico.train._compiled import Frozen, compiled_chunk
lowered = compiled_chunk(
    program.STEP, program.sample, 10, True, Frozen(()), Frozen(train.mesh.replicated(four)), four)
text = lowered.lower(program.new_state(2), None, ()).compile().as_text()
assert "all-reduce" in text, "the batch is not split"
odd = lambda key: {k: v[:6] for k, v in program.sample(key).items()}
try:
    train.fit(program.STEP, program.new_state(0), odd, c)
except ValueError as error:
    message = str(error)
print(json.dumps([worst, message]))
"""


def test_four_devices_equal_one(python, program, tmp_path):
    script = tmp_path / "four.py"
    script.write_text(FOUR_DEVICES)
    done = python(script, program.__file__)
    assert isinstance(done, subprocess.CompletedProcess)
    assert done.returncode == 0, done.stderr
    worst, message = json.loads(done.stdout)
    assert worst < 1e-5
    assert "6 rows, not a multiple of the 4 devices" in message


def test_mesh_refuses_more_devices_than_there_are():
    with pytest.raises(ValueError, match="needs 1000 devices"):
        train.make_mesh({"data": 1000})
