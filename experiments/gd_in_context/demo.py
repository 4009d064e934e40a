"""`python -m experiments.gd_in_context.demo`, or `make demo`: the paper's main result in a minute.

Two studies, made smaller, through the ordinary command line; then what they found, in words.
"""

import hashlib
from pathlib import Path

from experiments.gd_in_context.paper import paper
from experiments.gd_in_context.regression import LAYER
from ico import lab, report

SMALLER = "--one-layer-steps 1500 --batch-size 512 --closed-form-tasks 400000 --real-tasks 1000"
INTRODUCTION = """\
This trains a one-layer linear transformer on made-up regression problems, each given as ten
examples in its context; compares it with one step of gradient descent on the same examples; then
gives it real data it has never seen: scikit-learn's diabetes table. It takes about a minute.
"""
# Named after all settings: a folder of other settings, from older code, would be refused.
DIGEST = hashlib.sha256(repr((paper.presets["cpu"], SMALLER)).encode()).hexdigest()
OUT = Path("runs/gd_in_context") / f"demo-{DIGEST[:6]}"
COMPARED = {
    "trained layer": "trained layer",
    "GD, rate of training": "GD, same rate",
    "gradient descent, searched": "GD, tuned here",
    "ridge regression, searched": "ridge",
    "zero predictor": "zero",
}


def main() -> int:
    """Runs what is not yet there, and says what was found."""
    lab.print_what_fits()
    print(INTRODUCTION)
    # Goes on where an earlier demo was stopped; a finished one is read again.
    status = paper.main(f"--studies one_layer,real_data --out {OUT} --resume {SMALLER}".split())
    if status == 0:
        results = report.read_results(OUT)
        print_one_layer(results)
        print_real_data(results["tables"]["real_data"])
        print(f"\nFigures, all numbers and how they were made: {OUT / 'report.html'}")
    return status


def print_one_layer(results: dict) -> None:
    """The trained layer beside one step of gradient descent."""
    loss = {row["learner"]: row["loss"] for row in results["tables"]["one_layer"]["losses"]}
    cosine = next(c["measured"] for c in results["claims"] if c["id"] == "one_layer.cosine")
    print(
        "\nDoes the layer do gradient descent? Mean loss on problems it was not trained on:\n"
        f"  {loss['trained layer']:.4f}  the trained layer\n"
        f"  {loss['gradient descent']:.4f}  one step of gradient descent\n"
        f"  {loss['zero predictor']:.4f}  predicting zero\n"
        f"Its prediction leans on the inputs as gradient descent's does: cosine {cosine:.4f}."
    )


def print_real_data(tables: dict) -> None:
    """Losses on the real table by context length, and what the layer wins or loses."""
    loss = {(row["context"], row["learner"]): row["loss"] for row in tables["losses"]}
    contexts = sorted({n for n, _ in loss})
    print("\nReal data, no training on it. Mean loss by the number of rows in the context:")
    print(f"  {'':<18}" + "".join(f"{n:>9}" for n in contexts))
    for name, words in COMPARED.items():
        print(f"  {words:<18}" + "".join(f"{loss[n, name]:>9.3f}" for n in contexts))
    print(
        "(GD, same rate: one gradient step at the rate that was best on the made-up problems.\n"
        "GD and ridge were also tuned on this table; the layer is as it was trained.)\n"
        "The layer's loss minus the other's, with 95% interval; below zero the layer wins:"
    )
    for gap in sorted(tables["paired differences"], key=lambda gap: gap[f"{LAYER} minus"]):
        if words := COMPARED.get(gap[f"{LAYER} minus"]):
            wins = {LAYER: "layer wins", "undecided": "open"}.get(gap["better"], f"{words} wins")
            ends = f"[{gap['95% low']:+.3f}, {gap['95% high']:+.3f}]"
            where = f"{words:<18}{gap['context']:>3} rows"
            print(f"  {where}  {gap['difference']:+.3f} {ends}  {wins}")


if __name__ == "__main__":
    raise SystemExit(main())
