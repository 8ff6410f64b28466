"""The class that most people with a table will use: a preparation and a network together."""

import inspect
import os
from collections.abc import Collection, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np

from bp_xp import checks
from bp_xp._caller import named, own_arguments
from bp_xp._typing import Namespace
from bp_xp.backends import to_numpy
from bp_xp.math.metrics import METRICS
from bp_xp.network import Network
from bp_xp.sources.samples import split_rows
from bp_xp.storage import network_file
from bp_xp.tables.columns import Columns, as_columns, as_values
from bp_xp.tables.inputs import Scaling
from bp_xp.tables.preparation import Preparation, select
from bp_xp.tables.targets import Targets, Task
from bp_xp.training.history import History

__all__ = ["TableModel"]

_SECTION = "table"
"""The section of a network's file that holds the preparation."""

_OUTPUTS = {
    "classification": "categorical_cross_entropy",
    "multilabel": "binary_cross_entropy",
    "regression": "quadratic",
}
"""The cost of each task."""

_METRICS = {
    "classification": ("accuracy", "balanced_accuracy", "f1_macro"),
    "multilabel": (),
    "regression": ("r2", "mae"),
}
"""What each task is judged by; several labels are judged one by one."""


class TableModel:
    """A network that takes tables: text, dates, missing values and all, and answers in their words.

    ``fit`` learns from a table how to prepare it (:class:`~bp_xp.tables.Preparation`) and trains a
    network on it, with Adam; a part of the rows is held out, and the parameters of the epoch that
    was best there are kept. Predictions are class names, or numbers in the units of the table.

    Tables are pandas, polars, pyarrow or other data frames that narwhals knows, mappings of names
    to columns, arrays of shape (N, columns), or paths of files, which
    :func:`~bp_xp.tables.read_table` reads.

    Args:
        hidden_layer_sizes: neurons of each hidden layer.
        activation: σ of the hidden layers.
        task: ``"classification"``, ``"regression"``, ``"multilabel"``, or None to decide by the
            target.
        numeric: columns to take for numbers.
        categorical: columns to take for categories.
        drop: columns to leave out.
        scaling: how numbers are scaled: ``"standard"``, ``"minmax"``, ``"robust"`` or ``"none"``.
        optimizer: an optimizer or its name, as for :meth:`bp_xp.Network.fit`.
        epochs: the most passes over the training rows.
        batch_size: samples in a mini-batch; None is 32, or all where there are fewer.
        l2: the strength of the penalty on weights.
        validation_fraction: the share of the rows to hold out, each class its share; 0 holds out
            none, and keeps the parameters of the last epoch.
        patience: how many epochs without an improvement there end the run.
        device: where the network lives, as for :class:`bp_xp.Network`.
        backend: its array library, likewise.
        dtype: ``"float32"`` or ``"float64"``.
        seed: of the weights, the order of rows, and the rows that are held out.
        progress: whether to show it.

    Attributes:
        preparation: what was learnt of the table; printed, it tells what was decided.
        network: the network.
        history: the record of each epoch; None in a model that was loaded.

    Examples:
        >>> table = {"grams": [3, 4, 5, 30, 33, 35] * 9, "fur": ["gray", None, "gray"] * 18}
        >>> model = TableModel(epochs=40, seed=0)
        >>> model.fit(table, target=["mouse", "mouse", "mouse", "rat", "rat", "rat"] * 9)
        TableModel(epochs=40, seed=0)
        >>> model.predict({"fur": ["white", "gray"], "grams": [4, None], "tail": [7, 8]}).tolist()
        ['mouse', 'rat']
        >>> print(model.preparation)
        grams   number
        fur     1 category, with a column for what is missing
        target  target: classification of target: mouse, rat; text
    """

    preparation: Preparation
    network: Network
    history: History | None

    def __init__(
        self,
        hidden_layer_sizes: Sequence[int] = (64, 64),
        *,
        activation: Any = "relu",
        task: Task | None = None,
        numeric: Collection[str] = (),
        categorical: Collection[str] = (),
        drop: Collection[str] = (),
        scaling: Scaling = "standard",
        optimizer: Any = "adam",
        epochs: int = 300,
        batch_size: int | None = None,
        l2: float = 1e-2,
        validation_fraction: float = 0.15,
        patience: int = 30,
        device: str | None = None,
        backend: str | Namespace | None = None,
        dtype: Any = "float32",
        seed: int | None = None,
        progress: bool = False,
    ) -> None:
        # As scikit-learn's tools want it: kept as they came, and looked at by fit.
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.task: Task | None = task
        self.numeric = numeric
        self.categorical = categorical
        self.drop = drop
        self.scaling = scaling
        self.optimizer = optimizer
        self.epochs = epochs
        self.batch_size = batch_size
        self.l2 = l2
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.device = device
        self.backend = backend
        self.dtype = dtype
        self.seed = seed
        self.progress = progress

    # -----------------------------------------------------------------------------------------
    # How it learns

    def fit(self, table: Any, target: Any = None, **options: Any) -> "TableModel":
        """Learn the preparation, and train a new network.

        Args:
            table: the rows to learn from.
            target: what to predict: the name of a column, a list of names, or the values
                themselves, one for each row, or a table of them. A list of text is names where the
                table has columns of these names, and otherwise values.
            options: further arguments of :meth:`bp_xp.Network.fit`, such as ``callbacks``.

        Returns:
            The model.

        Raises:
            ValueError: a column is not there, a target is missing, a value does not fit the others
                of its column; the message names row and column.
            DataFormatError: a file can't be read as a table.
            DivergenceError: as for :meth:`bp_xp.Network.fit`.
        """
        columns = as_columns(table)
        columns, answers = _parted(columns, target)
        seed = np.random.SeedSequence().entropy if self.seed is None else self.seed
        rows, held_out = self._split(answers, np.random.default_rng(seed))
        wishes: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("task", "numeric", "categorical", "drop", "scaling")
        }
        preparation = Preparation.learn(columns, answers, rows=rows, **wishes)
        x, y = preparation.inputs(columns), preparation.outputs(answers)
        network = self._network(preparation)
        how: dict[str, Any] = {
            name: getattr(self, name) for name in ("optimizer", "epochs", "batch_size", "l2")
        } | {"progress": self.progress}
        if len(held_out):
            how |= {
                "validation_data": (x[held_out], y[held_out]),
                "early_stopping": checks.check_integer(self.patience, "patience"),
            }
        history = network.fit(x[rows], y[rows], **how | options)
        self.preparation, self.network, self.history = preparation, network, history
        return self

    def _split(
        self, answers: Columns, generator: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the numbers of the rows to train on, and of those to validate on."""
        n_rows = len(next(iter(answers.values())))
        fraction = checks.check_number(
            self.validation_fraction, "validation_fraction", least=0.0, below=1.0
        )
        if not fraction:
            return np.arange(n_rows), np.arange(0)
        if not 0 < round(fraction * n_rows) < n_rows:
            raise ValueError(
                f"{named('validation_fraction', fraction)} of {n_rows} rows leaves none to train "
                f"or to validate on: give more rows, or {named('validation_fraction', 0)}."
            )
        targets = Targets.learn(answers, self.task, np.arange(n_rows))
        labels = targets.encode(answers) if targets.classes else None
        return split_rows(n_rows, fraction, labels, generator)

    def _network(self, preparation: Preparation) -> Network:
        """Return an untrained network that fits a preparation."""
        targets = preparation.targets
        sizes = [len(preparation.features), *self.hidden_layer_sizes, targets.n_outputs]
        regression = targets.task == "regression"
        return Network(
            sizes,
            activation=self.activation,
            output_activation="identity" if regression else None,
            cost=_OUTPUTS[targets.task],
            device=self.device,
            backend=self.backend,
            dtype=self.dtype,
            seed=self.seed,
        )

    # -----------------------------------------------------------------------------------------
    # What it tells

    def predict(self, table: Any) -> np.ndarray:
        """Return the target of each row, in the words and units of the table learnt from.

        Args:
            table: rows with the columns learnt from, in any order; others are left alone.

        Returns:
            Classes, shape (N,); numbers, shape (N,), or (N, targets) for several; 0 or 1, shape
            (N, targets).

        Raises:
            ValueError: a column is missing, or holds something else than in training.
        """
        outputs = self._outputs(table)
        return self.preparation.targets.decode(outputs)

    def predict_proba(self, table: Any, *, as_columns: bool = False) -> Any:
        """Return the probability of each class, or of each label.

        Args:
            table: as for :meth:`predict`.
            as_columns: whether to return a mapping of classes to columns of shape (N,).

        Returns:
            Shape (N, K), in the order of :attr:`classes_`; or the mapping.

        Raises:
            ValueError: the model tells numbers; or as for :meth:`predict`.
        """
        probabilities = self._outputs(table)
        if self._fitted.targets.task == "regression":
            raise ValueError("this model tells numbers, which have no probabilities: use predict.")
        if not as_columns:
            return probabilities
        return dict(zip(self.classes_.tolist(), probabilities.T, strict=True))

    def evaluate(self, table: Any, target: Any = None) -> dict[str, float]:
        """Return how good the predictions are.

        Args:
            table: rows with the columns learnt from.
            target: the true values, as for :meth:`fit`; None takes the columns learnt to predict.

        Returns:
            Of classes, ``accuracy``, ``balanced_accuracy`` and ``f1_macro``; of numbers, ``r2`` and
            ``mae``, the mean error in the units of the target; of labels, ``accuracy``, the share
            of answers that are right, and ``f1_macro``, the mean over labels.

        Raises:
            ValueError: as for :meth:`predict`, or a target is missing or is none of the classes.
        """
        targets = self._fitted.targets
        columns = as_columns(table)
        wanted = list(targets.names) if target is None else target
        columns, answers = _parted(columns, wanted)
        if target is not None:  # it may be called otherwise than in training
            answers = dict(zip(targets.names, answers.values(), strict=True))
        true, outputs = targets.encode(answers), self._outputs(columns).astype(np.float64)

        def measured(name: str, a: np.ndarray, y: np.ndarray) -> float:
            return float(METRICS[name](a, y, xp=np))

        if targets.task == "multilabel":
            pairs = list(zip(outputs.T[..., None], true.T[..., None], strict=True))
            return {
                name: float(np.mean([measured(of_one, a, y) for a, y in pairs]))
                for name, of_one in (("accuracy", "accuracy"), ("f1_macro", "f1"))
            }
        if targets.task == "classification":
            true = np.eye(targets.n_outputs)[true]
        else:
            true, outputs = (v * targets.scale + targets.center for v in (true, outputs))
        return {name: measured(name, outputs, true) for name in _METRICS[targets.task]}

    def score(self, table: Any, target: Any = None) -> float:
        """Return the accuracy, or R² of numbers: what scikit-learn's tools compare by.

        Raises:
            ValueError: as for :meth:`evaluate`.
        """
        found = self.evaluate(table, target)
        return found["r2" if self._fitted.targets.task == "regression" else "accuracy"]

    @property
    def classes_(self) -> np.ndarray:
        """The classes as the table has them, or the names of labels; shape (K,)."""
        targets = self._fitted.targets
        return targets.class_values if targets.classes else np.array(targets.names)

    def _outputs(self, table: Any) -> np.ndarray:
        """Return the network's outputs, on the host."""
        x = self._fitted.inputs(table)
        return to_numpy(self.network.feedforward(x))

    @property
    def _fitted(self) -> Preparation:
        """The preparation; an error where there is none yet."""
        if not hasattr(self, "preparation"):
            raise ValueError("this model has learnt nothing yet: call fit(table, target=...).")
        return self.preparation

    # -----------------------------------------------------------------------------------------
    # Where it lives

    def to(
        self, device: str | None = None, *, backend: str | Namespace | None = None
    ) -> "TableModel":
        """Return a copy whose network is on another device; this one stays as it is.

        Args:
            device: as for :class:`bp_xp.Network`.
            backend: likewise.

        Raises:
            DeviceError: the device does not work on this machine.
            ValueError: the model has learnt nothing yet.
        """
        moved = copy(self)
        moved.device, moved.backend = device, backend
        moved.preparation = self._fitted
        moved.network = self.network.to(device, backend=backend)
        return moved

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the model to a safetensors file: a network's, with the preparation beside it.

        :meth:`bp_xp.Network.load` reads the network of it alone.

        Args:
            path: the file, which ends in .safetensors or in nothing; an older one is replaced.

        Returns:
            The path.

        Raises:
            ValueError: the name promises another format, or the model has learnt nothing yet.
            OSError: it could not be written; an older file is left as it was.
        """
        others = {_SECTION: self._fitted.to_section()}
        content = network_file.NetworkFile(self.network.describe(), others=others)
        return network_file.write(path, content)

    @classmethod
    @own_arguments
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        device: str | None = None,
        backend: str | Namespace | None = None,
        custom: Any = (),
    ) -> "TableModel":
        """Read a model that :meth:`save` wrote.

        Args:
            path: the file.
            device: where the network shall live, as for :class:`bp_xp.Network`.
            backend: likewise.
            custom: as for :meth:`bp_xp.Network.load`.

        Raises:
            FileNotFoundError: there is no such file.
            CheckpointError: it is damaged, or holds a network without a preparation.
            DeviceError: the device does not work on this machine.
        """
        others = network_file.read(path, "be read as a model of tables").others
        try:
            if _SECTION not in others:
                raise ValueError("it holds a network alone, which Network.load reads")
            preparation = Preparation.from_section(others[_SECTION])
            network = Network.load(path, device=device, backend=backend, custom=custom)
            wanted = len(preparation.features), preparation.targets.n_outputs
            if (network.sizes[0], network.sizes[-1]) != wanted:
                raise ValueError(f"its preparation does not fit its sizes {list(network.sizes)}")
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, network_file.CheckpointError):
                raise
            raise network_file.unfit(path, "be read as a model of tables", error) from error
        numbers, targets = preparation.numbers, preparation.targets
        model = cls(
            network.sizes[1:-1],
            task=targets.task,
            scaling=numbers.scaling,
            device=device,
            backend=backend,
            dtype=network.dtype,
            seed=network.seed,
        )
        model.preparation, model.network, model.history = preparation, network, None
        return model

    # -----------------------------------------------------------------------------------------
    # For scikit-learn's tools

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the arguments of the constructor by name; ``deep`` is scikit-learn's."""
        return {name: getattr(self, name) for name in _parameters(type(self))}

    def set_params(self, **params: Any) -> "TableModel":
        """Change arguments of the constructor, which the next fit goes by.

        Raises:
            ValueError: there is no such argument.
        """
        for name, value in params.items():
            if name not in _parameters(type(self)):
                raise ValueError(
                    f"{name!r} is none of the parameters {', '.join(_parameters(type(self)))}."
                )
            setattr(self, name, value)
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "preparation")

    def __sklearn_tags__(self) -> Any:
        from sklearn.utils import ClassifierTags, InputTags, RegressorTags, Tags, TargetTags

        kinds = {"regression": "regressor", None: None}
        kind = kinds.get(self.task, "classifier")
        return Tags(
            estimator_type=kind,
            target_tags=TargetTags(required=True),
            classifier_tags=ClassifierTags() if kind == "classifier" else None,
            regressor_tags=RegressorTags() if kind == "regressor" else None,
            input_tags=InputTags(string=True, categorical=True, allow_nan=True),
        )

    def __repr__(self) -> str:
        parameters = inspect.signature(type(self)).parameters
        changed = [
            f"{name}={value!r}"
            for name, value in self.get_params().items()
            if value is not parameters[name].default and value != parameters[name].default
        ]
        return f"{type(self).__name__}({', '.join(changed)})"


def _parameters(cls: type[TableModel]) -> list[str]:
    return list(inspect.signature(cls).parameters)


def _parted(columns: Columns, target: Any) -> tuple[Columns, Columns]:
    """Return the columns to learn from, and those to predict.

    Raises:
        ValueError: there is no target, a name is no column, or there are more or fewer values than
            rows.
    """
    if target is None:
        raise ValueError(
            f"{named('target')} is missing: pass the name of the column to predict, or its values."
        )
    names = [target] if isinstance(target, str) else target
    is_names = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
    is_names = is_names and len(set(names)) == len(names) and set(names) <= set(columns)
    if isinstance(target, str) or is_names:
        answers = select(columns, names, named("target"))
        return {name: v for name, v in columns.items() if name not in answers}, answers
    values: Any = target
    if isinstance(values, Mapping) or hasattr(values, "columns") or np.ndim(values) == 2:
        answers = as_columns(values)
    else:
        name = str(getattr(values, "name", None) or "target")
        answers = {name: as_values(values, name)}
    n_rows = len(next(iter(columns.values())))
    n_values = len(next(iter(answers.values())))
    if n_values != n_rows:
        raise ValueError(
            f"{named('target')} has {n_values} values, and the table {n_rows} rows: give one for "
            "each row."
        )
    return columns, answers
