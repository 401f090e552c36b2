"""The course of a fine-tuning as a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use('Agg')

import matplotlib.pyplot as plt


def draw_progress(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw loss and accuracy over steps.

    Args:
        rows: Lines of progress.jsonl; those of held-out examples have the key 'held_out'.
        path: PNG to write.
    """
    trained = [row for row in rows if 'held_out' not in row]
    held_out = [row for row in rows if 'held_out' in row]
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
    steps = [row['step'] for row in trained]
    left.plot(steps, [row['loss'] for row in trained], label='training')
    right.plot(steps, [row['accuracy'] for row in trained], label='training, with </s>')
    steps = [row['step'] for row in held_out]
    left.plot(steps, [row['held_out']['loss'] for row in held_out], 'o-', label='held out')
    accuracy = [row['held_out']['token_accuracy'] for row in held_out]
    right.plot(steps, accuracy, 'o-', label='held out, action tokens')
    left.set(xlabel='step', ylabel='cross-entropy')
    right.set(xlabel='step', ylabel='part of tokens right', ylim=(0.0, 1.02))
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)
