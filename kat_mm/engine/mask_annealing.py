from collections.abc import Sequence

from mmengine.hooks import Hook
from mmengine.runner import Runner

from kat_mm.arguments import check_int, check_number


class MaskAnnealingHook(Hook):
    """Turn the masked attention of EoMT off, block by block (Kerssies et al. 2025, section 3.3).

    The probability with which a query is masked is 1 up to an iteration of each block, 0 from
    another one, and (1 - t)^power at the part t of the way between.

    Args:
        begin: Iteration at which it begins to fall, for each block that queries go through.
        end: Iteration from which it is 0, likewise; not before ``begin``.
        power: Default: 0.9.
    """

    def __init__(self, begin: Sequence[int], end: Sequence[int], power: float = 0.9):
        for name, value in (('begin', begin), ('end', end)):
            if not isinstance(value, Sequence):
                raise ValueError(
                    f'MaskAnnealingHook: {name}={value!r} must be iterations, one for each block '
                    'that queries go through'
                )
            for iteration in value:
                check_int('MaskAnnealingHook', name, iteration, least=0)
        check_number('MaskAnnealingHook', 'power', power, above=0)
        if len(begin) != len(end) or any(b > e for b, e in zip(begin, end, strict=False)):
            raise ValueError(
                f'MaskAnnealingHook: begin={tuple(begin)} and end={tuple(end)} must be as many '
                'iterations, none of which ends before it begins'
            )
        self.begin, self.end, self.power = tuple(begin), tuple(end), power

    def rates(self, iteration: int) -> tuple[float, ...]:
        """The probability for each block."""
        return tuple(
            self._rate(iteration, begin, end)
            for begin, end in zip(self.begin, self.end, strict=True)
        )

    def _rate(self, iteration: int, begin: int, end: int) -> float:
        if iteration < begin:
            return 1.0
        return 0.0 if iteration >= end else ((end - iteration) / (end - begin)) ** self.power

    def before_train(self, runner: Runner) -> None:
        self._heads = [m for m in runner.model.modules() if hasattr(m, 'set_mask_rates')]
        if not self._heads:
            raise ValueError('MaskAnnealingHook: the model has no EoMTHead')
        self._set(runner)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch=None) -> None:
        self._set(runner)

    def _set(self, runner: Runner) -> None:
        for head in self._heads:
            head.set_mask_rates(self.rates(runner.iter))
