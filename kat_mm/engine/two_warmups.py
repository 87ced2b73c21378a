from mmengine.optim import _ParamScheduler


class TwoWarmupsPolyLR(_ParamScheduler):
    """Learning rates of a pretrained backbone under new heads (EoMT's recipe).

    The heads warm up while the backbone's rate is 0, then the backbone does. From the end of its
    own warm-up each falls polynomially to 0. What belongs to the backbone is told by the parameter
    groups: see ``split_backbone`` of :class:`LayerDecayOptimWrapperConstructor`.

    Args:
        optimizer: Optimizer, or its wrapper.
        head_iters: Iterations of the heads' warm-up.
        backbone_iters: Iterations of the backbone's, which comes after it.
        end: Iteration at which all rates are 0, as in mmengine.
        power: Default: 0.9.
        by_epoch: Must be False: it counts iterations.
        last_step: As of mmengine's schedulers.
        verbose: Likewise.

    Raises:
        ValueError: The iterations do not fit, or no group is told to be the backbone's.
    """

    def __init__(
        self,
        optimizer,
        head_iters: int,
        backbone_iters: int,
        end: int,
        power: float = 0.9,
        by_epoch: bool = False,
        last_step: int = -1,
        verbose: bool = False,
    ):
        if by_epoch:
            raise ValueError('TwoWarmupsPolyLR: by_epoch=True; it counts iterations')
        if not 0 <= head_iters <= head_iters + backbone_iters < end:
            raise ValueError(
                f'TwoWarmupsPolyLR: head_iters={head_iters} and backbone_iters={backbone_iters} '
                f'must be 0 or more, and end before end={end}'
            )
        groups = optimizer.param_groups
        if not any(group.get('in_backbone') for group in groups):
            raise ValueError(
                "TwoWarmupsPolyLR: no parameter group is the backbone's; set optim_wrapper."
                "constructor='LayerDecayOptimWrapperConstructor' and "
                'paramwise_cfg=dict(split_backbone=True)'
            )
        self.warmups = tuple(
            (head_iters, backbone_iters) if group.get('in_backbone') else (0, head_iters)
            for group in groups
        )
        self.power = power
        super().__init__(
            optimizer, 'lr', end=end, last_step=last_step, by_epoch=False, verbose=verbose
        )

    def _get_value(self) -> list[float]:
        return [
            base * self._factor(*warmup)
            for base, warmup in zip(self.base_values, self.warmups, strict=True)
        ]

    def _factor(self, idle: int, warmup: int) -> float:
        step, top = self.last_step, idle + warmup
        if step < top:
            return max(0.0, (step - idle) / warmup)
        return max(0.0, 1 - (step - top) / (self.end - top)) ** self.power
