"""Models outside of OpenMMLab: ONNX, OpenVINO, torch.export, and how to call them.

:func:`load` needs torch, numpy, Pillow and the file's runtime, no mm packages.
"""

from .model import ExportedModel, load

__all__ = ['ExportedModel', 'load']
