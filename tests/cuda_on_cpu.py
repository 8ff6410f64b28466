"""Runs the kernels of the CuPy engine on a CPU, on NumPy's arrays: needs g++."""

import ctypes
import functools
import hashlib
import subprocess
import tempfile
import threading
from pathlib import Path

from bp_xp.backends.cupy.launching import LaunchConfiguration

SOURCES = Path(__file__).parent
_one_launch = threading.Lock()
_TEMPORARY = tempfile.TemporaryDirectory(prefix="cuda_on_cpu")  # as long as the process lives
FOLDER = Path(_TEMPORARY.name)


def source_of(kernel):
    """Return a kernel as C++, with a function that calls it: (arguments, number of steps)."""
    arguments = ", ".join(
        f"({c_type}*)a[{i}]" for i, c_type in enumerate(kernel.arguments.values())
    )
    call = f"void call(void** a, int n) {{ take_steps({arguments}, n); }}"
    return f'#include "cuda_on_cpu.hpp"\n{kernel.source}\n{call}\n'


def build(source, output, *flags):
    from_input = "-x", "c++", "-"
    command = ["g++", "-std=c++20", "-pthread", f"-I{SOURCES}", *flags, "-o", output, *from_input]
    subprocess.run(command, input=source, text=True, check=True, capture_output=True)
    return output


@functools.cache
def _threads():
    # The barriers are needed by every kernel, and take longest to compile.
    source = (SOURCES / "cuda_on_cpu.cpp").read_text()
    return build(source, FOLDER / "threads.o", "-fPIC", "-c")


def compile_kernel(kernel, configuration):
    """Make a kernel ready to run: a :attr:`LaunchConfiguration.compile`."""
    run = f"""
        extern "C" void run(void** arguments, int n_steps) {{
            on_every_thread({configuration.threads}, call, arguments, n_steps);
        }}
    """
    source = source_of(kernel) + run
    name = FOLDER / f"{hashlib.sha256(source.encode()).hexdigest()}.so"
    if not name.exists():
        # The objects file goes before what is read from the standard input, as C++.
        build(source, name, "-shared", "-fPIC", _threads())
    library = ctypes.CDLL(str(name))

    def launch(arguments, n_steps):
        pointers = (ctypes.c_void_p * len(arguments))(*(one.ctypes.data for one in arguments))
        with _one_launch:  # its barriers are those of one kernel
            library.run(pointers, n_steps)

    return launch


CPU = LaunchConfiguration(64, 2, False, 1e-6, 1e-12, compile_kernel)
"""Two blocks of two warps each."""
