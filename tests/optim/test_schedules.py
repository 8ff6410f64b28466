import itertools
import math
import pickle

import numpy as np
import pytest

from bp_xp import EpochRecord, History
from bp_xp.optim.cycles import CosineDecayRestarts, OneCycle
from bp_xp.optim.schedules import (
    CosineDecay,
    ExponentialDecay,
    InverseScaling,
    LinearWarmUp,
    ReduceOnPlateau,
    StepDecay,
    check_learning_rate,
    initial_rate,
    rates,
)

NAN = float("nan")
SCHEDULES = {
    "step": StepDecay(0.5, factor=0.3, every=4),
    "exponential": ExponentialDecay(0.5, factor=0.9),
    "exponential-every": ExponentialDecay(0.5, factor=0.3, every=4),
    "cosine": CosineDecay(0.5, steps=10),
    "cosine-final": CosineDecay(0.5, steps=7, final=0.1),
    "restarts": CosineDecayRestarts(0.5, steps=4),
    "restarts-longer": CosineDecayRestarts(0.5, steps=3, cycle_factor=2, final=0.1),
    "one-cycle": OneCycle(0.5, steps=22),
    "one-cycle-linear": OneCycle(0.5, steps=20, rise=0.37, linear=True),
    "one-cycle-phases": OneCycle(
        0.5, steps=20, rise=0.4, first_divisor=5.0, last_divisor=10.0, three_phases=True
    ),
    "inverse": InverseScaling(0.5),
    "inverse-power": InverseScaling(0.5, power=1.25),
    "warm-up": LinearWarmUp(4, 0.5),
    "warm-up-cosine": LinearWarmUp(4, CosineDecay(0.5, steps=10)),
    "plateau": ReduceOnPlateau(0.5),
    "plateau-of-warm-up": ReduceOnPlateau(LinearWarmUp(4, 0.5), patience=3),
}
SCHEDULE = pytest.mark.parametrize("name", SCHEDULES)


def falling(t, last, factor):
    """Return 0.5 after t steps with a factor, by repeated multiplication."""
    rate = 0.5
    for _ in range(min(t, last)):
        rate *= factor
    return rate


# ---------------------------------------------------------------------------------------------
# By the number of the step


def share_of_cycle(t, ends):
    """Return how much of its cycle has passed at a step."""
    return next((t - a) / (b - a) for a, b in itertools.pairwise(ends) if t < b)


def one_cycle(t, *corners):
    """Return the rate of a step between corners that half waves join."""
    for (start, begin), (stop, end) in itertools.pairwise(corners):
        if t <= stop:
            return end + (begin - end) * math.cos(math.pi / 2 * (t - start) / (stop - start)) ** 2
    return corners[-1][1]


FORMULAS = {
    "step": lambda t: falling(sum(s % 4 == 0 for s in range(1, t + 1)), 99, 0.3),
    "exponential": lambda t: falling(t, 99, 0.9),
    "exponential-every": lambda t: math.exp(math.log(0.5) + t * math.log(0.3) / 4),
    "cosine": lambda t: 0.5 * math.cos(math.pi * min(t, 10) / 20) ** 2,
    "cosine-final": lambda t: 0.1 + 0.4 * math.cos(math.pi * min(t, 7) / 14) ** 2,
    "restarts": lambda t: 0.5 * math.cos(math.pi * (t % 4) / 8) ** 2,
    "restarts-longer": lambda t: (
        0.1 + 0.4 * math.cos(math.pi / 2 * share_of_cycle(t, (0, 3, 9, 21, 45))) ** 2
    ),
    "one-cycle": lambda t: one_cycle(t, (0, 0.02), (5.6, 0.5), (21, 2e-6)),
    "one-cycle-linear": lambda t: np.interp(t, (0, 6.4, 19), (0.02, 0.5, 2e-6)),
    "one-cycle-phases": lambda t: one_cycle(t, (0, 0.1), (7, 0.5), (14, 0.1), (19, 0.01)),
    "inverse": lambda t: 0.5 / math.sqrt(t + 1),
    "inverse-power": lambda t: 0.5 * math.exp(-1.25 * math.log(t + 1)),
    "warm-up": lambda t: min(0.1 * (t + 1), 0.5),
    "warm-up-cosine": lambda t: (
        0.1 * (t + 1) if t < 4 else 0.5 * math.cos(math.pi * min(t - 4, 10) / 20) ** 2
    ),
    "plateau": lambda t: 0.5,
    "plateau-of-warm-up": lambda t: min(0.1 * (t + 1), 0.5),
}


@SCHEDULE
def test_rates_follow_the_formula(name):
    found = [SCHEDULES[name](t) for t in range(25)]
    np.testing.assert_allclose(found, list(map(FORMULAS[name], range(25))), rtol=1e-13, atol=1e-16)


def of_torch(name, optimizer):
    """Return PyTorch's schedule of the same rates."""
    from torch.optim import lr_scheduler as theirs

    match name:
        case "step":
            return theirs.StepLR(optimizer, step_size=4, gamma=0.3)
        case "exponential":
            return theirs.ExponentialLR(optimizer, gamma=0.9)
        case "exponential-every":
            return theirs.ExponentialLR(optimizer, gamma=0.3 ** (1 / 4))
        case "inverse-power":
            return theirs.LambdaLR(optimizer, lambda t: (t + 1) ** -1.25)
        case "cosine":
            return theirs.CosineAnnealingLR(optimizer, T_max=10)
        case "cosine-final":
            return theirs.CosineAnnealingLR(optimizer, T_max=7, eta_min=0.1)
        case "restarts":
            return theirs.CosineAnnealingWarmRestarts(optimizer, T_0=4)
        case "restarts-longer":
            return theirs.CosineAnnealingWarmRestarts(optimizer, T_0=3, T_mult=2, eta_min=0.1)
        case "one-cycle":
            return theirs.OneCycleLR(optimizer, 0.5, total_steps=22, cycle_momentum=False)
        case "one-cycle-linear":
            return theirs.OneCycleLR(
                optimizer,
                0.5,
                total_steps=20,
                pct_start=0.37,
                anneal_strategy="linear",
                cycle_momentum=False,
            )
        case "one-cycle-phases":
            return theirs.OneCycleLR(
                optimizer,
                0.5,
                total_steps=20,
                pct_start=0.4,
                div_factor=5.0,
                final_div_factor=10.0,
                three_phase=True,
                cycle_momentum=False,
            )
        case "warm-up":
            return theirs.LinearLR(optimizer, start_factor=0.2, total_iters=4)
        case "warm-up-cosine":
            rise = theirs.LinearLR(optimizer, start_factor=0.2, total_iters=4)
            fall = theirs.CosineAnnealingLR(optimizer, T_max=10)
            return theirs.SequentialLR(optimizer, [rise, fall], milestones=[4])


@pytest.mark.parametrize(
    ("name", "steps"),
    # PyTorch's cosine rises again after its end.
    [
        ("step", 25),
        ("exponential", 25),
        ("exponential-every", 25),
        ("inverse-power", 25),
        ("cosine", 11),
        ("cosine-final", 8),
        ("restarts", 25),
        ("restarts-longer", 25),
        # One cycle has an end in PyTorch, where the next step is an error.
        ("one-cycle", 22),
        ("one-cycle-linear", 20),
        ("one-cycle-phases", 20),
        ("warm-up", 25),
        ("warm-up-cosine", 15),
    ],
)
@pytest.mark.filterwarnings("ignore:The epoch parameter in:UserWarning")
def test_rates_are_those_of_pytorch(name, steps):
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    schedule = of_torch(name, optimizer)
    for t in range(steps):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(SCHEDULES[name](t), abs=1e-15)
        optimizer.step()
        if t + 1 < steps:
            schedule.step()


def test_inverse_scaling_is_that_of_scikit_learn():
    from_sklearn = pytest.importorskip("sklearn.neural_network._stochastic_optimizers")
    theirs = from_sklearn.SGDOptimizer([], learning_rate_init=0.5, lr_schedule="invscaling")
    for t in range(10):
        theirs.iteration_ends(t)  # it counts samples
        assert theirs.learning_rate == pytest.approx(InverseScaling(0.5)(t))


def test_cosine_ends_on_the_final_rate_exactly():
    assert CosineDecay(0.3, steps=7, final=0.1)(7) == 0.1
    assert CosineDecay(0.3, steps=7)(7) == CosineDecay(0.3, steps=7)(10**9) == 0.0


def test_one_cycle_ends_on_its_last_rate_and_stays_there():
    for linear in (False, True):
        schedule = OneCycle(0.5, steps=9, first_divisor=5.0, last_divisor=10.0, linear=linear)
        assert schedule(8) == schedule(10**9) == pytest.approx(0.01, rel=1e-12)
    assert OneCycle(0.5, steps=1)(0) == 0.5 / 25.0 / 1e4


@pytest.mark.parametrize("linear", [False, True])
def test_one_cycle_whose_rise_has_no_length_begins_at_the_top(linear):
    # PyTorch divides by 0 here.
    assert OneCycle(0.5, steps=20, rise=0.05, linear=linear)(0) == 0.5


def test_restarts_are_found_at_any_step_at_once():
    longer = CosineDecayRestarts(0.5, steps=1, cycle_factor=2)
    assert longer(2**60 - 1) == longer(0) == 0.5
    assert CosineDecayRestarts(0.5, steps=10)(10**15) == 0.5


def test_warm_up_hands_over_to_a_schedule_that_starts_from_its_first_step():
    asked = []

    def then(step):
        asked.append(step)
        return 1.0

    schedule = LinearWarmUp(3, then)
    assert [schedule(t) for t in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert asked == [0, 0, 0, 0, 1]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: StepDecay(0.0, 0.5, 10), ValueError, "initial must be finite and above 0"),
        (lambda: StepDecay(0.1, 0.0, 10), ValueError, "factor must be finite and above 0"),
        (lambda: StepDecay(0.1, 0.5, 0), ValueError, "every must be at least 1"),
        (lambda: StepDecay(0.1, 0.5, 2.5), TypeError, "every must be an integer"),
        (lambda: StepDecay("0.1", 0.5, 2), TypeError, "initial must be a number"),
        (lambda: ExponentialDecay(NAN, 0.5), ValueError, "initial must be finite"),
        (lambda: ExponentialDecay(0.1, -0.5), ValueError, "factor must be finite and above 0"),
        (lambda: ExponentialDecay(0.1, 0.5, 0), ValueError, "every must be at least 1"),
        (lambda: CosineDecay(math.inf, 10), ValueError, "initial must be finite"),
        (lambda: CosineDecay(0.1, 0), ValueError, "steps must be at least 1"),
        (lambda: CosineDecay(0.1, 10, -0.1), ValueError, "final must be finite and at least 0"),
        (lambda: CosineDecayRestarts(0.0, 10), ValueError, "initial must be finite and above 0"),
        (lambda: CosineDecayRestarts(0.1, 0), ValueError, "steps must be at least 1"),
        (lambda: CosineDecayRestarts(0.1, 5, 1.5), TypeError, "cycle_factor must be an integer"),
        (lambda: CosineDecayRestarts(0.1, 5, final=-1.0), ValueError, "final must be finite"),
        (lambda: OneCycle(0.0, 10), ValueError, "largest must be finite and above 0"),
        (lambda: OneCycle(0.1, 0), ValueError, "steps must be at least 1"),
        (lambda: OneCycle(0.1, 5, 1.0), ValueError, "rise must be .* at least 0 and below 1"),
        (lambda: OneCycle(0.1, 5, first_divisor=0.0), ValueError, "first_divisor must be finite"),
        (lambda: OneCycle(0.1, 5, last_divisor=NAN), ValueError, "last_divisor must be finite"),
        (lambda: OneCycle(0.1, 5, 0.6, three_phases=True), ValueError, "rise .* at most 0.5"),
        (lambda: InverseScaling(-1.0), ValueError, "initial must be finite and above 0"),
        (lambda: InverseScaling(0.1, -0.5), ValueError, "power must be finite and at least 0"),
        (lambda: LinearWarmUp(0, 0.1), ValueError, "steps must be at least 1"),
        (lambda: LinearWarmUp(10, 0.0), ValueError, "then must be finite and above 0"),
        (lambda: LinearWarmUp(10, None), TypeError, "then must be a number"),
        (lambda: LinearWarmUp(10, CosineDecay), TypeError, "not the class CosineDecay itself"),
        (lambda: ReduceOnPlateau(0.0), ValueError, "initial must be finite and above 0"),
        (lambda: ReduceOnPlateau(None), TypeError, "initial must be a number"),
        (lambda: ReduceOnPlateau(0.1, factor=1.0), ValueError, "factor .* below 1"),
        (lambda: ReduceOnPlateau(0.1, patience=0), ValueError, "patience must be at least 1"),
        (lambda: ReduceOnPlateau(0.1, monitor="seconds"), ValueError, "'seconds' does not show"),
        (lambda: ReduceOnPlateau(0.1, monitor=3), TypeError, "by its name, .* not by 3"),
        (lambda: ReduceOnPlateau(0.1, least=1.0), ValueError, "least .* below 1"),
        (lambda: ReduceOnPlateau(0.1, min_delta=-1.0), ValueError, "min_delta .* at least 0"),
    ],
)
def test_bad_arguments_are_refused_by_name(make, error, message):
    with pytest.raises(error, match=message):
        make()


# ---------------------------------------------------------------------------------------------
# By how the run goes


@pytest.mark.parametrize(
    ("values", "scales"),
    [
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], [1, 1, 1, 1, 1, 1]),
        ([0.5, 0.5, 0.5, 0.5, 0.5, 0.5], [1, 1, 1 / 2, 1 / 2, 1 / 4, 1 / 4]),
        ([0.5, 0.4, 0.6, 0.5, 0.5, 0.7], [1, 1, 1, 1, 1 / 2, 1 / 2]),
        ([0.5, 0.4, 0.3, 0.6, 0.4, 0.5], [1, 1, 1 / 2, 1 / 2, 1 / 2, 1 / 4]),
        ([0.5, NAN, NAN, 0.6, NAN, 0.7], [1, 1, 1 / 2, 1 / 2, 1 / 2, 1 / 2]),
        ([NAN, NAN, NAN, 0.1, 0.2, NAN], [1, 1 / 2, 1 / 2, 1 / 2, 1 / 2, 1 / 2]),
        ([-math.inf, -2.0, -3.0, -1.0, 0.0, 0.0], [1, 1, 1, 1, 1, 1]),
    ],
    ids=["better", "still", "twice one", "cut", "NaN", "NaN first", "negative"],
)
@pytest.mark.parametrize("monitor", ["validation_accuracy", "cost"])
def test_a_plateau_halves_the_rate_and_the_wait_begins_again(values, scales, monitor):
    schedule = ReduceOnPlateau(0.5, patience=2, monitor=monitor)
    if monitor == "cost":
        values = [-value for value in values]
    found = [schedule.scale({monitor: values[: n + 1]}) for n in range(len(values))]
    assert found == scales
    assert schedule.scale({monitor: []}) == 1.0


def test_cosine_of_pytorch_rises_again_where_this_one_stays():
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)
    found = []
    for _ in range(15):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    assert found[14] == pytest.approx(found[6]) == pytest.approx(SCHEDULES["cosine"](6))
    assert SCHEDULES["cosine"](14) == 0.0


@pytest.mark.parametrize("patience", [1, 3])
def test_plateau_is_that_of_pytorch_which_waits_an_epoch_longer(rng, patience):
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer,
        factor=0.3,
        patience=patience - 1,
        threshold=0.05,
        threshold_mode="abs",
        min_lr=0.01,
        eps=0,
    )
    ours = ReduceOnPlateau(
        1.0, factor=0.3, patience=patience, monitor="cost", least=0.01, min_delta=0.05
    )
    costs = list(rng.random(40))
    for n, cost in enumerate(costs):
        theirs.step(cost)
        assert ours.scale({"cost": costs[: n + 1]}) == pytest.approx(theirs.get_last_lr()[0])
    assert theirs.get_last_lr()[0] == 0.01


def test_an_improvement_below_the_least_difference_is_none():
    past = {"validation_accuracy": [0.5, 0.55, 0.59, 0.65]}
    assert ReduceOnPlateau(0.5, patience=2, min_delta=0.1).scale(past) == 0.5
    assert ReduceOnPlateau(0.5, patience=3, min_delta=0.1).scale(past) == 1.0
    assert ReduceOnPlateau(0.5, patience=2, min_delta=0.01).scale(past) == 1.0


def test_cuts_end_at_the_least_share():
    schedule = ReduceOnPlateau(0.5, factor=0.1, patience=1, least=0.02)
    assert [schedule.scale({"validation_accuracy": [0.5] * n}) for n in (1, 2, 3, 9)] == [
        1.0,
        0.1,
        0.02,
        0.02,
    ]


def history_of(accuracies):
    """Return the history of a run with these validation accuracies."""
    return History(
        [EpochRecord(i + 1, 1.0, 0.5, 1.0, a, 1.0, 1.0) for i, a in enumerate(accuracies)]
    )


def test_scale_reads_a_history_and_keeps_nothing():
    schedule = ReduceOnPlateau(0.5, patience=2)
    whole = history_of([0.5, 0.4, 0.3, 0.2, 0.1])
    assert schedule.scale(whole) == schedule.scale(whole) == 0.25
    assert schedule.scale(history_of([0.5, 0.4, 0.3])) == 0.5


def test_scale_says_what_a_history_lacks():
    with pytest.raises(ValueError, match=r"monitors validation_accuracy, .* monitor another value"):
        ReduceOnPlateau(0.5).scale(history_of([None]))
    with pytest.raises(KeyError, match="validation_r2"):
        ReduceOnPlateau(0.5, monitor="validation_r2").scale(history_of([0.5]))


@pytest.mark.parametrize("past", [{}, {"validation_r2": []}, history_of([])], ids=type)
def test_nothing_is_cut_before_the_first_epoch_has_ended(past):
    schedule = ReduceOnPlateau(0.5, monitor="validation_r2")
    assert schedule.scale(past) == 1.0
    assert rates(schedule, 0, 2, past).tolist() == [0.5, 0.5]


@pytest.mark.parametrize("upwards", [False, True])
@pytest.mark.parametrize("monitor", ["energy", "accuracy"])
def test_a_direction_that_is_said_goes_before_the_name(monitor, upwards):
    schedule = ReduceOnPlateau(0.5, patience=1, monitor=monitor, higher_is_better=upwards)
    assert schedule.scale({monitor: [1.0, 2.0, 3.0]}) == (1.0 if upwards else 0.25)
    assert schedule.scale({monitor: [3.0, 2.0, 1.0]}) == (0.25 if upwards else 1.0)


# ---------------------------------------------------------------------------------------------
# The rates of some steps


@SCHEDULE
def test_rates_of_a_run_in_pieces_are_those_of_the_whole(name):
    schedule, past = SCHEDULES[name], {"validation_accuracy": []}
    whole = rates(schedule, 0, 20, past)
    assert whole.dtype == np.float64
    assert whole.shape == (20,)
    assert whole.tolist() == [schedule(t) for t in range(20)]
    pieces = [rates(schedule, first, n, past) for first, n in ((0, 3), (3, 16), (19, 1))]
    assert np.array_equal(np.concatenate(pieces), whole)
    assert rates(schedule, 7, 0, past).shape == (0,)
    assert initial_rate(schedule) == whole[0]


@pytest.mark.parametrize("number", [0.5, 3, np.float32(0.25), np.int64(2)], ids=repr)
def test_rates_of_a_number_are_that_number(number):
    found = rates(number, 5, 3, {})
    assert found.dtype == np.float64
    assert found.tolist() == [number] * 3
    assert initial_rate(number) == number


def test_rates_are_cut_on_a_plateau_wherever_it_is_in_a_schedule():
    past = {"validation_accuracy": [0.5, 0.4], "cost": [1.0, 1.0]}
    inner = ReduceOnPlateau(0.5, patience=1)
    assert rates(inner, 0, 2, past).tolist() == [0.25, 0.25]
    assert rates(LinearWarmUp(1, inner), 0, 3, past).tolist() == [0.125, 0.25, 0.25]
    falling = ReduceOnPlateau(CosineDecay(0.5, steps=2), patience=1)
    assert rates(falling, 0, 3, past) == pytest.approx([0.25, 0.125, 0.0])
    twice = ReduceOnPlateau(inner, factor=0.1, patience=1, monitor="cost")
    assert rates(twice, 0, 2, past) == pytest.approx([0.025, 0.025])


def test_rates_of_a_function_may_be_numbers_of_any_kind():
    kinds = [0.5, 1, np.float32(0.25), np.asarray(0.125), np.int64(2), 0]
    found = rates(lambda step: kinds[step], 0, 6, {})
    assert found.dtype == np.float64
    assert found.tolist() == [0.5, 1.0, 0.25, 0.125, 2.0, 0.0]


class Own:
    """A schedule of a user's, that looks at the run."""

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, step):
        return 1.0 + step

    def __str__(self):
        return "my own schedule"

    def scale(self, history):
        return self.factor * len(history["cost"])


def test_a_schedule_of_a_users_may_look_at_the_run():
    assert rates(Own(0.5), 1, 2, {"cost": [1.0, 1.0, 1.0]}).tolist() == [3.0, 4.5]
    with pytest.raises(ValueError, match=r"the scale of my own schedule must be finite and at"):
        rates(Own(-0.5), 1, 2, {"cost": [1.0]})


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (-0.1, ValueError),
        (NAN, ValueError),
        (math.inf, ValueError),
        (np.float64("nan"), ValueError),
        (None, TypeError),
        ("0.1", TypeError),
        (True, TypeError),
        (0.1j, TypeError),
        (np.ones(2), TypeError),
    ],
    ids=repr,
)
def test_a_rate_that_is_none_is_refused_with_schedule_and_step(wrong, error):
    class Wrong:
        def __call__(self, step):
            return wrong if step == 3 else 0.1

        def __repr__(self):
            return "Wrong()"

    assert rates(Wrong(), 0, 3, {}).tolist() == [0.1] * 3
    with pytest.raises(error, match=r"learning rate of Wrong\(\) at step 3 must be"):
        rates(Wrong(), 0, 5, {})


def test_a_rate_that_grows_beyond_all_numbers_is_refused():
    with pytest.raises(ValueError, match=r"ExponentialDecay\(.*\) at step 2000 must be finite"):
        rates(ExponentialDecay(0.1, factor=2.0), 2000, 1, {})


@pytest.mark.parametrize("rate", [0.1, 3, np.float32(0.1), math.sin, CosineDecay(0.1, 10)])
def test_learning_rate_may_be_a_number_or_what_can_be_called(rate):
    check_learning_rate(rate)


# ---------------------------------------------------------------------------------------------
# Values


@SCHEDULE
def test_schedule_is_a_value(name):
    schedule = SCHEDULES[name]
    same = pickle.loads(pickle.dumps(schedule))
    assert same == schedule
    assert hash(same) == hash(schedule)
    assert len({*SCHEDULES.values(), same}) == len(SCHEDULES)
    assert eval(repr(schedule)) == schedule
