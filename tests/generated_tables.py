"""Tables that are made up from a seed, and models of them, which are not trained."""

import datetime

import numpy as np

from bp_xp import Network
from bp_xp.tables import Preparation, TableModel

NAMES = ["größe", 'a "b"\\ c', "label", "probabilities", "t1", "inputs", "W1", "NUMBERS", "x, y"]
WORDS = ["Ulm", "Köln", "", "NA", "a,b", "O'Hara", '"', "1", "1.0", "true", "\\n"]
DAY = datetime.datetime(1999, 12, 31)


def missing_here_and_there(values, rng):
    return [None if rng.random() < 0.2 else value for value in values]


def column(kind, n, rng, unseen):
    """Return a column of a kind; ``unseen`` puts values into it that training rows lack."""
    if kind == "number":
        return (rng.normal(size=n) * 10.0 ** rng.integers(-3, 9)).tolist()
    if kind == "few numbers":
        return rng.choice([-0.0, 0.0, 1.0, 2.5, 7.0][: 5 if unseen else 4], n).tolist()
    if kind == "constant":
        return [4.5] * n
    if kind == "dates":
        return [DAY + datetime.timedelta(hours=int(h)) for h in rng.integers(0, 9999, n)]
    if kind == "days":
        return [(DAY + datetime.timedelta(days=int(d) + unseen)) for d in rng.integers(0, 3, n)]
    if kind == "truth values":
        return [bool(v) for v in rng.random(n) < 0.5]
    words = rng.choice(WORDS, 4, replace=False).tolist()
    p = [0.5, 0.3, 0.19, 0.01]  # the last one is rare
    found = rng.choice(words, n, p=p).tolist()
    return ["unseen" if unseen and rng.random() < 0.2 else word for word in found]


KINDS = ["number", "few numbers", "constant", "dates", "days", "truth values", "text"]


def targets(task, n, rng):
    """Return columns to predict."""
    if task == "classification":
        classes = [["groß, teuer", "klein", "'"], [3, 1, 2], [True, False], [0.5, 1.5]]
        chosen = classes[rng.integers(len(classes))]
        return {"kind": [chosen[i] for i in np.arange(n) % len(chosen)]}
    names = ["rent", "größe"][: 2 if task == "multilabel" else rng.integers(1, 3)]
    if task == "multilabel":
        return {name: (np.arange(n) % (i + 2) == 0).astype(int) for i, name in enumerate(names)}
    return {name: rng.normal(300, 50, n) for name in names}


def generated(seed, n_rows=(1, 50)):
    """Return a model, and tables of rows that it has not seen, in the words of the model."""
    rng = np.random.default_rng(seed)
    kinds = {
        str(name): str(rng.choice(KINDS))
        for name in rng.choice(NAMES, rng.integers(1, 6), replace=False)
    }
    kinds["number"] = "number"  # so that a column is left
    lacking = {name for name in kinds if rng.random() < 0.5}

    def table(n, rng, unseen=False):
        columns = {name: column(kind, n, rng, unseen) for name, kind in kinds.items()}
        return {
            name: missing_here_and_there(values, rng) if name in lacking or unseen else values
            for name, values in columns.items()
        }

    task = str(rng.choice(["classification", "regression", "multilabel"]))
    as_categories = [name for name, kind in kinds.items() if kind in ("few numbers", "days")]
    preparation = Preparation.learn(
        table(80, np.random.default_rng(seed)),
        targets(task, 80, rng),
        task=task,
        scaling=str(rng.choice(["standard", "minmax", "robust", "none"])),
        categorical=[name for name in as_categories if rng.random() < 0.7],
    )
    model = TableModel(task=task)
    model.preparation = preparation
    regression = task == "regression"
    model.network = Network(
        [len(preparation.features), 6, preparation.targets.n_outputs],
        activation=str(rng.choice(["relu", "tanh", "gelu_exact", "elu"])),
        cost="quadratic" if regression else "categorical_cross_entropy",
        output_activation="identity" if regression else None,
        dtype=str(rng.choice(["float32", "float64"])),
        seed=seed,
    )
    return model, [table(n, np.random.default_rng(seed), unseen=True) for n in n_rows]
