"""Models outside of OpenMMLab: ONNX, OpenVINO, torch.export, and how to call them.

:func:`load` needs numpy, Pillow and the file's runtime alone.
"""

from .model import ExportedModel, load

__all__ = ['ExportedModel', 'load']
