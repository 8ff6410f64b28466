"""The four equations of backpropagation, each compared with a finite difference.

Four tables, all measured here, in float64:

1. BP1 to BP4 compared with central differences of the cost, for a random network. They hold for any
   differentiable activation and any cost that is a mean over samples: try --activation gelu.
2. What δ means: if you add Δz to the weighted input of one neuron, the cost changes by δ Δz.
3. Why it is fast: one forward and one backward pass give every derivative. Central differences take
   two forward passes for each weight.
4. When a weight learns slowly: its input is small, or its neuron is saturated. --plot FILE draws
   the latter, if matplotlib is installed.
"""

import argparse
import os
import time

import numpy as np

from bp_xp import Network, to_numpy
from bp_xp._optional import require
from bp_xp.backends import place
from bp_xp.inspection import sensitivity
from bp_xp.math.backprop import cost_of_samples, forward


def cost_of(net, x, y, l, name):  # noqa: E741 - the book's index of layers
    """Return C as a function of the weights, "W", or the biases, "b", of layers[l]."""

    def cost(array):
        layers = list(net.layers)
        layers[l] = layers[l]._replace(**{name: array})
        z = forward(net.model, layers, x, xp=net.xp).zs[-1]
        return float(to_numpy(cost_of_samples(net.model, z, y, xp=net.xp)).mean())

    return cost


def differences(cost, array, where, h=1e-5):
    """Return the central difference of cost(array) with respect to each entry of the array."""
    slopes = np.zeros(tuple(array.shape))
    for index in np.ndindex(slopes.shape):
        nudge = np.zeros(slopes.shape)
        nudge[index] = h
        step = where.asarray(nudge)
        slopes[index] = (cost(array + step) - cost(array - step)) / (2 * h)
    return slopes


def differences_by_z(net, x, y, layer, h=1e-5):
    """Return the central difference of C by the weighted input of each neuron, per sample."""
    slopes = np.zeros((x.shape[0], net.sizes[layer]))
    for n, unit in np.ndindex(slopes.shape):
        sample = x[n : n + 1, :], y[n : n + 1, :]
        up, down = (sensitivity(net, *sample, layer, unit, nudge).real for nudge in (h, -h))
        slopes[n, unit] = (up - down) / (2 * h)
    return slopes / x.shape[0]  # C is a mean over samples


def check_equations(options, activation, where, rng):
    net = Network([4, 5, 3], activation=activation, seed=0, **options)
    x, y = (where.asarray(rng.random((6, n))) for n in (4, 3))
    trace = net.trace(x, y)
    hidden, output = trace.layers
    table = [
        ("BP1  δᴸ = ∇ₐC ⊙ σ′(zᴸ)", output.delta, differences_by_z(net, x, y, 2)),
        ("BP2  δˡ = (δˡ⁺¹ Wˡ⁺¹) ⊙ σ′(zˡ)", hidden.delta, differences_by_z(net, x, y, 1)),
        ("BP3  ∂C/∂b = Σ δ", hidden.nabla_b,
         differences(cost_of(net, x, y, 0, "b"), hidden.b, where)),
        ("BP4  ∂C/∂W = δᵀ a", hidden.nabla_W,
         differences(cost_of(net, x, y, 0, "W"), hidden.W, where)),
    ]  # fmt: skip
    print(f"{net}\n\n{trace}\n")
    print("1. equation                         shape   largest entry   off by at most")
    for name, value, exact in table:
        by_equation = to_numpy(value)
        off = np.abs(by_equation - exact).max()
        print(f"   {name:32} {by_equation.shape!s:8}{np.abs(by_equation).max():13.6f} {off:16.1e}")

    sample = x[:1, :], y[:1, :]
    delta = float(to_numpy(net.trace(*sample).layers[0].delta)[0, 0])
    print(f"\n2. hidden neuron 0, sample 0: δ = {delta:.6f}\n   Δz        C changes by      δ Δz")
    for size in (0.1, 0.01, 0.001):
        nudged = sensitivity(net, *sample, layer=1, unit=0, nudge=size)
        print(f"   {size:<8g} {nudged.real:13.9f} {nudged.predicted:13.9f}")


def compare_speed(options, widths, where, rng):
    print("\n3. network          weights   backprop, ms   differences, ms   times as long")
    for width in widths:
        net = Network([width] * 3, seed=1, **options)
        x, y = (where.asarray(rng.random((1, width))) for _ in "xy")
        fast, exact = float("inf"), np.empty(0)
        for _ in range(10):  # the first warms up
            start = time.perf_counter()
            exact = to_numpy(net.backprop(x, y)[0].W)  # read back, so that a GPU has finished
            fast = min(fast, time.perf_counter() - start)

        start = time.perf_counter()
        by_weight = [
            differences(cost_of(net, x, y, l, "W"), layer.W, where)
            for l, layer in enumerate(net.layers)  # noqa: E741 - the book's index of layers
        ]
        slow = time.perf_counter() - start
        assert np.allclose(by_weight[0], exact, atol=1e-8)
        print(
            f"   {list(net.sizes)!s:15} {2 * width**2:8,} {1e3 * fast:14.3f} {1e3 * slow:17.1f}"
            f" {slow / fast:15,.0f}"
        )


def show_slow_learning(options, plot):
    def slope(a, z, cost):
        """Return |∂C/∂w| of one neuron with weighted input z, input a and target 0."""
        net = Network.from_layers([([[1.0]], [z - a])], **(options | {"cost": cost}))
        return abs(float(to_numpy(net.backprop([[a]], [[0.0]])[0].W)[0, 0]))

    zs = (0, 2, 4, 8)
    print(
        "\n4. |∂C/∂w| of one sigmoid neuron, target 0      z = 0      z = 2      z = 4      z = 8"
    )
    for a, cost in ((1, "quadratic"), (0.1, "quadratic"), (0.01, "quadratic"),
                    (1, "binary_cross_entropy")):  # fmt: skip
        print(f"   {cost:21} input a = {a:<8g}", *(f"{slope(a, z, cost):10.6f}" for z in zs))
    print(
        "   The larger z is, the more wrong the neuron, and the less the quadratic cost teaches it."
    )
    if plot:
        zs = np.linspace(-8, 8, 81)
        costs = {"quadratic cost": "quadratic", "cross-entropy": "binary_cross_entropy"}
        draw(zs, {name: [slope(1, z, costs[name]) for z in zs] for name in costs}, plot)
        print(f"   plot saved to {plot}")


def draw(zs, slopes, path):
    """Draw |∂C/∂w| as a function of z, with a line for each cost."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    from bp_xp.plotting._style import PALETTE, new_axes, style

    ax = new_axes(None, (5.6, 3.8))
    for (name, of_cost), color, dash in zip(slopes.items(), PALETTE, ("-", "--"), strict=False):
        ax.plot(zs, of_cost, dash, color=color, lw=2, label=name)
    style(
        ax,
        title="How fast a weight of a sigmoid neuron learns (target 0, input 1)",
        x="weighted input z (the larger it is, the more wrong the neuron)",
        y="|∂C/∂w|",
    )
    ax.legend(frameon=False)
    pyplot.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", help="cpu, cuda, cuda:1, auto (default: cpu)")
    parser.add_argument("--backend", help="numpy, cupy, torch, jax, dpnp, mlx (default: by device)")
    parser.add_argument("--activation", default="sigmoid", help="of the hidden layer of table 1")
    parser.add_argument("--cost", default="quadratic", choices=("quadratic", "huber"))
    parser.add_argument("--widths", type=int, nargs="+", default=[4, 8, 16, 32, 64])
    parser.add_argument("--plot", metavar="FILE", help="draw table 4 (.png, .svg, .pdf)")
    args = parser.parse_args()
    os.environ.setdefault("JAX_ENABLE_X64", "1")  # JAX needs this for float64

    if args.plot:
        require("matplotlib", "plot")  # says what to install, before anything is measured
    rng = np.random.default_rng(0)
    options = {
        "cost": args.cost,
        "output_activation": "sigmoid",
        "device": args.device,
        "backend": args.backend,
        "dtype": "float64",
    }
    where = place(args.device, args.backend)
    with where.active():
        check_equations(options, args.activation, where, rng)
        compare_speed(options, args.widths, where, rng)
        show_slow_learning(options, args.plot)


if __name__ == "__main__":
    main()
