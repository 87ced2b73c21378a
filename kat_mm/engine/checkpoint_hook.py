import contextlib
import math
import os
from bisect import bisect
from pathlib import Path

from mmengine import dist
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook
from mmengine.logging import print_log
from mmengine.runner import EpochBasedTrainLoop, Runner

from kat_mm.engine.finite import non_finite_parameters
from kat_mm.engine.work_dir import checkpoint_folder
from kat_mm.errors import UserError
from kat_mm.whole_files import replace_whole, write_whole

# What the file of this name says was the last iteration whose validation is done.
_LAST_VALIDATION = 'last_validation'


class AtomicCheckpointHook(CheckpointHook):
    """mmengine's CheckpointHook, which never leaves a run without a whole checkpoint.

    A file gets its name once all of it is on the disk, and an old one goes once the new one has its
    name. What a killed process left undone, the resumed run does: old files are removed, and a
    validation that was not finished is made again. Weights that are not finite are not written.
    A run that resumes from another folder leaves that folder as it is.

    This holds for local and mounted disks. Other backends of mmengine write as they do with
    mmengine's hook, whose arguments these are.
    """

    def before_train(self, runner: Runner) -> None:
        folder = checkpoint_folder(runner.work_dir, self.out_dir)
        resumed = _resumed_file(runner, folder)
        self._adopt(runner, folder, resumed)
        super().before_train(runner)
        self._local = isinstance(self.file_backend, LocalBackend)
        # Files to be removed once the next checkpoint is whole.
        self._obsolete: list[str] = []
        self._saved_iter = None
        if not self._local:
            print_log(
                f'{type(self.file_backend).__name__} of {self.out_dir} decides whether a '
                'checkpoint is whole when the run is killed',
                'current',
            )
            return
        self._obsolete = runner.message_hub.get_info('obsolete_ckpts', [])
        self._remove_obsolete()
        if dist.is_main_process():
            for place in {self.out_dir, runner.work_dir}:
                for left_over in Path(place).glob('.*.tmp'):
                    left_over.unlink()
        if resumed is not None:
            self.last_ckpt = str(resumed)
            self._saved_iter = runner.iter
            if runner.message_hub.get_info('batches_of_epoch') is not None:
                self._obsolete = [resumed.name]
            if self._lacks_validation(runner):
                runner.logger.info(f'Validating {resumed} first, as it was not done')
                runner.val_loop.run()

    def _adopt(self, runner: Runner, folder: str, resumed: Path | None) -> None:
        """Have the resumed run know its own files, and no others."""
        hub = runner.message_hub
        for key in [key for key in hub.runtime_info if key.startswith('best_ckpt')]:
            best = Path(folder, os.path.basename(str(hub.pop_info(key))))
            if resumed is not None:
                hub.update_info(key, str(best))
        if resumed is None:
            for key in ('keep_ckpt_ids', 'obsolete_ckpts'):
                hub.pop_info(key, None)

    def _lacks_validation(self, runner: Runner) -> bool:
        loop = runner.train_loop
        if runner.val_loop is None or runner.message_hub.get_info('batches_of_epoch') is not None:
            return False
        by_epoch = isinstance(loop, EpochBasedTrainLoop)
        step, last = (loop.epoch, loop.max_epochs) if by_epoch else (loop.iter, loop.max_iters)
        interval = loop.dynamic_intervals[bisect(loop.dynamic_milestones, step + 1) - 1]
        due = step >= loop.val_begin and (step % interval == 0 or step == last)
        done = -1
        with contextlib.suppress(OSError, ValueError):
            done = int(Path(runner.work_dir, _LAST_VALIDATION).read_text())
        # Not each process by its own disk.
        answer = [due and done < loop.iter]
        dist.broadcast_object_list(answer)
        return answer[0]

    def after_val_epoch(self, runner: Runner, metrics: dict) -> None:
        super().after_val_epoch(runner, metrics)
        if self._local and dist.is_main_process():
            with write_whole(Path(runner.work_dir, _LAST_VALIDATION)) as temporary:
                temporary.write_text(str(runner.iter))

    def save_now(self, runner: Runner, batch_idx: int) -> None:
        """Save at the end of an iteration, also within an epoch, unless that is done.

        Args:
            runner: The runner, in its hooks of the end of an iteration.
            batch_idx: Number of the iteration within its epoch.
        """
        if self._saved_iter == runner.iter + 1:
            return
        if not self.by_epoch:
            self._save_checkpoint(runner)
            return
        batches = [batch_idx + 1, len(runner.train_dataloader)]
        runner.message_hub.update_info('batches_of_epoch', batches)
        name = f'iter_{runner.iter + 1}.pth'
        self._save(runner, name, dict(epoch=runner.epoch, iter=runner.iter + 1))

    def save_before_validation(self, runner: Runner) -> None:
        """Save from within a validation the state before it, unless that is done."""
        if self._saved_iter != runner.iter:
            step = runner.epoch if self.by_epoch else runner.iter
            meta = dict(epoch=runner.epoch, iter=runner.iter)
            self._save_checkpoint_with_step(runner, step, meta)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        if not self._local:
            super()._save_checkpoint_with_step(runner, step, meta)
            return
        obsolete = None
        if self.max_keep_ckpts > 0 and step not in self.keep_ckpt_ids:
            if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
                obsolete = self.filename_tmpl.format(self.keep_ckpt_ids[0])
            self.keep_ckpt_ids.append(step)  # which drops the first of a full queue
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        if obsolete is not None:
            self._obsolete.append(obsolete)
        self._save(runner, self.filename_tmpl.format(step), meta)

    def _save(self, runner: Runner, name: str, meta: dict) -> None:
        """Save the state of the run, and then let go of what it replaces."""
        if not _worth_saving(runner, name):
            return
        self._obsolete = [old for old in self._obsolete if old != name]
        # In the file, for the case that the process does not live to remove them.
        runner.message_hub.update_info('obsolete_ckpts', self._obsolete)
        self.last_ckpt = os.path.join(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        self._write(
            runner,
            name,
            meta,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            **self.args,
        )
        self._saved_iter = meta['iter']
        if dist.is_main_process():
            with write_whole(Path(runner.work_dir, 'last_checkpoint')) as temporary:
                temporary.write_text(self.last_ckpt)
        self._remove_obsolete()

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        if not self._local:
            super()._save_best_checkpoint(runner, metrics)
            return
        if not self.save_best:
            return
        if 'auto' in self.key_indicators:
            self._init_rule(self.rules, [next(iter(metrics))])
        hub = runner.message_hub
        step = runner.epoch if self.by_epoch else runner.iter
        meta = dict(epoch=runner.epoch, iter=runner.iter)
        updated = False
        for key, rule in zip(self.key_indicators, self.rules, strict=True):
            suffix = f'_{key}' if len(self.key_indicators) > 1 else ''
            score = metrics[key]
            best = hub.get_info(f'best_score{suffix}', self.init_value_map[rule])
            if score is None or not math.isfinite(score):
                runner.logger.warning(f'{key} is {score}, which is no best')
                continue
            if not self.is_better_than[key](score, best):
                continue
            name = f'best_{key}_{self.filename_tmpl.format(step)}'.replace('/', '_')
            if not _worth_saving(runner, name):
                continue
            old = hub.get_info(f'best_ckpt{suffix}')
            if old and os.path.basename(old) != name:
                self._obsolete.append(os.path.basename(old))
            path = os.path.join(self.out_dir, name)
            if suffix:
                self.best_ckpt_path_dict[key] = path
            else:
                self.best_ckpt_path = path
            hub.update_info(f'best_score{suffix}', score)
            hub.update_info(f'best_ckpt{suffix}', path)
            self._write(runner, name, meta, save_optimizer=False, save_param_scheduler=False)
            runner.logger.info(f'The best checkpoint with {score:0.4f} {key} is saved to {name}.')
            updated = True
        if updated and self.last_ckpt is not None:
            # Once more, with the best score.
            self._save_checkpoint_with_step(runner, step, meta)
        elif updated:
            self._remove_obsolete()

    def _write(self, runner: Runner, name: str, meta: dict, **what) -> None:
        path, temporary = Path(self.out_dir, name), Path(self.out_dir, f'.{name}.tmp')
        try:
            runner.save_checkpoint(
                self.out_dir,
                temporary.name,
                self.file_client_args,
                meta=meta,
                backend_args=self.backend_args,
                **what,
            )
            if dist.is_main_process():
                replace_whole(temporary, path)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise UserError(
                f'cannot write checkpoint {path}: {error.strerror}. Earlier checkpoints are whole; '
                'once the reason is gone, go on with --resume'
            ) from error

    def _remove_obsolete(self) -> None:
        if dist.is_main_process():
            for name in self._obsolete:
                # Of this folder, whatever a checkpoint says.
                Path(self.out_dir, os.path.basename(str(name))).unlink(missing_ok=True)
        self._obsolete = []


def _resumed_file(runner: Runner, folder: str) -> Path | None:
    """The file in the folder that the run goes on from, if it does."""
    if not runner._resume or runner._load_from is None:
        return None
    path = Path(runner._load_from)
    own = path.is_file() and path.resolve().parent == Path(folder).resolve()
    return Path(folder, path.name) if own else None


def _worth_saving(runner: Runner, name: str) -> bool:
    names = non_finite_parameters(runner.model)
    if names:
        runner.logger.warning(
            f'{name} is not written: {len(names)} parameters are not finite, such as {names[0]}'
        )
    return not names
