"""A run of ``bp-xp train``: its data and network, the training, and what is written and printed."""

import logging
import math
import shlex
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from bp_xp import History, Network, Regularization, StopWhen, Stream
from bp_xp.cli import _tables as tables
from bp_xp.cli import config
from bp_xp.cli._data import hint_of_targets, load_data
from bp_xp.cli._defaults import Defaults
from bp_xp.cli._files import as_checkpoint
from bp_xp.cli._held_out import held_out_sections
from bp_xp.cli._logs import epoch_log
from bp_xp.cli._networks import make_network, score, tell_device
from bp_xp.cli._pictures import drawing
from bp_xp.cli._program import Termination, logger
from bp_xp.cli._settings import check_validation, used_settings
from bp_xp.cli._stream import open_data
from bp_xp.datasets import Dataset
from bp_xp.optim import Optimizer
from bp_xp.plotting import training_curves
from bp_xp.storage import network_file

__all__ = ["fit", "load", "tell_result"]


def load(given: SimpleNamespace, defaults: Defaults) -> tuple[Network, Dataset]:
    """Return the network, and the data that it learns from."""
    given.prepared = None
    if given.is_table:
        given.prepared, dataset = tables.load(given)
    elif given.stream:
        dataset = open_data(
            given.data,
            target=given.target,
            targets=given.targets,
            test_fraction=given.test_fraction,
            validation_fraction=given.validation_fraction,
            split_last=given.split_last,
        )
    else:
        dataset = load_data(given.data, given.target, given.targets)
    network = make_network(
        dataset,
        given.sizes,
        defaults.hidden,
        given.cost,
        hint_of_targets(given.data, given.targets),
        activation=given.activation,
        dtype=given.dtype,
        seed=given.seed,
        device=given.device,
        backend=given.backend,
    )
    logger.info("%r\n%r", dataset, network)
    tell_device(network)
    given.model = tables.as_model(given.prepared, network)
    return network, dataset


def fit(
    given: SimpleNamespace,
    network: Network,
    dataset: Dataset,
    optimizer: Callable[[int], Optimizer],
    termination: Termination,
) -> History:
    """Train the network, and let rank 0 write it and its settings to files."""
    validated = check_validation(given, dataset, network, given.metrics)
    fraction = given.validation_fraction if dataset.x_validation is None else 0.0
    n = len(dataset.x_train) - round(fraction * len(dataset.x_train))
    run_optimizer = optimizer(given.epochs * math.ceil(n / given.batch_size))
    settings = config.settings_text(used_settings(given, network, run_optimizer, given.path))
    checkpoint = as_checkpoint(given, tables.sections_of(given.model) | held_out_sections(given))
    validation: Any = fraction or None
    if dataset.x_validation is not None:
        validation = (_samples(given, dataset.x_validation), dataset.y_validation)
    termination.training, log = True, given.log if given.ranks.rank == 0 else None
    history = network.fit(
        _samples(given, dataset.x_train),
        dataset.y_train,
        class_weight=tables.class_weights(given.class_weight, given.prepared),
        epochs=given.epochs,
        batch_size=given.batch_size,
        shuffle=given.shuffle,
        optimizer=run_optimizer,
        regularization=Regularization(
            l1=given.l1,
            l2=given.l2,
            dropout=given.dropout,
            clip_norm=given.clip_norm,
            clip_value=given.clip_value,
            max_norm=given.max_norm,
        ),
        validation_data=validation,
        metrics=given.metrics if validated else (),
        early_stopping=given.stopping,
        callbacks=[StopWhen(termination.asked), *([epoch_log(log)] if log else [])],
        checkpoint=checkpoint,
        progress=logger.isEnabledFor(logging.INFO),
        distributed=given.distributed,
    )
    given.ranks.first(lambda: _write(given, history, settings))
    return history


def _samples(given: SimpleNamespace, x: Any) -> Any:
    """Return inputs as a network learns from them."""
    return Stream(x, buffer_size=given.buffer_size) if given.stream else x


def _write(given: SimpleNamespace, history: History, settings: str) -> None:
    """Write the network and its settings, and draw its curves."""
    # It is written first, so that no later error can lose it.
    if given.path.exists():
        logger.info("%s is replaced", given.path)
    if given.is_table:
        given.model.save(given.path)
        tables.add_card(given, history)
        given.model.save(given.path)
    else:
        others = held_out_sections(given)
        network_file.write(
            given.path, network_file.NetworkFile(given.model.describe(), others=others)
        )
    config.write_settings(given.settings_path, settings)
    if given.plot is not None and history:
        with drawing(given.plot):
            training_curves(history)


def tell_result(
    given: SimpleNamespace, network: Network, dataset: Dataset, history: History
) -> None:
    """Print how good the network is, where it was written, and what can be done next."""
    _tell_best(history)
    if given.is_table:
        tables.tell_scores(given.model, dataset.name)
    else:
        parts = [("test", dataset.x_test, dataset.y_test)] if len(dataset.x_test) else []
        if not given.stream:  # streamed samples are not read again
            parts = [("train", dataset.x_train, dataset.y_train), *parts]
        for part, x, y in parts:
            print(score(network, dataset.name, part, x, y, metrics=given.metrics))
    if given.importance:
        tables.tell_importance(given.model, given.prepared, given.chart)
    print(f"network written to {given.path}, its settings to {given.settings_path}", flush=True)
    if given.plot is not None:
        print(f"curves drawn to {given.plot}", flush=True)
    _tell_next(given, is_tested=len(dataset.x_test) > 0)


def _tell_next(given: SimpleNamespace, *, is_tested: bool) -> None:
    """Log the commands that can be run next."""
    arguments = [str(given.path)]
    arguments += [] if given.data == "digits" else ["--data", given.data]
    if given.target != -1 and not given.is_table:
        arguments += ["--target", str(given.target)]
    to_evaluate, to_predict = [*arguments], [*arguments]
    if given.targets is not None:
        to_evaluate += ["--targets", str(given.targets)]
    if given.stream and not given.is_table:
        to_evaluate += ["--stream", *(["--split-last"] if given.split_last else [])]
        if given.test_fraction is not None:
            to_evaluate += ["--test-fraction", str(given.test_fraction)]
        to_predict += ["--stream", "--output", "predictions.npy"]
    if is_tested or given.is_table:
        logger.info("next: bp-xp evaluate %s", shlex.join(to_evaluate))
    logger.info("      bp-xp predict %s", shlex.join(to_predict))


def _tell_best(history: History) -> None:
    if history.best_epoch is not None:
        early = "no improvement: stopped" if history.stopped == "early" else "ended"
        logger.info(
            "%s after epoch %d; the network is that of epoch %d, the best",
            early,
            history[-1].epoch,
            history.best_epoch,
        )
