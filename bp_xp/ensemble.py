"""Ensembles: many networks of the same shape, trained as one stack."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, Unpack, overload

import numpy as np

from bp_xp import checks
from bp_xp._caller import advice, own_arguments
from bp_xp._typing import Array, Layer, Namespace
from bp_xp.architecture import (
    check_same_functions,
    make_initializers,
    make_model,
    named_model,
    own_functions,
)
from bp_xp.backends import dtype_name, place
from bp_xp.math import classes
from bp_xp.math.activations import Activation
from bp_xp.math.costs import Cost, MatchedCost
from bp_xp.math.initializers import Initializer, make_generator, restore_generator
from bp_xp.math.metrics import METRICS
from bp_xp.math.regularization import Regularization
from bp_xp.math.uncertainty import Uncertainty, spread_of, uncertainty
from bp_xp.members import Members, member_seed
from bp_xp.network import Network
from bp_xp.optim import Optimizer
from bp_xp.sources import MemorySource, intake
from bp_xp.sources.samples import make_samples
from bp_xp.sources.sparse import blocks_of, cut_rows
from bp_xp.storage import ensemble_file, network_file
from bp_xp.storage.ensemble_file import EnsembleFile
from bp_xp.training import evaluation, fitting, stack_fitting
from bp_xp.training.arguments import MetricLike, PerMember, as_metrics
from bp_xp.training.callbacks import CallbackLike, EarlyStopping
from bp_xp.training.checkpoint import Checkpoint
from bp_xp.training.divergence import row_of
from bp_xp.training.history import EpochRecord, History
from bp_xp.training.stack import stack_trees

__all__ = ["Ensemble", "MemberTerms"]


class MemberTerms(TypedDict, total=False):
    """The fields of :class:`~bp_xp.Regularization`: one value for all members, or one for each."""

    l1: float | Sequence[float] | PerMember
    l2: float | Sequence[float] | PerMember
    dropout: float | Sequence[float] | PerMember
    clip_norm: float | PerMember | None
    clip_value: float | PerMember | None
    max_norm: float | PerMember | None


class Ensemble(Members):
    """Many networks of the same shape, trained as one stack.

    One matrix product per layer and pass serves all members. Each member is the same network that
    it would be alone: ``Network(sizes, seed=ensemble[k].seed)`` with the same settings starts with
    the same parameters, and when trained alone takes the same samples in the same order with the
    same dropout masks.

    Args:
        sizes: neurons of each layer, inputs first: ``[784, 30, 10]``.
        members: how many networks there are.
        activation: as in :class:`~bp_xp.Network`.
        output_activation: as in :class:`~bp_xp.Network`.
        cost: as in :class:`~bp_xp.Network`.
        initializer: as in :class:`~bp_xp.Network`.
        device: as in :class:`~bp_xp.Network`.
        backend: as in :class:`~bp_xp.Network`.
        engine: as in :class:`~bp_xp.Network`.
        dtype: as in :class:`~bp_xp.Network`.
        seed: seed of the ensemble; member k has the seed ``member_seed(seed, k)``. None draws one.

    Attributes:
        seed: the seed of the ensemble.
        seeds: the seeds of the members.
        model: what each network computes, without its parameters.

    Raises:
        ValueError, TypeError, DeviceError, ImportError, MemoryError: as for a network.

    Examples:
        >>> from bp_xp import SGD
        >>> ensemble = Ensemble([2, 4, 1], members=3, cost="binary_cross_entropy", seed=0)
        >>> x = [[0, 0], [0, 1], [1, 0], [1, 1]]
        >>> history = ensemble.fit(x, [0, 1, 1, 1], epochs=200, optimizer=SGD(2.0), progress=False)
        >>> ensemble.predict(x)
        array([0, 1, 1, 1])
        >>> len(history.members), ensemble.outputs(x).shape
        (3, (3, 4, 1))

    References:
        Lakshminarayanan, Pritzel and Blundell, *Simple and scalable predictive uncertainty
        estimation using deep ensembles*, NeurIPS 2017.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        members: int = 32,
        activation: str | Activation | Sequence[str | Activation] = "sigmoid",
        output_activation: str | Activation | None = None,
        cost: str | Cost | MatchedCost = "quadratic",
        initializer: str | Initializer | Sequence[str | Initializer] | None = None,
        device: str | None = None,
        backend: str | Namespace | None = None,
        engine: str = "auto",
        dtype: Any = "float32",
        seed: int | None = None,
    ) -> None:
        n_members = checks.check_integer(members, "members")
        model = make_model(sizes, activation, output_activation, cost)
        initializers = make_initializers(model, initializer)
        checks.check_memory(model.sizes)
        seed = checks.check_seed(seed)
        seeds = [member_seed(seed, k) for k in range(n_members)]
        generators = [make_generator(one) for one in seeds]
        self._settle_members(
            model, place(device, backend, engine), dtype, seed, seeds=seeds, generators=generators
        )
        shapes = list(zip(model.sizes[1:], model.sizes[:-1], strict=True))
        self.layers = stack_trees(
            [
                [
                    Layer(*draw(generator, n_out, n_in))
                    for draw, (n_out, n_in) in zip(initializers, shapes, strict=True)
                ]
                for generator in generators
            ],
            np,
        )

    @classmethod
    def from_networks(cls, networks: Iterable[Network], *, seed: int | None = None) -> "Ensemble":
        """Make an ensemble of existing networks, which do not change.

        Args:
            networks: one or more networks of the same shape, with the same activations, cost,
                dtype, library and device. Each keeps its own seed and continues its own data order.
                The state of an optimizer is not kept: it starts at rest in the ensemble.
            seed: seed of what the members share, such as the order of ``shared_order=True``.

        Raises:
            ValueError: the networks differ, or there are none.
            TypeError: an item is not a network.
        """
        several = list(networks)
        if not several:
            raise ValueError("from_networks needs at least one network.")
        for k, one in enumerate(several):
            if not isinstance(one, Network):
                raise TypeError(f"networks must be bp_xp.Network, but number {k} is {one!r}.")
        first = several[0]
        for k, one in enumerate(several):
            for name in ("model", "dtype", "placement"):
                if getattr(one, name) != getattr(first, name):
                    raise ValueError(
                        f"the networks of an ensemble must have the same {name}, but those of "
                        f"network {k} and network 0 differ: {one!r} and {first!r}."
                    )
        ensemble = cls.__new__(cls)
        ensemble._settle_members(
            first.model,
            first.placement,
            first.dtype,
            checks.check_seed(seed),
            seeds=[one.seed for one in several],
            generators=[restore_generator(one._generator.bit_generator.state) for one in several],
        )
        with first.placement.active():
            ensemble._layers = stack_trees([list(one.layers) for one in several], first.xp)
        return ensemble

    # -----------------------------------------------------------------------------------------
    # Its members

    @overload
    def __getitem__(self, member: int) -> Network: ...
    @overload
    def __getitem__(self, member: slice | Sequence[int]) -> "Ensemble": ...
    def __getitem__(self, member: Any) -> Any:
        """Return a copy of one member as a network, or of several members as a new ensemble.

        Changes to a copy leave this ensemble unchanged. Select several members with
        ``ensemble[[0, 3]]``, ``ensemble[::2]`` or a mask of all members; with ``warm_start`` they
        continue where this ensemble stopped.

        Raises:
            IndexError: there is no such member.
            TypeError: the index does not select members.
            ValueError: no member is selected.
        """
        numbers = np.arange(len(self))
        chosen = member if isinstance(member, slice) else np.asarray(member)
        if isinstance(chosen, np.ndarray) and chosen.dtype.kind not in "iu" and chosen.size:
            if chosen.dtype != bool or chosen.shape != numbers.shape:
                raise TypeError(
                    f"a member is selected by its number, several by a list, a slice, or a mask of "
                    f"the {len(self)} members, not {member!r}."
                )
        elif isinstance(chosen, np.ndarray):
            chosen = chosen.astype(np.int64)
        try:
            taken = numbers[chosen]
        except IndexError:
            raise IndexError(
                f"there is no member {member!r} in an ensemble of {len(self)}."
            ) from None
        if np.ndim(taken):
            return self._take(taken.tolist())
        k = int(taken)
        network = Network.__new__(Network)
        network._settle(self.model, self._placement, self._dtype, self.seeds[k])
        network._generator = restore_generator(self._generators[k].bit_generator.state)
        with self._placement.active():
            network.layers = row_of(self._layers, k)
        return network

    def __iter__(self) -> Iterator[Network]:
        return (self[k] for k in range(len(self)))

    def __repr__(self) -> str:
        activations = [activation.name for activation in self.model.activations]
        return (
            f"Ensemble({list(self.sizes)}, members={len(self)}, activations={activations}, "
            f"cost={self.model.cost.name!r}, {self._placement}, {self._dtype}, {len(self)} × "
            f"{self.n_parameters:,} parameters)"
        )

    # -----------------------------------------------------------------------------------------
    # What it computes

    def __call__(self, x: Any) -> Array:
        """Return the mean of the members' outputs: :meth:`feedforward`."""
        return self.feedforward(x)

    def outputs(self, x: Any, *, batch_size: int = 4096) -> Array:
        """Return the outputs of each member.

        Args:
            x: inputs, shape (N, I): host values, or an array on the device.
            batch_size: the number of samples passed through a network at a time.

        Returns:
            aᴸ of each member, shape (members, N, O), on the ensemble's device.

        Raises:
            ValueError, TypeError, OutOfMemoryError: as for :meth:`bp_xp.Network.feedforward`.
        """
        size = checks.check_integer(batch_size, "batch_size")
        here = self._placement
        with here.active(advice("Use a smaller {}.", "batch_size")):
            x = intake.check_inputs(
                x, "x", placement=here, dtype=self._dtype, columns=self.sizes[0]
            )
            return self._outputs_for(x, size)

    def _outputs_for(self, x: Any, size: int) -> Array:
        """Return the outputs of each member for inputs that have been checked."""
        here = self._placement
        each = [
            evaluation.feed(
                self.model,
                self._member_for(x, k),
                (cut_rows(x, rows, here) for rows in blocks_of(x, size)),
                at_once=size,
                placement=here,
            )
            for k in range(len(self))
        ]
        return self.xp.stack(each)

    def _member_for(self, x: Any, member: int) -> list[Layer]:
        """Return the parameters of a member, in the memory order that suits products with x."""
        return self._placement.library.laid_out(row_of(self._layers, member), x)

    def feedforward(self, x: Any, *, batch_size: int = 4096) -> Array:
        """Return the mean of the members' outputs, shape (N, O); see :meth:`outputs`."""
        return self._read(x, batch_size, lambda a, *, xp: xp.mean(a, axis=0))

    def std(self, x: Any, *, batch_size: int = 4096) -> Array:
        """Return the standard deviation of the members' outputs around their mean, shape (N, O)."""
        return self._read(x, batch_size, spread_of)

    def predict_proba(self, x: Any, *, batch_size: int = 4096) -> Array:
        """Return the probability of each class, the mean over the members, shape (N, K).

        Raises:
            ValueError: the outputs are not probabilities; or as for :meth:`outputs`.
        """
        self._check_classifies()
        return classes.probabilities(self.feedforward(x, batch_size=batch_size), xp=self.xp)

    def predict(self, x: Any, *, batch_size: int = 4096) -> Array:
        """Return the class of each sample by the mean output, or the mean if there are no classes.

        Returns:
            As for :meth:`bp_xp.Network.predict`.
        """
        mean = self.feedforward(x, batch_size=batch_size)
        return classes.labels(mean, xp=self.xp) if self.classifies else mean

    def uncertainty(self, x: Any, *, batch_size: int = 4096) -> Uncertainty:
        """Return how uncertain the ensemble is of each sample, and how much its members disagree.

        Args:
            x: inputs, shape (N, I).
            batch_size: the number of samples passed through a network at a time.

        Returns:
            Predictive entropy and mutual information, shape (N,) each, in nats. Several sigmoid
            outputs are separate yes-or-no questions, and their values are summed.

        Raises:
            ValueError: the outputs are not probabilities; or as for :meth:`outputs`.
        """
        self._check_classifies()
        exclusive = self.model.activations[-1].coupled or self.sizes[-1] == 1
        return self._read(
            x, batch_size, lambda a, *, xp: uncertainty(a, exclusive=exclusive, xp=xp)
        )

    def _read(self, x: Any, batch_size: int, read: Any) -> Any:
        """Return the result of ``read`` for the outputs of all members."""
        outputs = self.outputs(x, batch_size=batch_size)
        with self._placement.active():
            return read(outputs, xp=self.xp)

    def _check_classifies(self) -> None:
        if not self.classifies:
            raise ValueError(
                f"the outputs of these networks ({self.model.activations[-1].name}) are not "
                "probabilities: use feedforward and std, or make the ensemble with "
                "output_activation='softmax'."
            )

    def evaluate(
        self,
        x: Any,
        y: Any,
        *,
        sample_weight: Any = None,
        metrics: MetricLike | Sequence[MetricLike] = (),
    ) -> dict[str, Any]:
        """Return cost, accuracy and other metrics of the mean output, and those of each member.

        Args:
            x: inputs, shape (N, I).
            y: labels, shape (N,), or targets, shape (N, O).
            sample_weight: how much each sample counts, shape (N,).
            metrics: as for :meth:`bp_xp.Network.evaluate`.

        Returns:
            ``{"cost": ..., "accuracy": ..., "expected_calibration_error": ..., "members": {"cost":
            (members,), "accuracy": (members,)}, ...}``. The calibration error is over 15 bins of
            equal width. It and the accuracy are omitted if the targets are not classes. The cost is
            omitted if a custom matched cost cannot be computed from outputs.

        Raises:
            ValueError: shapes do not fit, a label is not a class, or a value is not finite.
            TypeError: an array belongs to another library.

        References:
            Guo, Pleiss, Sun and Weinberger, *On calibration of modern neural networks*, ICML 2017.
        """
        asked, here = as_metrics(metrics), self._placement
        with here.active():
            where: dict[str, Any] = {"placement": here, "dtype": self._dtype}
            samples = make_samples(self.model, x, y, sample_weight, **where, sparse=True)
            fitting.check_metrics(asked, samples)
            own = ("accuracy", "expected_calibration_error") if samples.has_classes else ()
            measured = [*(METRICS[name] for name in own), *asked]
            source = MemorySource(samples, here)
            each = [
                evaluation.evaluate(
                    self.model, self._member_for(samples.x, k), source, placement=here
                )
                for k in range(len(self))
            ]
            mean = self.xp.mean(self._outputs_for(samples.x, evaluation.ROWS_AT_ONCE), axis=0)
            found = evaluation.judge_outputs(self.model, mean, samples, measured, placement=here)
        columns = dict(zip(("cost", "accuracy"), zip(*each, strict=True), strict=True))
        members = {name: np.array(c) for name, c in columns.items() if c[0] is not None}
        return found | {"members": members}

    # -----------------------------------------------------------------------------------------
    # How it learns

    def fit(
        self,
        x: Any,
        y: Any,
        *,
        sample_weight: Any = None,
        class_weight: Mapping[Any, float] | str | None = None,
        epochs: int = 10,
        batch_size: int | None = None,
        shuffle: bool = True,
        shared_order: bool = False,
        rows: Any = None,
        optimizer: Optimizer | str | PerMember = "sgd",
        regularization: Regularization | PerMember | None = None,
        trainable: Sequence[bool] | None = None,
        validation_data: Sequence[Any] | float | None = None,
        validation_rows: Any = None,
        metrics: MetricLike | Sequence[MetricLike] = (),
        early_stopping: EarlyStopping | int | PerMember | None = None,
        callbacks: CallbackLike | Sequence[CallbackLike | EarlyStopping] = (),
        checkpoint: str | os.PathLike[str] | Checkpoint | None = None,
        warm_start: bool = False,
        progress: bool = True,
        distributed: Any = None,
        **terms: Unpack[MemberTerms],
    ) -> History:
        """Train all members on mini-batches, as one stack.

        An argument that accepts :class:`~bp_xp.PerMember` can have a different value for each
        member, as in ``optimizer=PerMember([SGD(0.5), SGD(0.1)])`` or
        ``l2=PerMember([0.0, 1e-4])``: value k is what :meth:`bp_xp.Network.fit` would take for
        member k. A list still has one value for each layer.

        Args:
            x: inputs, shape (N, I), moved once for all members; a sparse matrix is moved batch by
                batch.
            y: labels, shape (N,), or targets, shape (N, O).
            sample_weight: how much each sample counts, shape (N,); for different weights in each
                member, shape (members, N) or PerMember.
            class_weight: as for :meth:`bp_xp.Network.fit`.
            epochs: as for :meth:`bp_xp.Network.fit`.
            batch_size: the number of samples in a mini-batch of each member.
            shuffle: whether each epoch has a new order, drawn from each member's generator.
            shared_order: whether all members take the same mini-batches, drawn from the ensemble's
                generator, so that each is gathered once. The orders then differ from those of
                members trained alone.
            rows: the numbers of the rows of x and y that a member learns from, or a mask of them,
                such as the training part of a fold: one for all, or PerMember. All members must
                have the same number of rows. With ``"bootstrap"``, each member's generator draws N
                rows with replacement before it draws anything else. None takes all rows.
            optimizer: one for all members, or PerMember. All must take the same kind of step; only
                their numbers may differ.
            regularization: one for all members, or PerMember; or pass its fields by name.
            trainable: as for :meth:`bp_xp.Network.fit`, for all members.
            validation_data: (x, y) or (x, y, sample weights); or a share to hold out, which each
                member draws for itself (with ``shared_order``, the ensemble draws one for all).
            validation_rows: instead of ``validation_data``, the rows of x and y to evaluate a
                member on, such as the other part of a fold: one for all, or PerMember.
            metrics: as for :meth:`bp_xp.Network.fit`.
            early_stopping: one for all members, or PerMember. A member whose monitored value has
                stopped improving gets its best parameters and leaves the stack; the others
                continue.
            callbacks: objects, or functions of (ensemble, history), called as for a network.
            checkpoint: as for a network; one file holds the run of all members.
            warm_start: as for a network, except that a run resumed from its checkpoint continues
                from there, and the next call continues from its end. Each member must have been in
                the stack at the end of the last call; drop the others with ``ensemble[[0, 2]]``.
                Only a checkpoint stores the state of an optimizer, and the state belongs to one
                stack: after :meth:`load` and :meth:`from_networks` the optimizer starts at rest.
            progress: as for a network; the values shown are means over members.
            distributed: the processes to divide the members among: ``"mpi"``, ``"torch"``, a
                communicator or ``"auto"``; not with a checkpoint. See docs/distributed.md.
            terms: fields of :class:`~bp_xp.Regularization` by name, for all or PerMember.

        Returns:
            A history of means over the members in each epoch, whose ``members[k]`` is the history
            that member k would have alone. A member that diverges keeps its parameters from the
            epoch before, leaves the stack, and has ``stopped == "divergence"``.

        Raises:
            ValueError, TypeError, OutOfMemoryError, OSError, CheckpointError: as for a network; or
                a PerMember has too many or too few values, or the optimizers take different kinds
                of step.
            DivergenceError: every member diverged.
        """
        return stack_fitting.fit(
            self,
            x,
            y,
            sample_weight=sample_weight,
            class_weight=class_weight,
            epochs=epochs,
            batch_size=batch_size,
            shuffle=shuffle,
            shared_order=shared_order,
            rows=rows,
            optimizer=optimizer,
            regularization=regularization,
            trainable=trainable,
            validation_data=validation_data,
            validation_rows=validation_rows,
            metrics=metrics,
            early_stopping=early_stopping,
            callbacks=callbacks,
            checkpoint_argument=checkpoint,
            distributed=distributed,
            warm_start=warm_start,
            progress=progress,
            terms=dict(terms),
        )

    def partial_fit(self, x: Any, y: Any, **options: Any) -> EpochRecord:
        """Train all members on more samples, as :meth:`bp_xp.Network.partial_fit` trains one.

        Args:
            x: inputs, shape (N, I).
            y: labels, shape (N,), or targets, shape (N, O).
            options: those of :meth:`fit` except ``epochs`` and ``warm_start``; the optimizers and
                dropout must be the same in each call.

        Returns:
            The record of the pass, the mean over the members.

        Raises:
            ValueError, TypeError, OutOfMemoryError: as for :meth:`fit`; or a member diverged in an
                earlier call and has not been dropped: continue with ``ensemble[[0, 2]]``.
            DivergenceError: every member diverged.
        """
        quiet: dict[str, Any] = {"progress": False} | options
        return self.fit(x, y, epochs=1, warm_start=True, **quiet)[-1]

    # -----------------------------------------------------------------------------------------
    # Where it lives

    def to(
        self,
        device: str | None = None,
        *,
        backend: str | Namespace | None = None,
        engine: str = "auto",
        dtype: Any = None,
    ) -> "Ensemble":
        """Return a copy of the ensemble on another device; see :meth:`bp_xp.Network.to`."""
        return self._made_of(
            self.describe(), self.model, place(device, backend, engine), dtype or self._dtype
        )

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write all members to one safetensors file, which any backend can load.

        Args:
            path: the file, with the extension .safetensors or none; an older file is replaced.

        Returns:
            The path.

        Raises:
            ValueError: the extension belongs to another format.
            OSError: the file could not be written; an older file is unchanged.
        """
        return ensemble_file.write(path, EnsembleFile(self.describe()))

    @classmethod
    @own_arguments
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        device: str | None = None,
        backend: str | Namespace | None = None,
        engine: str = "auto",
        custom: Iterable[Activation | Cost | MatchedCost] = (),
    ) -> "Ensemble":
        """Read an ensemble that :meth:`save` or a checkpoint wrote; its optimizers start at rest.

        Args:
            path: the file.
            device: where to put the ensemble, as in :class:`Ensemble`.
            backend: as in :class:`Ensemble`.
            engine: as in :class:`Ensemble`.
            custom: as for :meth:`bp_xp.Network.load`.

        Raises:
            FileNotFoundError: there is no such file.
            CheckpointError: the file is damaged, or does not hold an ensemble, or a function in
                ``custom`` differs from the one of that name when the file was saved.
            DeviceError: the device does not work on this machine.
        """
        saved, placement = ensemble_file.read(path).network, place(device, backend, engine)
        try:
            model = named_model(saved.sizes, saved.activations, saved.cost, custom)
            ensemble = cls._made_of(saved, model, placement, dtype_name(saved.dtype))
            with placement.active():
                check_same_functions(saved.own, own_functions(model, placement, saved.dtype))
        except (KeyError, TypeError, ValueError) as error:
            raise network_file.unfit(path, "be read as an ensemble", error) from error
        return ensemble
