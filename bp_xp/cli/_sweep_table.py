"""The sweep of a table from the shell: its rows are read and split as in ``bp-xp train``."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bp_xp import Network, checks
from bp_xp.cli import _tables as tables
from bp_xp.cli._networks import tell_device
from bp_xp.cli._program import logger
from bp_xp.sweeps import SweepResult
from bp_xp.tables import Recipe, TableModel, sweep_table
from bp_xp.tables.card import Card
from bp_xp.tables.columns import as_columns, take
from bp_xp.tables.parts import Prepared, Split, ignored_by, prepare

__all__ = ["sweep_rows"]


def sweep_rows(
    settings: Mapping[str, Any], common: Mapping[str, Any]
) -> tuple[SweepResult, Callable[[], str]]:
    """Run the sweep of a table; return its result, and a function that describes its model.

    Args:
        settings: those of the file, by name.
        common: the arguments of a sweep that do not depend on the data.
    """
    data, categorical = settings["data"], settings.get("categorical") or ()
    ignored = ignored_by(settings.get("drop") or (), settings.get("split_by"))
    columns = as_columns(data, categorical, ignored=ignored)
    targets = tables.target_names(settings.get("target", -1), columns, data)
    held = {"by": settings.get("split_by"), "last": settings.get("split_last", False)}
    wishes: dict[str, Any] = {n: settings.get(n) or () for n in ("numeric", "categorical", "drop")}
    wishes |= {"task": settings.get("task"), "scaling": Recipe().scaling}
    test_fraction = settings.get("test_fraction", tables.TEST_FRACTION)
    # The best model is prepared from all rows that are not for testing.
    prepared = prepare(columns, targets, split=Split(0.0, test_fraction, **held), seed=0, **wishes)
    logger.info("%s", prepared.preparation)
    where = {
        "dtype": settings.get("dtype", "float32"),
        "device": settings.get("device", "auto"),
        "backend": settings.get("backend"),
    }
    place = Network([1, 1], **where)
    tell_device(place)
    where |= {"device": place.device, "backend": place.backend}
    weights = tables.class_weights(common.get("class_weight"), prepared)
    share = settings.get("validation_fraction", 0.2)
    table = sweep_table(
        take(columns, prepared.rows["training"]),
        targets,
        folds=settings.get("folds")
        or checks.check_number(share, "validation_fraction", above=0.0, below=1.0),
        split_by=held["by"],
        split_last=held["last"],
        **wishes | where | dict(common) | ({} if weights is None else {"class_weight": weights}),
    )
    if table.best_model is not None:
        _add_card(table.best_model, prepared, Path(data).name, common["metrics"])

    def tell() -> str:
        card = table.best_model.card
        part = "test" if "test" in card.metrics else "training"
        return tables.told(tables.stem(data), f"{part} part", card.rows[part], card.metrics[part])

    return table, tell


def _add_card(model: TableModel, prepared: Prepared, name: str, metrics: Any) -> None:
    """Record on a model's card the name of its table, and its metrics on the test rows."""
    assert model.card is not None
    x, rows = model.preparation.inputs(prepared.columns), prepared.rows
    y = model.preparation.outputs(prepared.answers)
    judged = {part: model.judge(x[own], y[own], metrics) for part, own in rows.items() if len(own)}
    model.card = Card.learn(prepared._replace(preparation=model.preparation), judged, name)
