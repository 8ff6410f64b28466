"""Models for those who do not have bp_xp: ONNX, and a single file of plain NumPy.

    recording ──► graph of ONNX       what a network computes, and the preparation of its table
              └─► lines of NumPy

What a network computes is recorded, not written a second time (:mod:`bp_xp.export.recording`), so
activations of a user's own are exported like bp_xp's.
"""

from bp_xp.export.onnx import export_onnx, onnx_inputs
from bp_xp.export.program import export_program

__all__ = ["export_onnx", "export_program", "onnx_inputs"]
