"""``TableModel`` with its defaults, on ten real tables, compared with common alternatives.

    python -m pip install -e ".[bench,table]" palmerpenguins statsmodels vega_datasets pytabkit
    python ci/benchmarks/tables.py [--only NAME ...] [--json FILE] [--table]

A quarter of each table's rows is for testing, the same for all seeds, and no setting of bp_xp was
chosen with it. Each of five seeds draws four fifths of the other rows to train on, and the initial
weights. All contestants get the same rows:

- bp_xp: ``TableModel(seed=seed)``; and the mean prediction of four of them, with other seeds.
- scikit-learn: median and most frequent value for missing values, StandardScaler, OneHotEncoder,
  and MLPClassifier or MLPRegressor with their defaults. The regressor gets a standardized target:
  without it, it fails on targets in thousands.
- trees: HistGradientBoostingClassifier or HistGradientBoostingRegressor with their defaults.
- RealMLP: RealMLP-TD-S of pytabkit, with its defaults.

With ``--json``, the results are added to the file, and each contestant that ``--only`` names is
measured again; ``--table`` only prints the file. The script prints accuracy or R² on the test rows,
mean ± standard deviation over the seeds, then the difference of each contestant from
scikit-learn's, divided by the standard deviation of the latter (at least that of one test row, for
accuracies), and the seconds of a fit, medians over seeds and their geometric mean over tables. They
are processor time, which other programs do not lengthen. Set OMP_NUM_THREADS=1 for one thread.
"""

import argparse
import importlib
import json
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from run import machine

SEEDS = range(5)
TEST_FRACTION, TRAINED_FRACTION, MEMBERS = 0.25, 0.8, 4
BASELINE = "scikit-learn"

# ---------------------------------------------------------------------------------------------
# Tables


def _of_scikit_learn(name: str) -> pd.DataFrame:
    from sklearn import datasets

    found = getattr(datasets, f"load_{name}")(as_frame=True)
    frame = found.data.copy()
    is_class = hasattr(found, "target_names") and found.target.dtype.kind == "i"
    frame["target"] = (
        [str(found.target_names[i]) for i in found.target] if is_class else found.target
    )
    return frame


def _penguins() -> pd.DataFrame:
    from palmerpenguins import load_penguins

    return load_penguins()


def _vega(name: str, *left_out: str) -> pd.DataFrame:
    from vega_datasets import data

    return data(name).drop(columns=list(left_out))


def _statsmodels(name: str) -> pd.DataFrame:
    return importlib.import_module(f"statsmodels.datasets.{name}").load_pandas().data


def _fair() -> pd.DataFrame:
    frame = _statsmodels("fair")
    frame["affair"] = np.where(frame.pop("affairs") > 0, "yes", "no")
    return frame


def _anes96() -> pd.DataFrame:
    frame = _statsmodels("anes96")
    frame["vote"] = np.where(frame["vote"] > 0, "Dole", "Clinton")
    return frame


TABLES: dict[str, tuple[Callable[[], pd.DataFrame], str]] = {
    "iris": (lambda: _of_scikit_learn("iris"), "target"),
    "wine": (lambda: _of_scikit_learn("wine"), "target"),
    "breast cancer": (lambda: _of_scikit_learn("breast_cancer"), "target"),
    "digits": (lambda: _of_scikit_learn("digits"), "target"),
    "fair": (_fair, "affair"),
    "anes96": (_anes96, "vote"),
    "diabetes": (lambda: _of_scikit_learn("diabetes"), "target"),
    "penguins": (_penguins, "body_mass_g"),
    "cars": (lambda: _vega("cars", "Name"), "Miles_per_Gallon"),
    "barley": (lambda: _vega("barley"), "yield"),
}
"""Of each table, how it is loaded, and the column to predict."""


def load(name: str) -> tuple[pd.DataFrame, str]:
    """Return a table without the rows that lack the target, and the column to predict."""
    make, target = TABLES[name]
    frame = make().dropna(subset=[target]).reset_index(drop=True)
    for column in frame.columns:
        if frame[column].dtype.kind == "M":  # for contestants that know no dates
            frame[column] = frame[column].dt.year + frame[column].dt.dayofyear / 366
    numbers = frame.select_dtypes("number").columns
    frame = frame.astype(dict.fromkeys(numbers, "float64"))
    texts = [column for column in frame.columns if column not in numbers]
    frame[texts] = frame[texts].astype(object).where(frame[texts].notna(), None)
    return frame, target


class Rows(NamedTuple):
    """What a contestant gets.

    Attributes:
        x: the columns to learn from.
        y: the values to predict.
        classes: whether they are classes.
    """

    x: pd.DataFrame
    y: pd.Series
    classes: bool

    def take(self, rows: np.ndarray) -> "Rows":
        """Return some rows."""
        return Rows(self.x.iloc[rows], self.y.iloc[rows], self.classes)

    def split(self, fraction: float, seed: int) -> tuple["Rows", "Rows"]:
        """Return a share of the rows, each class its share, and the others."""
        from sklearn.model_selection import train_test_split

        chosen, others = train_test_split(
            np.arange(len(self.y)),
            train_size=fraction,
            stratify=self.y if self.classes else None,
            random_state=seed,
        )
        return self.take(np.asarray(chosen)), self.take(np.asarray(others))


def parts(name: str) -> tuple[Rows, Rows]:
    """Return the rows of a table that may be trained on, and those to test on."""
    frame, target = load(name)
    y: Any = frame[target]
    rows = Rows(frame.drop(columns=target), y, y.dtype.kind != "f")
    return rows.split(1.0 - TEST_FRACTION, seed=0)


# ---------------------------------------------------------------------------------------------
# Contestants: from training rows and a seed to what predicts

Predict = Callable[[pd.DataFrame], np.ndarray]


def _numbers_and_texts(x: pd.DataFrame) -> tuple[list[str], list[str]]:
    numbers = list(x.select_dtypes("number").columns)
    return numbers, [column for column in x.columns if column not in numbers]


def ours(rows: Rows, seed: int) -> Predict:
    """Return TableModel."""
    from bp_xp.tables import TableModel

    return TableModel(seed=seed).fit(rows.x, rows.y).predict


def several_of_ours(rows: Rows, seed: int) -> Predict:
    """Return the mean of several."""
    from bp_xp.tables import TableModel

    models = [
        TableModel(seed=seed + 1000 * member).fit(rows.x, rows.y) for member in range(MEMBERS)
    ]
    if not rows.classes:
        return lambda x: np.mean([model.predict(x) for model in models], axis=0)
    classes = models[0].classes_
    return lambda x: classes[np.mean([m.predict_proba(x) for m in models], axis=0).argmax(axis=1)]


def scikit_learn(rows: Rows, seed: int) -> Predict:
    """Return scikit-learn's usual pipeline."""
    from sklearn.compose import TransformedTargetRegressor, make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    numbers, texts = _numbers_and_texts(rows.x)
    nothing: Any = None
    frequent = SimpleImputer(missing_values=nothing, strategy="most_frequent")
    columns = make_column_transformer(
        (make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), numbers),
        (make_pipeline(frequent, OneHotEncoder(handle_unknown="ignore")), texts),
    )
    last: Any = MLPClassifier(random_state=seed)
    if not rows.classes:
        network = MLPRegressor(random_state=seed)
        last = TransformedTargetRegressor(network, transformer=StandardScaler())
    return make_pipeline(columns, last).fit(rows.x, rows.y).predict


def trees(rows: Rows, seed: int) -> Predict:
    """Return boosted trees."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    kind = HistGradientBoostingClassifier if rows.classes else HistGradientBoostingRegressor
    convert = _categories(rows.x)
    model = kind(random_state=seed).fit(convert(rows.x), rows.y)
    return lambda x: model.predict(convert(x))


def realmlp(rows: Rows, seed: int) -> Predict:
    """Return RealMLP-TD-S, which takes no missing numbers."""
    from pytabkit import RealMLP_TD_S_Classifier, RealMLP_TD_S_Regressor

    numbers, _ = _numbers_and_texts(rows.x)
    medians, convert = rows.x[numbers].median(), _categories(rows.x)
    kind = RealMLP_TD_S_Classifier if rows.classes else RealMLP_TD_S_Regressor
    model = kind(random_state=seed, device="cpu", n_threads=1)
    model.fit(convert(rows.x.fillna(medians)), rows.y.to_numpy())
    return lambda x: np.asarray(model.predict(convert(x.fillna(medians)))).reshape(len(x))


def _categories(x: pd.DataFrame) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """Return what makes pandas' categories of text, those of the training rows."""
    known = {c: sorted(x[c].dropna().unique()) for c in _numbers_and_texts(x)[1]}
    kinds = {column: pd.CategoricalDtype(["missing", *labels]) for column, labels in known.items()}
    filled = dict.fromkeys(known, "missing")
    return lambda x: x.fillna(filled).astype(kinds)


CONTESTANTS: dict[str, Callable[[Rows, int], Predict]] = {
    BASELINE: scikit_learn,
    "bp_xp": ours,
    "four of bp_xp": several_of_ours,
    "trees": trees,
    "RealMLP": realmlp,
}

# ---------------------------------------------------------------------------------------------
# The race


def measure(name: str, contestant: str) -> dict[str, list[float]]:
    """Return scores on the test rows, and the seconds of fits, one for each seed."""
    rows, test = parts(name)
    scores, seconds = [], []
    for seed in SEEDS:
        training, _ = rows.split(TRAINED_FRACTION, seed)
        begun = time.process_time()
        predict = CONTESTANTS[contestant](training, seed)
        seconds.append(round(time.process_time() - begun, 3))
        predicted = predict(test.x)
        if test.classes:
            scores.append(float(np.mean(predicted == test.y.to_numpy())))
        else:
            y = test.y.to_numpy()
            scores.append(float(1 - ((y - predicted) ** 2).sum() / ((y - y.mean()) ** 2).sum()))
    return {"scores": scores, "seconds": seconds, "rows": [len(rows.y), len(test.y)]}


def print_tables(results: dict[str, dict[str, Any]]) -> None:
    """Print scores, differences from the baseline and times, as Markdown."""
    found = [n for n in CONTESTANTS if all(n in results[table] for table in results)]
    others = [name for name in found if name != BASELINE]
    print(f"| table, rows to train on | {' | '.join(found)} |\n|---|{'---|' * len(found)}")
    gains: dict[str, list[float]] = {name: [] for name in others}
    for table, each in results.items():
        base = each[BASELINE]["scores"]
        is_classes = parts(table)[1].classes
        least = 1 / each[BASELINE]["rows"][1] if is_classes else 0.0
        spread = max(statistics.stdev(base), least)
        cells = []
        for name in found:
            scores = each[name]["scores"]
            cell = f"{statistics.mean(scores):.3f} ± {statistics.stdev(scores):.3f}"
            if name != BASELINE:
                gain = (statistics.mean(scores) - statistics.mean(base)) / spread
                gains[name].append(gain)
                cell += f" ({gain:+.1f})"
            cells.append(cell)
        n_trained = round(TRAINED_FRACTION * each[BASELINE]["rows"][0])
        kind = "accuracy" if is_classes else "R²"
        print(f"| {table}, {n_trained:,}, {kind} | {' | '.join(cells)} |")
    means = ["", *(f"{statistics.mean(gains[name]):+.2f}" for name in others)]
    print(f"| mean of differences | {' | '.join(means)} |")
    times = {
        name: statistics.geometric_mean(
            statistics.median(each[name]["seconds"]) for each in results.values()
        )
        for name in found
    }
    print(f"| seconds of a fit | {' | '.join(f'{times[name]:.2f}' for name in found)} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--table", action="store_true", help="print what the file holds")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    results: dict[str, dict[str, Any]] = {name: {} for name in TABLES}
    if arguments.json and arguments.json.exists():
        results |= json.loads(arguments.json.read_text())["results"]
    for contestant in [] if arguments.table else arguments.only:
        for name in TABLES:
            results[name][contestant] = measure(name, contestant)
            print(f"{contestant}, {name}: {results[name][contestant]}", flush=True)
            if arguments.json:
                content = {"machine": machine(), "results": results}
                arguments.json.write_text(json.dumps(content, indent=1) + "\n")
    print_tables(results)


if __name__ == "__main__":
    main()
