"""How the network of a table is trained by default."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from bp_xp import Adam, CosineDecay, EarlyStopping, checks
from bp_xp.tables.inputs import Scaling

__all__ = ["NAME", "Recipe", "even_batch_size", "suited_l2"]

NAME = "dropout-cosine, version 1"
"""The name of the recipe; a recipe with other values is another version."""

_STRENGTH, _LEAST, _MOST = 6.0, 0.002, 0.01


@dataclass(frozen=True)
class Recipe:
    """The recipe *dropout-cosine, version 1*: how TableModel trains by default.

    Numbers are scaled by median and quartiles and clipped smoothly. Two hidden layers of 128 leaky
    rectifiers learn by Adam, with a rate that falls from 0.006 to 0 along half a cosine wave, for
    150 epochs of mini-batches of at most 128 rows, all of nearly the same size. Dropout of 0.2 and
    a penalty on weights, which is stronger for fewer rows, limit overfitting. All rows are used for
    training: holding out rows to decide when to stop costs small tables more than it gains.

    It was chosen by cross-validation on generated tables, and on the training rows of the tables
    that ``docs/tables.md`` shows.

    Attributes:
        hidden_layer_sizes: neurons of each hidden layer.
        activation: σ of the hidden layers.
        scaling: how numbers are scaled.
        optimizer: an optimizer or its name; None is Adam with the falling rate.
        learning_rate: the initial rate of that Adam.
        epochs: the largest number of passes over the training rows.
        batch_size: the largest number of rows in a mini-batch.
        l2: the strength of the penalty on weights, or a list of strengths; None derives it from the
            number of rows: ``suited_l2``.
        dropout: the share of hidden neurons that are left out of a step.
        validation_fraction: the share of the rows that are held out, to restore the epoch that was
            best on them; 0 keeps the last epoch.
        patience: how many epochs without an improvement on them end the run; None lets it run to
            the end of its schedule.

    References:
        Holzmüller, Grinsztajn and Steinwart, 'Better by Default', 2024, arXiv:2407.04491, for the
        scaling. Srivastava et al., 'Dropout', JMLR 15, 2014. Loshchilov and Hutter, 'SGDR', ICLR
        2017, for the cosine.

    Examples:
        >>> print(Recipe(epochs=50))
        recipe         dropout-cosine, version 1, with other epochs
        hidden layers  128, 128
        activation     leaky_relu
        scaling        robust
        optimizer      Adam, rate falling from 0.006 to 0 along a cosine
        epochs         50
        batch size     at most 128
        l2             6 / rows, but 0.002 to 0.01
        dropout        0.2
        rows held out  none
    """

    hidden_layer_sizes: Sequence[int] = (128, 128)
    activation: Any = (
        "leaky_relu"  # dead units of "relu" decay to subnormal weights, which are slow
    )
    scaling: Scaling = "robust"
    optimizer: Any = None
    learning_rate: float = 6e-3
    epochs: int = 150
    batch_size: int = 128
    l2: Any = None
    dropout: Any = 0.2
    validation_fraction: float = 0.0
    patience: int | None = None

    def fit_arguments(self, n_rows: int, n_held_out: int = 0) -> dict[str, Any]:
        """Return arguments of :meth:`bp_xp.Network.fit` for a number of training rows.

        Where rows are held out, early stopping is among them.

        Raises:
            ValueError: epochs, batch size or learning rate is out of its range.
            TypeError: one of them is not a number.
        """
        epochs = checks.check_integer(self.epochs, "epochs")
        batch_size = even_batch_size(n_rows, checks.check_integer(self.batch_size, "batch_size"))
        optimizer = self.optimizer
        if optimizer is None:
            steps = epochs * math.ceil(n_rows / batch_size)
            optimizer = Adam(CosineDecay(self.learning_rate, steps=steps))
        arguments = {
            "optimizer": optimizer,
            "epochs": epochs,
            "batch_size": batch_size,
            "l2": suited_l2(n_rows) if self.l2 is None else self.l2,
            "dropout": self.dropout,
        }
        return arguments | ({"early_stopping": self.stopping} if n_held_out else {})

    @property
    def stopping(self) -> EarlyStopping:
        """The early stopping that restores the best epoch, if rows are held out.

        Raises:
            ValueError: the patience is below 1.
            TypeError: it is not an integer.
        """
        # The rate falls until the end, and so does the cost, so stopping early rarely helps.
        patience = self.epochs if self.patience is None else self.patience
        return EarlyStopping(patience=checks.check_integer(patience, "patience"))

    def __str__(self) -> str:
        usual = Recipe()
        changed = [
            field.name
            for field in fields(self)
            if (mine := getattr(self, field.name)) is not (other := getattr(usual, field.name))
            and mine != other
        ]
        with_others = f", with other {', '.join(changed)}" if changed else ""
        how = f"Adam, rate falling from {self.learning_rate:g} to 0 along a cosine"
        held_out = "none"
        if self.validation_fraction:
            patience = "" if self.patience is None else f", patience {self.patience} epochs"
            held_out = f"{self.validation_fraction:g} of all, for the best epoch{patience}"
        strength = f"{_STRENGTH:g} / rows, but {_LEAST:g} to {_MOST:g}"
        lines = {
            "recipe": f"{NAME}{with_others}",
            "hidden layers": ", ".join(map(str, self.hidden_layer_sizes)) or "none",
            "activation": self.activation,
            "scaling": self.scaling,
            "optimizer": how if self.optimizer is None else self.optimizer,
            "epochs": self.epochs,
            "batch size": f"at most {self.batch_size}",
            "l2": strength if self.l2 is None else self.l2,
            "dropout": self.dropout,
            "rows held out": held_out,
        }
        return "\n".join(f"{name:13}  {value}" for name, value in lines.items())


def suited_l2(n_rows: int) -> float:
    """Return the strength of the penalty on weights for a number of training rows.

    6 / N, but 0.002 to 0.01. The penalty is added to the mean cost of a row; what is known of
    weights beforehand counts the less, the more rows there are.

    Examples:
        >>> suited_l2(150), suited_l2(1_500), suited_l2(15_000)
        (0.01, 0.004, 0.002)
    """
    return min(max(_STRENGTH / n_rows, _LEAST), _MOST)


def even_batch_size(n_rows: int, most: int) -> int:
    """Return the size of nearly equal mini-batches, at most the given one.

    A last mini-batch of few rows would move the weights as far as a whole one, by its noise.

    Examples:
        >>> even_batch_size(130, 128), even_batch_size(90, 128)
        (65, 90)
    """
    return math.ceil(n_rows / math.ceil(n_rows / most))
