"""Models for use without bp_xp: ONNX, and a single file of plain NumPy.

    recording ──► graph of ONNX       what a network computes, and the preparation of its table
              └─► lines of NumPy

What a network computes is recorded, not implemented a second time (:mod:`bp_xp.export.recording`),
so your own activations are exported like those of bp_xp.
"""

from bp_xp.export.onnx import export_onnx, onnx_inputs
from bp_xp.export.program import export_program

__all__ = ["export_onnx", "export_program", "onnx_inputs"]
