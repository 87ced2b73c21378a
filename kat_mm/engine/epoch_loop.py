import contextlib
import itertools
from collections.abc import Iterator

from mmengine.logging import print_log
from mmengine.runner import EpochBasedTrainLoop
from torch.utils.data import DataLoader


class ResumableEpochLoop(EpochBasedTrainLoop):
    """mmengine's training by epochs, which goes on within an epoch that was left by a signal."""

    def run_epoch(self) -> None:
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        done = self._batches_done()
        with _rest(self.dataloader, done):
            for index, batch in enumerate(self.dataloader, done):
                self.run_iter(index, batch)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1

    def _batches_done(self) -> int:
        """Batches of this epoch that the run before this one has trained on."""
        done, of = self.runner.message_hub.pop_info('batches_of_epoch', (0, None))
        if done and of != len(self.dataloader):
            print_log(
                f'The epoch that was left after {done} of {of} batches begins anew: it has '
                f'{len(self.dataloader)} now',
                'current',
            )
            return 0
        return done


class _Rest:
    """A sampler without its first samples."""

    def __init__(self, sampler, skipped: int):
        self.sampler, self.skipped = sampler, skipped

    def __iter__(self) -> Iterator[int]:
        return itertools.islice(self.sampler, self.skipped, None)

    def __len__(self) -> int:  # of the epoch, whose batches are numbered on
        return len(self.sampler)


@contextlib.contextmanager
def _rest(loader: DataLoader, batches: int) -> Iterator[None]:
    """Have a loader's next epoch begin behind some batches, without loading them."""
    sampler = loader.batch_sampler.sampler
    if batches:
        loader.batch_sampler.sampler = _Rest(sampler, batches * loader.batch_sampler.batch_size)
    try:
        yield
    finally:
        loader.batch_sampler.sampler = sampler
