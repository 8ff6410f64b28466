"""The class that most users with a table need: a preparation and a network together."""

import os
from collections.abc import Collection, Sequence
from copy import copy
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from bp_xp import checks
from bp_xp._caller import own_arguments
from bp_xp._typing import Namespace
from bp_xp.backends import place, to_numpy
from bp_xp.datasets.stored_table import StoredColumns
from bp_xp.network import Network
from bp_xp.ranks import find_ranks
from bp_xp.sources import Stream
from bp_xp.storage import network_file
from bp_xp.tables.card import Card
from bp_xp.tables.columns import Columns, as_columns
from bp_xp.tables.files import read_sections, write_sections
from bp_xp.tables.importance import permutation_importance
from bp_xp.tables.inputs import Scaling
from bp_xp.tables.judging import METRICS_OF_TASK, judge_answers
from bp_xp.tables.parameters import WithParameters
from bp_xp.tables.parts import Prepared, Split, ignored_by, part_columns, prepare
from bp_xp.tables.preparation import Preparation, select
from bp_xp.tables.recipe import Recipe
from bp_xp.tables.stored import StoredInputs, open_columns
from bp_xp.tables.targets import Task
from bp_xp.training.checkpoint import Checkpoint
from bp_xp.training.history import History

__all__ = ["COST_OF_TASK", "TableModel"]

COST_OF_TASK = {
    "classification": "categorical_cross_entropy",
    "multilabel": "binary_cross_entropy",
    "regression": "quadratic",
}
"""The cost of each task."""


class TableModel(WithParameters):
    """A network for tables with text, dates and missing values, which predicts in their terms.

    ``fit`` learns from a table how to prepare it (:class:`~bp_xp.tables.Preparation`) and trains a
    network on it, by the recipe that ``print(model.recipe)`` shows: see
    :class:`~bp_xp.tables.Recipe`. Each argument changes the recipe. Predictions are class names, or
    numbers in the units of the table.

    Tables are pandas, polars, pyarrow or other data frames that narwhals knows, mappings of names
    to columns, arrays of shape (N, columns), or paths of files, which
    :func:`~bp_xp.tables.read_table` reads.

    Args:
        hidden_layer_sizes: neurons of each hidden layer.
        activation: σ of the hidden layers.
        task: ``"classification"``, ``"regression"``, ``"multilabel"``, or None to decide from the
            target.
        numeric: columns to treat as numbers.
        categorical: columns to treat as categories.
        drop: columns to leave out.
        scaling: how numbers are scaled: ``"standard"``, ``"minmax"``, ``"robust"`` or ``"none"``.
        optimizer: an optimizer or its name, as for :meth:`bp_xp.Network.fit`; None is Adam with a
            rate that falls to 0 along a cosine.
        learning_rate: the initial rate of that Adam; other optimizers have their own.
        epochs: the largest number of passes over the training rows.
        batch_size: the largest number of samples in a mini-batch; all mini-batches have nearly the
            same size.
        l2: the strength of the penalty on weights, or a list with one for each layer; None derives
            it from the number of rows.
        dropout: the share of hidden neurons left out of a step, or a list of shares.
        validation_fraction: the share of the rows to hold out, with the same share of each class,
            to restore the epoch that was best on them; 0 holds out none, and keeps the last epoch.
        patience: how many epochs without an improvement on them end the run; None continues to the
            last epoch.
        split_by: a column whose equal values, of one patient for example, are held out together;
            nothing else is learned from it.
        split_last: whether the last rows are held out, for rows in the order of time.
        device: the device of the network, as for :class:`bp_xp.Network`.
        backend: its array library, as for :class:`bp_xp.Network`.
        dtype: ``"float32"`` or ``"float64"``.
        seed: the seed of the weights, the order of rows, and the rows that are held out.
        progress: whether to show progress.

    Attributes:
        preparation: what was learned from the table; printed, it shows what was decided.
        network: the network; its ``seed`` is the one that was drawn if none was given.
        card: what the model was trained on; printed, it shows ranges, counts and metrics.
        history: the record of each epoch; None in a model that was loaded.
        held_out: the numbers of the rows that were held out, shape (rows,); None in a model that
            was loaded.

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
    card: Card | None
    history: History | None
    held_out: np.ndarray | None

    def __init__(
        self,
        hidden_layer_sizes: Sequence[int] = Recipe.hidden_layer_sizes,
        *,
        activation: Any = Recipe.activation,
        task: Task | None = None,
        numeric: Collection[str] = (),
        categorical: Collection[str] = (),
        drop: Collection[str] = (),
        scaling: Scaling = Recipe.scaling,
        optimizer: Any = Recipe.optimizer,
        learning_rate: float = Recipe.learning_rate,
        epochs: int = Recipe.epochs,
        batch_size: int = Recipe.batch_size,
        l2: Any = Recipe.l2,
        dropout: Any = Recipe.dropout,
        validation_fraction: float = Recipe.validation_fraction,
        patience: int | None = Recipe.patience,
        split_by: str | None = None,
        split_last: bool = False,
        device: str | None = None,
        backend: str | Namespace | None = None,
        dtype: Any = "float32",
        seed: int | None = None,
        progress: bool = False,
    ) -> None:
        # As scikit-learn's tools require: stored unchanged here, and checked by fit.
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.task: Task | None = task
        self.numeric = numeric
        self.categorical = categorical
        self.drop = drop
        self.scaling = scaling
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.epochs = epochs
        self.batch_size = batch_size
        self.l2 = l2
        self.dropout = dropout
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.split_by = split_by
        self.split_last = split_last
        self.device = device
        self.backend = backend
        self.dtype = dtype
        self.seed = seed
        self.progress = progress

    # -----------------------------------------------------------------------------------------
    # Training

    def fit(
        self, table: Any, target: Any = None, *, stream: bool | int | None = None, **options: Any
    ) -> "TableModel":
        """Learn the preparation, and train a new network.

        A file is not read into memory if it is large or if ``stream`` is set: its columns are
        written to temporary files (in the folder that ``TMPDIR`` names), and prepared as they are
        read, in blocks that are shuffled as described for :class:`bp_xp.Stream`. The preparation
        that is learned is the same.

        Args:
            table: the rows to learn from.
            target: what to predict: the name of a column, a list of names, or the values
                themselves, one for each row, or a table of them. A list of text is names if the
                table has columns with these names, and values otherwise.
            stream: whether the table, a path, is read in parts; a number is the number of rows that
                are shuffled together, and the number of all rows gives the same run as in memory.
                None is False below 512 MB of CSV, or 128 MB of Parquet.
            options: further arguments of :meth:`bp_xp.Network.fit`, such as ``callbacks`` or
                ``distributed``, for which each process has the whole table.

        Returns:
            The model.

        Raises:
            ValueError: a column does not exist, a target is missing, or a value does not fit the
                others in its column; the message names the row and the column.
            DataFormatError: a file can't be read as a table.
            OSError: there is no room for temporary files, or the file changed while it was read.
            DivergenceError: as for :meth:`bp_xp.Network.fit`.
        """
        ranks = find_ranks(options.get("distributed"), place(self.device, self.backend))
        # Without a seed, each process would hold out different rows.
        seed = ranks.first(lambda: checks.check_seed(self.seed))
        columns = open_columns(
            table, self.categorical, stream, ignored=ignored_by(self.drop, self.split_by)
        )
        prepared = self._prepare(columns, target, seed)
        network = Network(**self._network_arguments(prepared.preparation), seed=seed)
        names = [field.name for field in fields(Recipe)]
        recipe = replace(self.recipe, **{n: options.pop(n) for n in names if n in options})
        held_out = prepared.rows["validation"]
        how = recipe.fit_arguments(len(prepared.rows["training"]), len(held_out))
        how["progress"] = self.progress
        if len(held_out):
            how["validation_data"] = prepared.part("validation")
        if options.get("checkpoint") is not None:
            options["checkpoint"] = _with_preparation(options["checkpoint"], prepared.preparation)
        x, y = prepared.part("training")
        if stream is not None and not isinstance(stream, bool):
            x = Stream(x, buffer_size=stream)
        history = network.fit(x, y, **how | options)
        self.preparation, self.network = prepared.preparation, network
        self.history, self.held_out = history, held_out
        parts = [part for part, rows in prepared.rows.items() if len(rows)]
        measured = {part: self.judge(*prepared.part(part)) for part in parts}
        self.card = Card.learn(prepared, measured)
        return self

    @property
    def recipe(self) -> Recipe:
        """How it trains; printed, it shows every setting, and which ones differ from the recipe."""
        return Recipe(**{field.name: getattr(self, field.name) for field in fields(Recipe)})

    def _prepare(
        self, columns: Columns, target: Any, seed: int, fold: tuple[Any, Any] | None = None
    ) -> Prepared:
        """Return a table as its network takes it; a fold is as for :class:`Split`."""
        split = Split(self.validation_fraction, by=self.split_by, last=self.split_last, fold=fold)
        wishes: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("task", "numeric", "categorical", "drop", "scaling")
        }
        return prepare(columns, target, split=split, seed=seed, **wishes)

    def _network_arguments(self, preparation: Preparation) -> dict[str, Any]:
        """Return the arguments, but for the seed, of the network that fits a preparation."""
        targets = preparation.targets
        regression = targets.task == "regression"
        return {
            "sizes": [len(preparation.features), *self.hidden_layer_sizes, targets.n_outputs],
            "activation": self.activation,
            "output_activation": "identity" if regression else None,
            "cost": COST_OF_TASK[targets.task],
            "device": self.device,
            "backend": self.backend,
            "dtype": self.dtype,
        }

    # -----------------------------------------------------------------------------------------
    # Predictions

    def predict(self, table: Any) -> np.ndarray:
        """Return the target of each row, in the classes and units of the training table.

        Args:
            table: rows with the columns of the training table, in any order; others are ignored.

        Returns:
            Classes, shape (N,); numbers, shape (N,), or (N, targets) for several; 0 or 1, shape
            (N, targets).

        Raises:
            ValueError: a column is missing, or holds something other than in training.
        """
        return self.answers(self._inputs(table))

    def predict_proba(self, table: Any, *, as_columns: bool = False) -> Any:
        """Return the probability of each class, or of each label.

        Args:
            table: as for :meth:`predict`.
            as_columns: whether to return a mapping of classes to columns of shape (N,).

        Returns:
            Shape (N, K), in the order of :attr:`classes_`; or the mapping.

        Raises:
            ValueError: the model predicts numbers; or as for :meth:`predict`.
        """
        probabilities = self.outputs(self._inputs(table))
        if self._fitted.targets.task == "regression":
            raise ValueError("this model predicts numbers without probabilities: use predict.")
        if not as_columns:
            return probabilities
        return dict(zip(self.classes_.tolist(), probabilities.T, strict=True))

    def evaluate(self, table: Any, target: Any = None, *, metrics: Any = ()) -> dict[str, float]:
        """Return how good the predictions are.

        Args:
            table: rows with the columns of the training table.
            target: the true values, as for :meth:`fit`; None takes the target columns of the table.
            metrics: what else to measure, as for :meth:`bp_xp.Network.evaluate`.

        Returns:
            For classes, ``accuracy``, ``balanced_accuracy`` and ``f1_macro``; for numbers, ``r2``
            and ``mae``, the mean absolute error in the units of the target; for labels,
            ``accuracy``, the share of correct answers, and ``f1_macro``, the mean over labels.

        Raises:
            ValueError: as for :meth:`predict`, or a target is missing or not one of the classes, or
                there are no rows.
        """
        return self.judge(*self._samples(table, target), metrics)

    def importance(
        self, table: Any, target: Any = None, *, repeats: int = 5, seed: int = 0
    ) -> dict[str, float]:
        """Return how much the score falls when the values of one column are shuffled.

        The score is that of :meth:`score`. Pass rows that the model was not trained on. If two
        columns hold the same information, both can seem unimportant.

        Args:
            table: rows with the columns of the training table.
            target: as for :meth:`evaluate`.
            repeats: how many times each column is shuffled.
            seed: the seed of the shuffles.

        Returns:
            The mean fall of the score by column, the largest first.

        Raises:
            ValueError: as for :meth:`evaluate`.
        """
        x, y = self._samples(table, target, "importance")
        name = self._score_name
        return permutation_importance(
            self.preparation,
            x[:],
            lambda shuffled: self.judge(shuffled, y)[name],
            repeats=checks.check_integer(repeats, "repeats"),
            seed=checks.check_seed(seed),
        )

    def _samples(self, table: Any, target: Any, who: str = "evaluate") -> tuple[Any, np.ndarray]:
        """Return inputs and targets of a table with one row or more, for a method."""
        preparation = self._fitted
        targets = preparation.targets
        wanted = list(targets.names) if target is None else target
        names = [wanted] if isinstance(wanted, str) else wanted if isinstance(wanted, list) else []
        used = {*preparation.columns, *(name for name in names if isinstance(name, str))}
        columns = open_columns(table, preparation.text, only=used)
        if target is None:
            select(columns, targets.names, who)
        columns, answers = part_columns(columns, wanted)
        if target is not None:  # its name may differ from training
            answers = dict(zip(targets.names, answers.values(), strict=True))
        x, y = self._inputs(columns), targets.encode(answers)
        if not len(x):
            raise ValueError("the table has no rows to evaluate.")
        return x, y

    def judge(self, x: Any, y: np.ndarray, metrics: Any = ()) -> dict[str, float]:
        """Return the metrics of :meth:`evaluate` for the prepared rows of a table.

        Args:
            x: inputs, shape (N, features).
            y: labels, shape (N,), or targets, shape (N, targets).
            metrics: what else to measure.

        Raises:
            ValueError: a metric does not fit this task.
        """
        return judge_answers(self.preparation.targets, self.outputs, x, y, metrics)

    def score(self, table: Any, target: Any = None) -> float:
        """Return the accuracy, or R² for numbers: the score that scikit-learn's tools compare.

        Raises:
            ValueError: as for :meth:`evaluate`.
        """
        return self.evaluate(table, target)[self._score_name]

    @property
    def _score_name(self) -> str:
        return METRICS_OF_TASK[self._fitted.targets.task][0]

    @property
    def classes_(self) -> np.ndarray:
        """The classes as the table has them, or the names of labels; shape (K,)."""
        targets = self._fitted.targets
        return targets.class_values if targets.classes else np.array(targets.names)

    def outside(self, table: Any) -> dict[str, str]:
        """Return the columns with values that training did not see, with counts in words.

        Raises:
            ValueError: as for :meth:`predict`.
        """
        columns = as_columns(table, self._fitted.text, only=self._fitted.columns)
        return {} if self.card is None else self.card.outside(columns)

    def _inputs(self, table: Any) -> Any:
        """Return the inputs of the network; those of a large file are made as they are read."""
        columns = open_columns(
            table, self._fitted.text, only=self._fitted.columns, allow_empty=True
        )
        if isinstance(columns, StoredColumns):
            return StoredInputs(self.preparation, columns)
        return self.preparation.inputs(columns)

    def answers(self, x: Any) -> np.ndarray:
        """Return the predictions of :meth:`predict` for the prepared rows of a table."""
        return self.preparation.targets.decode(self.outputs(x))

    def outputs(self, x: Any) -> np.ndarray:
        """Return the network's outputs, or probabilities of classes, on the host, shape (N, K).

        Args:
            x: the prepared rows of a table, shape (N, features).
        """
        targets = self.preparation.targets
        if not len(x):
            return np.zeros((0, targets.n_outputs))
        # For two classes, a network may have one output.
        is_one = self.network.sizes[-1] < targets.n_outputs
        return to_numpy((self.network.predict_proba if is_one else self.network.feedforward)(x))

    @property
    def _fitted(self) -> Preparation:
        """The preparation; an error if there is none yet."""
        if not hasattr(self, "preparation"):
            raise ValueError("this model has learned nothing yet: call fit(table, target=...).")
        return self.preparation

    # -----------------------------------------------------------------------------------------
    # Devices and files

    def to(
        self, device: str | None = None, *, backend: str | Namespace | None = None
    ) -> "TableModel":
        """Return a copy whose network is on another device; this one stays as it is.

        Args:
            device: as for :class:`bp_xp.Network`.
            backend: as for :class:`bp_xp.Network`.

        Raises:
            DeviceError: the device does not work on this machine.
            ValueError: the model has learned nothing yet.
        """
        moved = copy(self)
        moved.device, moved.backend = device, backend
        moved.preparation = self._fitted
        moved.network = self.network.to(device, backend=backend)
        return moved

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the model to a safetensors file: a network's, with the preparation added.

        :meth:`bp_xp.Network.load` reads only the network from it.

        Args:
            path: the file, which ends in .safetensors or has no ending; an older one is replaced.

        Returns:
            The path.

        Raises:
            ValueError: the name has the ending of another format, or the model has learned nothing
                yet.
            OSError: it could not be written; an older file is left as it was.
        """
        others = write_sections(self._fitted, self.card)
        content = network_file.NetworkFile(self.network.describe(), others=others)
        return network_file.write(path, content)

    @classmethod
    def of(
        cls,
        preparation: Preparation,
        network: Network,
        *,
        card: Card | None = None,
        history: History | None = None,
        **settings: Any,
    ) -> "TableModel":
        """Return a model made of a preparation and a network that was trained on its outputs.

        Args:
            preparation: maps columns to inputs.
            network: maps inputs to outputs.
            card: what it was trained on, or None.
            history: the record of each epoch, or None.
            settings: further arguments of the constructor.

        Raises:
            ValueError: the network has another number of inputs or outputs.
        """
        targets = preparation.targets
        n_outputs = {targets.n_outputs} | ({1} if len(targets.classes) == 2 else set())
        if network.sizes[0] != len(preparation.features) or network.sizes[-1] not in n_outputs:
            raise ValueError(f"its preparation does not fit its sizes {list(network.sizes)}")
        model = cls(
            network.sizes[1:-1],
            task=targets.task,
            scaling=preparation.numbers.scaling,
            dtype=network.dtype,
            seed=network.seed,
            **settings,
        )
        model.preparation, model.network, model.card = preparation, network, card
        model.history = history
        model.held_out = None
        return model

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
            device: the device for the network, as for :class:`bp_xp.Network`.
            backend: as for :class:`bp_xp.Network`.
            custom: as for :meth:`bp_xp.Network.load`.

        Raises:
            FileNotFoundError: there is no such file.
            CheckpointError: it is damaged, or holds a network without a preparation.
            DeviceError: the device does not work on this machine.
        """
        purpose = "be read as a model of tables"
        preparation, card = read_sections(network_file.read(path, purpose).others, path)
        network = Network.load(path, device=device, backend=backend, custom=custom)
        try:
            if preparation is None:
                raise ValueError("it holds only a network, which Network.load reads")
            return cls.of(preparation, network, card=card, device=device, backend=backend)
        except ValueError as error:
            raise network_file.unfit(path, purpose, error) from error

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "preparation")


def _with_preparation(checkpoint: Any, preparation: Preparation) -> Checkpoint:
    """Return a checkpoint that :meth:`TableModel.load` reads."""
    kept = checkpoint if isinstance(checkpoint, Checkpoint) else Checkpoint(checkpoint)
    return replace(kept, sections={**kept.sections, **write_sections(preparation)})
