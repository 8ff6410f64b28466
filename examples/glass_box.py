"""A tour of the inside of a network, on the small digits.

Run it as a script, or cell by cell in an editor that supports cells (# %%). It shows the trace of a
forward and a backward pass, the four equations with their shapes and norms, what a nudge of one
neuron does to the cost, and why a weight learns slowly: a dark input, a saturated neuron, an error
that vanishes on its way back, a dead unit. --plot FILE draws how a deep network of sigmoids learns,
if matplotlib is installed.
"""

# %%
import argparse
import sys

import numpy as np

from bp_xp import SGD, Network, to_numpy
from bp_xp._optional import require
from bp_xp.datasets import load_digits
from bp_xp.inspection import GradientFlow, sensitivity

parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
parser.add_argument("--device", help="cpu, cuda, cuda:1, auto (default: cpu)")
parser.add_argument("--backend", help="numpy, cupy, torch, jax, dpnp, mlx (default: by device)")
parser.add_argument("--epochs", type=int, default=10, help="of each training (default: 10)")
parser.add_argument("--plot", metavar="FILE", help="draw the deep network (.png, .svg, .pdf)")
# In a notebook, the command line does not belong to this script.
args = parser.parse_args([] if hasattr(sys, "ps1") else None)

if args.plot:
    require("matplotlib", "plot").use("Agg")  # says what to install, before anything is trained
where = {"device": args.device, "backend": args.backend}
digits = load_digits()
x, y = digits.x_train[:256], digits.y_train[:256]

# %% [markdown]
# # One forward pass, one backward pass
# A trace keeps each quantity of the chapter: z, a, σ′(z), δ and the derivatives, layer by layer.
# The weights are the initial ones, so the outputs are wrong and the errors δ are large.

# %%
net = Network([64, 30, 10], **where, seed=0)
trace = net.trace(x, y)
print(trace, end="\n\n")

# %% [markdown]
# # The four equations
# They relate the arrays of the trace, which are on the network's device.

# %%
print(trace.equations(), end="\n\n")

# %%
hidden, output = trace.layers
carried = (output.delta @ output.W) * hidden.sigma_prime_z
off = float(to_numpy(net.xp.max(net.xp.abs(carried - hidden.delta))))
print(f"BP2, computed again from the arrays: off by {off:.1e}\n")

# %% [markdown]
# # The demon at a neuron
# It adds a small Δz to the weighted input of one neuron, here for each sample. The cost changes by
# δ Δz, up to terms of (Δz)²: that is what δ means. If |δ| is large, the demon can change the cost a
# lot.

# %%
delta = to_numpy(hidden.delta).sum(axis=0)
strongest, weakest = int(np.argmax(np.abs(delta))), int(np.argmin(np.abs(delta)))
print("hidden neuron    Δz    the cost changes by          δ Δz")
for unit in (strongest, weakest):
    for nudge in (1.0, 0.1):
        found = sensitivity(net, x, y, layer=1, unit=unit, nudge=nudge)
        print(f"{unit:13} {nudge:5.1f} {found.real:22.7f} {found.predicted:13.7f}")

# %% [markdown]
# # Why a weight learns slowly
# Its derivative is a δ (BP4): the activation of its input, times the error of its neuron. A weight
# from a pixel that is dark in most images learns slowly, and a weight from the black border does
# not learn at all.

# %%
rates, light = np.abs(to_numpy(hidden.nabla_W)), x.mean(axis=0)
print("\nmean input a    weights    mean |∂C/∂w|")
for low, high in ((-1.0, 0.0), (0.0, 0.1), (0.1, 0.4), (0.4, 1.0)):
    pixels = (low < light) & (light <= high)
    group = rates[:, pixels]
    print(f"{max(low, 0.0):5.1f} to {high:3.1f} {group.size:10} {group.mean():15.6f}")

# %% [markdown]
# The error has σ′(z) as a factor (BP2). If weights are drawn from N(0, 1), whatever the number of
# inputs of a neuron, |z| becomes large. A sigmoid is flat there: the neuron is saturated, and all
# weights into it learn slowly.

# %%
(wide, _) = Network([64, 30, 10], initializer="normal", **where, seed=1).trace(x, y).layers
rates, slopes = np.abs(to_numpy(wide.nabla_W)), to_numpy(wide.sigma_prime_z).mean(axis=0)
print("\nmean σ′(z)     neurons    mean |∂C/∂w|")
for neurons in np.array_split(np.argsort(slopes), 3):
    print(f"{slopes[neurons].mean():10.4f} {len(neurons):11} {rates[neurons].mean():15.6f}")

# %% [markdown]
# # A deep network of sigmoids hardly learns
# On its way back, the error is multiplied by σ′(z) in each layer, and the σ′ of a sigmoid is never
# more than ¼. Almost no error reaches the first layers, and the layers above them learn from
# features that stay as random as their initial weights. A GradientFlow records this, epoch by
# epoch.


# %%
def watch(title, activation, **options):
    """Train a network with four hidden layers, and return what its layers did."""
    deep = Network([64, 30, 30, 30, 30, 10], activation=activation, **where, seed=0, **options)
    flow = GradientFlow(x, y)
    history = deep.fit(
        digits.x_train,
        digits.y_train,
        epochs=args.epochs,
        optimizer=SGD(0.5),
        callbacks=[flow],
        progress=False,
    )
    header, *rows = str(flow).splitlines()
    print(f"\n{title}: {history[-1].accuracy:.1%} correct after {args.epochs} epochs")
    print(header)
    print("\n".join(rows[-5:]))
    return flow


vanishing = watch("sigmoid, quadratic cost", "sigmoid")

# %% [markdown]
# # What helps
# The slope of tanh is nearly 1 if z is small, and the cross-entropy cancels the σ′ of the outputs.
# All layers learn, at about the same speed. The outputs are saturated at the end, which does no
# harm: the network is confident.

# %%
healthy = watch("tanh, cross-entropy", "tanh", cost="categorical_cross_entropy")

# %% [markdown]
# # Dead units
# A ReLU passes the error on only if z > 0. A step that is too long can push a neuron's z below 0
# for every sample. No error passes any more, and the neuron stays dead.

# %%
dead = watch("ReLU, steps too long", "relu", cost="categorical_cross_entropy")

# %% [markdown]
# # Side by side

# %%
print("\nspeed of learning ‖∂C/∂b‖, from the first layer to the last:")
for name, flow in (("sigmoid", vanishing), ("tanh", healthy), ("ReLU", dead)):
    speeds = flow.records[-1].speeds
    numbers = " ".join(f"{speed:9.2g}" for speed in speeds)
    print(f"{name:8} {numbers}    last / first: {speeds[-1] / speeds[0]:.2g}")

# %% [markdown]
# # A picture

# %%
if args.plot:
    from matplotlib import pyplot

    from bp_xp.plotting import gradient_flow

    gradient_flow(vanishing)
    pyplot.savefig(args.plot, dpi=150)
    print(f"\nplot saved to {args.plot}")
