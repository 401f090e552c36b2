"""A fine-tuning in a folder: goes on after a stop, keeps best and last weights, and reports."""

import dataclasses
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from openvla_ros.action_space.dataset_profile import PROFILE_FILE
from openvla_ros.core.strict_config import ConfigError
from openvla_ros.data.data_set_writer import write_profile
from openvla_ros.training.checkpoint_copy import copy_checkpoint
from openvla_ros.training.examples import Batch, make_batch
from openvla_ros.training.fine_tuning import FineTuning, StepReport
from openvla_ros.training.fine_tuning_settings import SETTINGS_FILE, Settings
from openvla_ros.training.held_out import Metrics, evaluate, predicted_tokens
from openvla_ros.training.loss_plot import draw_progress
from openvla_ros.training.mixture import ExampleMaker, Mixture, Source, robot_sources
from openvla_ros.training.new_adapter import adapter_tensors, write_adapter
from openvla_ros.training.statistics import write_statistics

STATE_FILE = 'state.pt'
PROGRESS_FILE = 'progress.jsonl'
REPORT_FILE = 'report.md'
PLOT_FILE = 'progress.png'
#: Beside the folder's own adapter, which is the best; of other strategies both are folders.
LAST, BEST = 'last', 'best'


class FineTuningRun:
    """Trains from where its folder stands to the last step."""

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        tuning: FineTuning,
        mixture: Mixture,
        maker: ExampleMaker,
        base: Path,
        say: Callable[[str], None],
    ) -> None:
        """Open the folder, or go on in it.

        Args:
            folder: Of the run.
            settings: As ``check_folder`` has accepted them.
            tuning: Network and optimizer.
            mixture: Order of the examples.
            maker: Makes them.
            base: Folder of the checkpoint.
            say: Called with each line for a person.
        """
        self.folder, self.settings, self.tuning = folder, settings, tuning
        self._mixture, self._maker, self._base, self._say = mixture, maker, base, say
        self._rows: list[dict[str, Any]] = []
        self._best = float('inf')
        self._writes = tuning.processes.first
        if self._writes:
            folder.mkdir(parents=True, exist_ok=True)
            content = json.dumps(dataclasses.asdict(settings), indent=2) + '\n'
            (folder / SETTINGS_FILE).write_text(content, encoding='utf-8')
        if (folder / STATE_FILE).is_file():
            self._restore()

    def train(self) -> Metrics | None:
        """Train to the end; return how the last weights do on held-out frames, if there are."""
        first, began_s = self.tuning.step_number, time.monotonic()
        metrics = None
        if first == 0 and self._writes:
            metrics = self._judge(0)
        with ThreadPoolExecutor(1) as pool:
            coming = self._ahead(pool, first)
            while self.tuning.step_number < self.settings.steps:
                number = self.tuning.step_number
                parts = coming.result()
                coming = self._ahead(pool, number + 1)
                self._note(self.tuning.step(parts), number + 1, first, began_s)
                metrics = self._after(number + 1) or metrics
        if self._writes:
            self._report()
        self.tuning.processes.wait()
        return metrics

    def predict(
        self, source: Source, frames: Sequence[int]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Tokens int64[N,D] that training predicts for frames as they are, and the true ones."""
        predicted, wanted = [], []
        for at in range(0, len(frames), self.settings.micro_batch):
            part = frames[at : at + self.settings.micro_batch]
            examples = [self._maker.plain(source, frame) for frame in part]
            tokens = predicted_tokens(self.tuning, self._batch(examples))
            predicted.append(tokens[0])
            wanted.append(tokens[1])
        return np.concatenate(predicted), np.concatenate(wanted)

    def add_to_report(self, sentence: str) -> None:
        """Put a sentence at the end of the report."""
        with (self.folder / REPORT_FILE).open('a', encoding='utf-8') as file:
            file.write(f'\n{sentence}\n')

    def _ahead(self, pool: ThreadPoolExecutor, number: int) -> Future[list[Batch]]:
        """Prepare the next step's images while this one is computed."""
        return pool.submit(self._parts if number < self.settings.steps else _nothing, number)

    def _parts(self, number: int) -> list[Batch]:
        """This process's share of step ``number``, counted from 0, in micro-batches."""
        start, size = number * self.settings.batch, self.settings.batch
        processes = self.tuning.processes
        examples = []
        for i, (source, frame) in enumerate(self._mixture.rows(start, start + size)):
            if i % processes.count != processes.rank:
                continue
            rng = np.random.default_rng([self.settings.seed, 3, start + i])
            examples.append(
                self._maker.training(self._mixture.sources[int(source)], int(frame), rng)
            )
        step = self.settings.micro_batch
        return [self._batch(examples[at : at + step]) for at in range(0, len(examples), step)]

    def _batch(self, examples: list[Any]) -> Batch:
        config = self.tuning.model.config
        pad_id = int(config.raw.get('pad_token_id', config.vocab_size))
        return make_batch(examples, self.tuning.model.image_spec, pad_id)

    def _note(self, report: StepReport, step: int, first: int, began_s: float) -> None:
        seconds = (time.monotonic() - began_s) / (step - first)
        row = {'step': step, **dataclasses.asdict(report), 'seconds_per_step': seconds}
        self._rows.append(row)
        if step % 10 == 0 or step == self.settings.steps or step == first + 1:
            left = seconds * (self.settings.steps - step) / 60.0
            self._say(
                f'step {step}/{self.settings.steps}: loss {report.loss:.4f}, tokens right '
                f'{100 * report.accuracy:.1f} %, gradient {report.gradient_norm:.2f}, '
                f'{self.settings.batch / seconds:.1f} images/s, {left:.0f} min left'
            )

    def _after(self, step: int) -> Metrics | None:
        """Judge and save where it is due."""
        settings, metrics = self.settings, None
        last = step == settings.steps
        if not self._writes:
            return None
        if last or step % settings.evaluate_every == 0:
            metrics = self._judge(step)
            if metrics is None or metrics.loss < self._best:
                self._best = metrics.loss if metrics else self._best
                self._write_weights(BEST)
        if last:
            self._write_weights(LAST)
        if last or step % settings.save_every == 0:
            self._save()  # at the very end: a run that is stopped before does it all again
        return metrics

    def _judge(self, step: int) -> Metrics | None:
        """How the network does on held-out frames; None where there are none."""
        batches = list(self._held_out())
        if not batches:
            return None
        metrics = evaluate(self.tuning, batches)
        self._rows.append({'step': step, 'held_out': dataclasses.asdict(metrics)})
        self._say(f'held out, step {step}: {metrics}')
        return metrics

    def _held_out(self) -> Iterator[tuple[Batch, float]]:
        robot = robot_sources(self._mixture.sources)
        sources = [(source, data) for source, data in robot if len(source.held_out)]
        for source, data in sources:
            most = max(1, self.settings.held_out_frames // len(sources))
            places = np.linspace(0, len(source.held_out) - 1, min(most, len(source.held_out)))
            frames = source.held_out[np.unique(np.rint(places).astype(int))]
            gripper = data.profile.gripper
            for at in range(0, len(frames), self.settings.micro_batch):
                part = frames[at : at + self.settings.micro_batch]
                examples = [self._maker.plain(source, int(frame)) for frame in part]
                yield self._batch(examples), abs(gripper.open_value - gripper.closed_value)

    def _save(self) -> None:
        """Write the state; the file is whole or the old one."""
        partial = self.folder / f'.{STATE_FILE}.partial'
        torch.save({**self.tuning.state(), 'best': self._best}, partial)
        with (self.folder / PROGRESS_FILE).open('w', encoding='utf-8') as file:
            file.writelines(json.dumps(row) + '\n' for row in self._rows)
        partial.replace(self.folder / STATE_FILE)

    def _restore(self) -> None:
        path = self.folder / STATE_FILE
        try:
            state = torch.load(path, weights_only=True)
            self.tuning.restore(state)
        except Exception as error:  # torch.load raises what the damaged file makes it raise
            raise ConfigError(
                f'{path}: cannot be gone on with ({" ".join(str(error).split())[:160]}); take '
                'another --out'
            ) from error
        self._best = float(state['best'])
        lines = (self.folder / PROGRESS_FILE).read_text(encoding='utf-8').splitlines()
        rows = [json.loads(line) for line in lines]
        self._rows = [row for row in rows if row['step'] <= self.tuning.step_number]
        self._say(f'going on from step {self.tuning.step_number}')

    def _write_weights(self, name: str) -> None:
        """Write what a policy needs: the adapter or the checkpoint, statistics and conventions."""
        lora = self.settings.strategy == 'lora'
        target = self.folder if lora and name == BEST else self.folder / name
        if lora:
            target.mkdir(exist_ok=True)
            write_adapter(
                adapter_tensors(self.tuning.model),
                target,
                rank=self.settings.rank,
                alpha=self.settings.alpha,
                base=self.settings.checkpoint,
            )
            write_statistics(target, self._maker.norm_stats)
        else:
            self._replace_checkpoint(target)
        profile = next(iter(self._maker.profiles.values()))
        write_profile(profile, target / PROFILE_FILE)

    def _replace_checkpoint(self, target: Path) -> None:
        trained = self.tuning.trained
        old, fresh = target.with_name(f'.{target.name}.old'), target.with_name(f'.{target.name}')
        for left in (old, fresh):  # of a run that was killed here
            shutil.rmtree(left, ignore_errors=True)
        for note in copy_checkpoint(
            self._base,
            fresh,
            lambda name, value: trained[name].detach().cpu() if name in trained else value,
            self._maker.norm_stats,
        ):
            self._say(note)
        if target.exists():
            target.rename(old)
        fresh.rename(target)
        shutil.rmtree(old, ignore_errors=True)

    def _report(self) -> None:
        draw_progress(self._rows, self.folder / PLOT_FILE)
        trained = sum(p.numel() for p in self.tuning.trained.values())
        judged = [row for row in self._rows if 'held_out' in row]
        lines = [f'# Fine-tuning of {self.settings.checkpoint}', '', '| setting | value |']
        lines += ['|---|---|']
        lines += [f'| {k} | {v} |' for k, v in dataclasses.asdict(self.settings).items()]
        lines += ['', f'{trained} parameters were trained, {len(self._mixture)} frames an epoch.']
        if not judged:
            lines += ['', 'No episode was held out, so nothing is known about other scenes.']
        else:
            lines += ['', '| step | loss | tokens right | L1 | gripper right |']
            lines += ['|---|---|---|---|---|', *map(_table_row, judged)]
            lines += ['', 'Held-out episodes; every token predicted from the true ones before it.']
        lines += ['', f'![progress]({PLOT_FILE})', '']
        (self.folder / REPORT_FILE).write_text('\n'.join(lines), encoding='utf-8')


def _table_row(row: Mapping[str, Any]) -> str:
    m = row['held_out']
    return (
        f'| {row["step"]} | {m["loss"]:.4f} | {100 * m["token_accuracy"]:.1f} % | {m["l1"]:.4f} | '
        f'{100 * m["gripper_accuracy"]:.1f} % |'
    )


def _nothing(number: int) -> list[Batch]:
    return []
