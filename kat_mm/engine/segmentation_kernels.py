from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import Runner

from kat_mm.dense import use_segmentation_kernels


class SegmentationKernelsHook(Hook):
    """Train and test mmseg's own heads by this package's operators.

    See :func:`kat_mm.dense.use_segmentation_kernels`; with test-time augmentation, which averages
    logits, these are kept.

    Args:
        enabled: ``default_hooks = dict(segmentation_kernels=dict(enabled=False))`` leaves the model
            to mmseg. Default: True.
        keep_logits: Whether predictions hold ``seg_logits``, computed by mmseg. Default: False.
    """

    def __init__(self, enabled: bool = True, keep_logits: bool = False):
        self.enabled, self.keep_logits = enabled, keep_logits

    def before_run(self, runner: Runner) -> None:
        if not self.enabled:
            return
        model, keep_logits = runner.model, self.keep_logits
        while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
            keep_logits = keep_logits or isinstance(model, BaseTTAModel)
            model = model.module
        use_segmentation_kernels(model, keep_logits)
