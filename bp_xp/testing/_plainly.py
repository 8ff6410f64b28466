"""A training run in textbook form: plain, slow, in NumPy and float64.

It shares no code with the modules that it checks. The names of attributes are those of bp_xp's
optimizers and schedules, each of which is implemented a second time here.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from bp_xp import checks
from bp_xp.backends import to_numpy
from bp_xp.math.costs import MatchedCost
from bp_xp.network import Network

__all__ = ["PlainRun", "rate_of"]

Memory = dict[str, Any]


# ---------------------------------------------------------------------------------------------
# Optimizers: a rule for one parameter w, given its gradient, a memory and the learning rate


def _sgd(o: Any, w: np.ndarray, g: np.ndarray, memory: Memory, rate: float) -> np.ndarray:
    velocity = memory["v"] = o.momentum * memory.get("v", 0.0) + g
    return w - rate * (g + o.momentum * velocity if o.nesterov else velocity)


def _adagrad(o: Any, w: np.ndarray, g: np.ndarray, memory: Memory, rate: float) -> np.ndarray:
    t = memory["t"] = memory.get("t", 0) + 1
    s = memory["s"] = memory.get("s", o.initial_accumulator) + g**2
    return w - rate / (1 + (t - 1) * o.learning_rate_decay) * g / (np.sqrt(s) + o.epsilon)


def _rmsprop(o: Any, w: np.ndarray, g: np.ndarray, memory: Memory, rate: float) -> np.ndarray:
    s = memory["s"] = o.alpha * memory.get("s", 0.0) + (1 - o.alpha) * g**2
    a = memory["a"] = o.alpha * memory.get("a", 0.0) + (1 - o.alpha) * g
    d = g / (np.sqrt(np.maximum(s - a**2, 0.0) if o.centered else s) + o.epsilon)
    v = memory["v"] = o.momentum * memory.get("v", 0.0) + d
    return w - rate * v


def _adam(o: Any, w: np.ndarray, g: np.ndarray, memory: Memory, rate: float) -> np.ndarray:
    t = memory["t"] = memory.get("t", 0) + 1
    m = memory["m"] = o.beta1 * memory.get("m", 0.0) + (1 - o.beta1) * g
    v = memory["v"] = o.beta2 * memory.get("v", 0.0) + (1 - o.beta2) * g**2
    if o.amsgrad:
        v = memory["u"] = np.maximum(memory.get("u", 0.0), v)
    m_hat, v_hat = m / (1 - o.beta1**t), v / (1 - o.beta2**t)
    return w - rate * m_hat / (np.sqrt(v_hat) + o.epsilon)


def _adamw(o: Any, w: np.ndarray, g: np.ndarray, memory: Memory, rate: float) -> np.ndarray:
    decays = o.decay_biases or w.ndim == 2
    return _adam(o, w - rate * o.weight_decay * w if decays else w, g, memory, rate)


def _nadam(o: Any, w: np.ndarray, g: np.ndarray, memory: Memory, rate: float) -> np.ndarray:
    t = memory["t"] = memory.get("t", 0) + 1
    m = memory["m"] = o.beta1 * memory.get("m", 0.0) + (1 - o.beta1) * g
    v = memory["v"] = o.beta2 * memory.get("v", 0.0) + (1 - o.beta2) * g**2
    now, later = (o.beta1 * (1 - 0.5 * 0.96 ** (o.momentum_decay * s)) for s in (t, t + 1))
    product = memory["p"] = memory.get("p", 1.0) * now
    ahead = (1 - now) * g / (1 - product) + later * m / (1 - product * later)
    return w - rate * ahead / (np.sqrt(v / (1 - o.beta2**t)) + o.epsilon)


_RULES: Mapping[str, Callable[..., np.ndarray]] = {
    "SGD": _sgd,
    "Adagrad": _adagrad,
    "RMSprop": _rmsprop,
    "Adam": _adam,
    "AdamW": _adamw,
    "NAdam": _nadam,
}


# ---------------------------------------------------------------------------------------------
# Schedules


def rate_of(rate: Any, step: int, history: Any) -> float:
    """Return the learning rate of a step, counted from 0, after the epochs of a history."""
    match type(rate).__name__:
        case "StepDecay":
            cuts = step // rate.every
            return rate.initial * math.prod([rate.factor] * cuts)
        case "ExponentialDecay":
            return rate.initial * math.exp(step / rate.every * math.log(rate.factor))
        case "CosineDecay":
            if step >= rate.steps:
                return rate.final
            return _bent(rate.initial, rate.final, step / rate.steps)
        case "CosineDecayRestarts":
            ends = [0]
            while step >= ends[-1]:
                ends.append(ends[-1] + rate.steps * rate.cycle_factor ** (len(ends) - 1))
            share = (step - ends[-2]) / (ends[-1] - ends[-2])
            return _bent(rate.initial, rate.final, share)
        case "OneCycle":
            return _one_cycle(rate, step)
        case "InverseScaling":
            return rate.initial * math.exp(-rate.power * math.log(step + 1))
        case "LinearWarmUp":
            if step < rate.steps:
                first = rate_of(rate.then, 0, []) * _cuts(rate.then, history)
                return first * (step + 1) / (rate.steps + 1)
            return rate_of(rate.then, step - rate.steps, history)
        case "ReduceOnPlateau":
            return rate_of(rate.initial, step, history) * _cuts(rate, history)
    value: Any = rate(step) if callable(rate) else rate
    return float(value)


def _bent(first: float, last: float, share: float) -> float:
    return last + (first - last) * math.cos(math.pi * share / 2) ** 2  # ½ (1 + cos)


def _one_cycle(rate: Any, step: int) -> float:
    first, top = rate.largest / rate.first_divisor, rate.rise * rate.steps - 1
    times, values = [0.0, top], [first, rate.largest]
    if rate.three_phases:
        times, values = [*times, 2 * top], [*values, first]
    times, values = [*times, rate.steps - 1], [*values, first / rate.last_divisor]
    if rate.linear:
        return float(np.interp(step, times, values))
    for k in range(len(times) - 1):
        if times[k] <= step <= times[k + 1]:
            return _bent(values[k], values[k + 1], (step - times[k]) / (times[k + 1] - times[k]))
    return values[-1]


def _cuts(rate: Any, history: Any) -> float:
    """Return what a plateau has come to: the factor of each time that nothing improved."""
    if type(rate).__name__ != "ReduceOnPlateau":
        return 1.0
    upwards = rate.higher_is_better
    if upwards is None:
        upwards = not any(word in rate.monitor for word in ("cost", "mae", "mse", "loss", "error"))
    best, waited, share = None, 0, 1.0
    for value in history[rate.monitor] if len(history) else []:
        better = best is None or (value - best if upwards else best - value) > rate.min_delta
        if better:
            best, waited = value, 0
            continue
        waited += 1
        if waited == rate.patience:
            waited, share = 0, share * rate.factor
    return max(share, rate.least)


# ---------------------------------------------------------------------------------------------
# A run


class PlainRun:
    """A run of ``fit``, step by step.

    Args:
        network: what is trained; its model, parameters and generator are those of the run.
        samples: inputs, targets and perhaps weights, on the host.
        optimizer: that of the run.
        rule: the rule of an optimizer that is not bp_xp's, for one parameter.
        options: others of ``fit``.

    Attributes:
        layers: the parameters, pairs [W, b].
        steps: steps so far.
        rates: the learning rate of each layer in the last step.

    Raises:
        TypeError: there is no rule.
    """

    def __init__(
        self,
        network: Network,
        samples: Sequence[np.ndarray],
        optimizer: Any,
        rule: Callable[..., Any] | None,
        options: Mapping[str, Any],
    ) -> None:
        self._network, self._model = network, network.model
        self._x, self._y = samples[:2]
        self.weighted = len(samples) > 2
        self._weights = samples[2] if self.weighted else np.ones(len(self._x))
        self.optimizer, self.options = optimizer, options
        self._rule = _rule_for(optimizer, rule)
        rate = getattr(optimizer, "learning_rate", 0.0)
        self.scheduled = any(map(callable, rate if isinstance(rate, list | tuple) else [rate]))
        self._trainable = options.get("trainable") or [True] * len(network.layers)
        self.layers = [[to_numpy(p).astype(np.float64) for p in layer] for layer in network.layers]
        self._memory: list[list[Memory]] = [[{}, {}] for _ in self.layers]
        self._size = checks.check_batch_size(options.get("batch_size"), len(self._x))
        self._validation: Any = None
        if options.get("validation_data") is not None:
            found = network._samples(*options["validation_data"])
            self._validation = [to_numpy(part).astype(np.float64) for part in found.arrays]
        self._has_classes = network._samples(self._x, self._y).has_classes
        self.steps, self.rates = 0, [0.0]
        self._history: Any = []

    def start_epoch(self, history: Any) -> None:
        """Draw the order of the samples, from where the generator of the network is."""
        n, self._history, self._taken = len(self._x), history, 0
        state = np.random.default_rng(0)
        state.bit_generator.state = self._network._generator.bit_generator.state
        shuffled = self.options.get("shuffle", True)
        self._order = state.permutation(n) if shuffled else np.arange(n)
        self._costs, self._right = np.zeros(n), np.zeros(n)

    def step(self) -> None:
        """Take a step."""
        rows = self._order[self._taken : self._taken + self._size]
        self._taken += self._size
        gradients = self._gradients(rows)
        rate = getattr(self.optimizer, "learning_rate", 0.0)
        each = list(rate) if isinstance(rate, list | tuple) else [rate] * sum(self._trainable)
        self.rates = [rate_of(one, self.steps, self._history) for one in each]
        self.steps += 1
        learning = [l for l, learns in enumerate(self._trainable) if learns]  # noqa: E741
        self._add_penalties(gradients, learning)
        for l, rate_of_layer in zip(learning, self.rates, strict=True):  # noqa: E741
            for part in (0, 1):
                self.layers[l][part] = self._rule(
                    self.layers[l][part], gradients[l][part], self._memory[l][part], rate_of_layer
                )
            if (limit := self.options.get("max_norm")) is not None:
                for row in self.layers[l][0]:
                    row *= min(1.0, limit / max(float(np.linalg.norm(row)), 1e-300))

    def totals(self) -> dict[str, float | None]:
        """Return what the record of the epoch should hold."""
        found: dict[str, float | None] = {
            "cost": float(np.average(self._costs, weights=self._weights)),
            "accuracy": None,
            "validation_cost": None,
            "validation_accuracy": None,
        }
        if self._has_classes:
            found["accuracy"] = float(np.average(self._right, weights=self._weights))
        if self._validation is not None:
            x, y, *weights = self._validation
            pairs = zip(x, y, strict=True)
            judged = [self._judge(*self._forward(one)[-1], target) for one, target in pairs]
            each = np.asarray(judged)
            weight = weights[0] if weights else np.ones(len(x))
            found["validation_cost"] = float(np.average(each[:, 0], weights=weight))
            if self._has_classes:
                found["validation_accuracy"] = float(np.average(each[:, 1], weights=weight))
        return found

    def _forward(self, x: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return (z, a) of each layer for one sample, shape (O,) each; the inputs first."""
        found = [(x, x)]
        for (W, b), activation in zip(self.layers, self._model.activations, strict=True):
            z = W @ found[-1][1] + b
            found.append((z, activation.sigma(z[None, :], xp=np)[0]))
        return found

    def _judge(self, z: np.ndarray, a: np.ndarray, y: np.ndarray) -> tuple[float, bool]:
        """Return the cost of one sample, and whether it is correctly classified."""
        cost = self._model.cost
        outputs = z if isinstance(cost, MatchedCost) else a
        right = (a[0] > 0.5) == (y[0] > 0.5) if len(a) == 1 else np.argmax(a) == np.argmax(y)
        return float(cost.value(outputs[None, :], y[None, :], xp=np)[0]), bool(right)

    def _gradients(self, rows: np.ndarray) -> list[list[np.ndarray]]:
        """Return the gradient of the mean cost of some samples, and keep their costs."""
        nabla = [[np.zeros(part.shape) for part in layer] for layer in self.layers]
        total = float(sum(self._weights[rows]))
        for row in rows:
            run, y = self._forward(self._x[row]), self._y[row]
            self._costs[row], self._right[row] = self._judge(*run[-1], y)
            delta = self._output_error(*run[-1], y)
            share = self._weights[row] / total if total else 0.0
            for l in range(len(self.layers) - 1, -1, -1):  # noqa: E741
                nabla[l][0] += share * np.outer(delta, run[l][1])
                nabla[l][1] += share * delta
                if l:
                    z, a = run[l]
                    slope = self._model.activations[l - 1].sigma_prime(z[None], a[None], xp=np)[0]
                    delta = (self.layers[l][0].T @ delta) * slope
        return nabla

    def _output_error(self, z: np.ndarray, a: np.ndarray, y: np.ndarray) -> np.ndarray:
        cost, activation = self._model.cost, self._model.activations[-1]
        if isinstance(cost, MatchedCost):
            return np.array(cost.error(a[None], y[None], xp=np)[0])
        slopes = cost.gradient(a[None], y[None], xp=np)[0]
        sigma_prime = activation.sigma_prime(z[None], a[None], xp=np)[0]
        return slopes @ sigma_prime if activation.coupled else slopes * sigma_prime

    def _add_penalties(self, gradients: list[list[np.ndarray]], learning: Sequence[int]) -> None:
        """Add the penalties to the gradients of some layers, and apply the limits."""
        for l in learning:  # noqa: E741
            W = self.layers[l][0]
            gradients[l][0] = gradients[l][0] + self._strength("l2", l) * W
            gradients[l][0] = gradients[l][0] + self._strength("l1", l) * np.sign(W)
        if (most := self.options.get("clip_value")) is not None:
            for l in learning:  # noqa: E741
                gradients[l] = [np.clip(part, -most, most) for part in gradients[l]]
        if (longest := self.options.get("clip_norm")) is not None:
            parts = [np.ravel(part) for l in learning for part in gradients[l]]  # noqa: E741
            length = float(np.linalg.norm(np.concatenate(parts)))
            for l in learning if length > longest else ():  # noqa: E741
                gradients[l] = [part * (longest / length) for part in gradients[l]]

    def _strength(self, name: str, l: int) -> float:  # noqa: E741
        strength = self.options.get(name, 0.0)
        return strength[l] if isinstance(strength, list | tuple) else strength


def _rule_for(optimizer: Any, rule: Callable[..., Any] | None) -> Callable[..., Any]:
    """Return the rule of an optimizer, for one parameter."""
    if rule is not None:
        return rule
    kind = type(optimizer)
    if kind.__module__.partition(".")[0] != "bp_xp" or kind.__name__ not in _RULES:
        raise TypeError(
            f"there is no plain reference for {optimizer!r}: pass its rule for one parameter, as "
            "in rule=lambda w, g, memory, rate: w - rate * g."
        )
    plain = _RULES[kind.__name__]
    return lambda w, g, memory, rate: plain(optimizer, w, g, memory, rate)
