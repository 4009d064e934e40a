"""Does disagreement over the training tell which answers, and which labels, are wrong?

Selective classification by training dynamics (2205.13532).

Dimension key: S seeds, n checkpoints, N images.
"""

import functools

import jax
import numpy as np

from experiments.training_trajectories import testbed
from experiments.training_trajectories.averaging_equivalence import chosen
from experiments.training_trajectories.paper import paper
from ico import data, lab, probes

NOISE = 0.2
CLEAN, NOISY, POISONED = "clean", "label noise", "poisoned labels"
SCORES = {"disagreement": 0.05, "disagreement, k = 2": 2.0, "latest disagreement": None}
CONFIDENCE = "softmax confidence"


@lab.once
def trained(run, condition: str):
    """Iterates of every epoch, at the learning rate that is best for the last iterate elsewhere."""
    share = {CLEAN: 0.0, NOISY: NOISE}.get(condition)
    labels = testbed.poisoned(run)[0] if share is None else testbed.noisy_labels(run, share)
    every = testbed.steps_per_epoch(run)
    return testbed.train_digits(
        run,
        condition.replace(" ", "-"),
        testbed.sgd(run),
        labels=labels,
        rates=(chosen(run)[0],),
        record_at=range(every, run.config.epochs * every + 1, every),
    )


def logits(run, condition: str, images: data.Images) -> np.ndarray:
    """[n, S, N, 10]: at every recorded iterate."""
    found = trained(run, condition)
    return np.stack(
        [
            testbed.measure(run, testbed.from_flat(found, flat_SD), images)["logits"]
            for flat_SD in testbed.iterates(found)[:, :, 0]
        ]
    )


def scores(logits_nSN) -> dict[str, np.ndarray]:
    """By name, of every seed [S, N]: large where the answer is doubted."""
    predictions = logits_nSN.argmax(-1)
    seeds = range(predictions.shape[1])
    found = {
        name: np.stack([probes.disagreement(predictions[:, s], k) for s in seeds])
        for name, k in SCORES.items()
    }
    confidence = np.asarray(jax.nn.softmax(logits_nSN[-1].astype(np.float32), -1)).max(-1)
    return found | {CONFIDENCE: -confidence.astype(float)}


@paper.study("Does disagreement over the training tell which answers and labels are wrong?")
def selective(run):
    """Rejecting test answers after clean and noisy training; finding poisoned training labels."""
    split = testbed.digits(run)
    for condition in (CLEAN, NOISY, POISONED):
        found = logits(run, condition, split.test)
        wrong = found[-1].argmax(-1) != split.test.labels
        for name, score_SN in scores(found).items():
            curves = [probes.risk_coverage(s, w) for s, w in zip(score_SN, wrong, strict=True)]
            areas = np.array([[curve.area] for curve in curves])
            found_errors = [
                [probes.error_detection(s, w)] for s, w in zip(score_SN, wrong, strict=True)
            ]
            yield lab.record(
                condition=condition,
                score=name,
                aurc=areas,
                auroc=np.array(found_errors),
                error=np.array([[curve.at(0.9)] for curve in curves]),
            )
            yield lab.record(
                "curve",
                condition=condition,
                score=name,
                coverage=curves[0].coverage,
                risk=np.stack([curve.risk for curve in curves]),
            )
    labels, marked = testbed.poisoned(run)
    found = logits(run, POISONED, split.train)
    by_label = np.take_along_axis(
        np.asarray(jax.nn.log_softmax(found.astype(np.float32), -1)),
        labels[None, ..., None].astype(int),
        -1,
    )[..., 0]
    rivals = {CONFIDENCE: scores(found)[CONFIDENCE], "mean loss": -by_label.mean(0)}
    rivals |= {"last loss": -by_label[-1]}
    for name, score_SN in (scores(found) | rivals).items():
        recall = [[probes.recall_at(s, m, 0.05)] for s, m in zip(score_SN, marked, strict=True)]
        yield lab.record("poison", score=name, recall=np.array(recall))


claim = functools.partial(selective.claim, kind="paper", unit="ratio of AURC")
for condition, band in ((NOISY, 0.7), (CLEAN, 1.0)):
    claim(
        condition.replace(" ", "_"),
        f"Disagreement rejects wrong answers better than confidence ({condition})",
        "2205.13532, abstract",
        band=(None, band),
        of=lab.ratio("aurc", condition=condition, score=("disagreement", CONFIDENCE)),
    )
claim(
    "poison",
    "Disagreement finds poisoned training labels at 5% false alarms",
    "ours",
    kind="ours",
    unit="recall",
    band=(0.5, None),
    of=lab.mean("recall", record="poison", score="disagreement"),
)
selective.note(
    "AURC: the mean error over all coverages. One of twenty training labels is poisoned: it is the "
    "next class; `mean loss` is that of a training image on its own label over the checkpoints."
)
selective.table("rejecting wrong answers", lab.rows("aurc", also=("auroc", "error")))
selective.table("finding poisoned labels", lab.rows("recall", record="poison"))
selective.figure(
    lab.lines(
        "coverage",
        "risk",
        record="curve",
        panel="condition",
        color="score",
        ylabel="error of those accepted",
    ),
    "Error on the accepted share of the test images, accepted in the order of each score.",
)
